"""Scores of any agent on any question set, and of outputs that other systems left."""
