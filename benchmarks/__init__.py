"""Measurements whose results are committed: scripts, and what several of them share."""
