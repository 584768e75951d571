"""Commands that need a language model."""
