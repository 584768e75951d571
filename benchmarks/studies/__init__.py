"""Experiments whose results are committed: learning, sweeps."""
