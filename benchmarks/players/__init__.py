"""Agents of any origin that play whole question sets."""
