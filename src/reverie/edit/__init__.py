"""Editing: pictures changed where they are asked to be, and kept elsewhere."""

from reverie.edit.ascent import ascent
from reverie.edit.dci import dci
from reverie.edit.edit_friendly import Extracted, edit_friendly
from reverie.edit.inpaint import Inpaint, inpaint
from reverie.edit.null_text import NullText, null_text

__all__ = ["Extracted", "Inpaint", "NullText", "ascent", "dci", "edit_friendly", "inpaint", "null_text"]
