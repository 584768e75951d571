"""Generated worlds, which need no files: the encyclopaedia, the toy and the diagnostics."""
