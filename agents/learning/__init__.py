"""Gradient steps: packing, log-probabilities, losses, optimizers, several processes."""
