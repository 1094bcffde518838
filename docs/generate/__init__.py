"""What the site is made from, beside the pages written by hand: one module a kind of page.

A module offers `pages() -> list[Page]`, the first of which opens its section; `contents.py` says which modules there are, and `mkdocs.yml`
places a section in the navigation by `NAME: folder/*`. `hook.py` is what mkdocs runs, `extension.py` what mkdocstrings asks how to read a
docstring; nothing else here needs them.
"""
