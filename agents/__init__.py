"""Agents for :mod:`search_env`. Scripted ones need nothing more; those that learn need torch."""
