"""Generated worlds, for which no file is needed: the encyclopaedia, the toy and the diagnostics."""
