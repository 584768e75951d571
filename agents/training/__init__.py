"""The training run: steps, phases, checkpoints, monitors."""
