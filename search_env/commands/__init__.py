"""Commands of ``search-env`` that are loaded when they are called, one a module."""
