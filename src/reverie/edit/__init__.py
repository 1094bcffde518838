"""Editing: pictures changed where they are asked to be, and kept elsewhere."""

from reverie.edit.inpaint import Inpaint, inpaint

__all__ = ["Inpaint", "inpaint"]
