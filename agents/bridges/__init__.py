"""The environment and its models in other trainers."""
