"""Supervised learning: demonstrations, fine-tuning, the stages that made the base model."""
