"""The command line, one command per file; :mod:`.main` has the table of all commands."""
