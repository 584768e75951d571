"""The command line, one command a file; :mod:`.main` has the table of all."""
