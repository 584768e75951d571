"""Agents without a language model; they need no torch."""
