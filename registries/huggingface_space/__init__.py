"""Search-augmented question answering; clients need openenv alone: ``GenericEnvClient``."""
