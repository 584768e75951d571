"""Sampling: an engine with one key-value cache for rows of their own lengths."""
