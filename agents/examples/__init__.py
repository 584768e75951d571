"""Algorithms in one file each, read top to bottom: to learn from, and to start your own from."""
