"""Folders of memory-mapped arrays, and the passages in them, that all kinds of index share."""
