"""Question sets, one a file, and their registry."""
