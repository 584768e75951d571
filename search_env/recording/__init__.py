"""Recorded episodes: their format, files of them, replay and rescoring."""
