"""Experiments whose results are committed: learning, sweeps, training at size."""
