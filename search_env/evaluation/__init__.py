"""Scores of any agent on any question set, and of outputs of other systems."""
