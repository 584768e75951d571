"""Errors of the agents, branches of the tree in :mod:`search_env.errors`.

* SearchEnvError
    * ConfigurationError (ValueError)
        * ModelMismatchError
        * ContextLengthError
    * CheckpointError (ValueError)
    * DeviceMemoryError (MemoryError)
    * NonFiniteError (ArithmeticError)
"""

from __future__ import annotations

from search_env.errors import ConfigurationError, SearchEnvError


class ModelMismatchError(ConfigurationError):
    """A model and a tokenizer, or a model and a checkpoint, do not belong together."""


class ContextLengthError(ConfigurationError):
    """A sequence is longer than the model's context or the engine's cache."""


class CheckpointError(SearchEnvError, ValueError):
    """A checkpoint is damaged, incomplete or of another version."""


class DeviceMemoryError(SearchEnvError, MemoryError):
    """Memory ran out; the message says which setting to lower."""


class NonFiniteError(SearchEnvError, ArithmeticError):
    """A loss or a gradient is NaN or infinite; nothing was changed by it."""
