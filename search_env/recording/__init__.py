"""Episodes in files: what a record holds, reading and writing, executing again."""
