"""Errors of the agents, branches of the tree in :mod:`search_env.errors`.

* SearchEnvError
    * ConfigurationError (ValueError)
        * ModelMismatchError
        * ContextLengthError
    * CheckpointError (ValueError)
    * DeviceMemoryError (MemoryError)
    * NonFiniteError (ArithmeticError)
    * RewriterError (ConnectionError)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from search_env.errors import ConfigurationError, SearchEnvError


class ModelMismatchError(ConfigurationError):
    """A model does not belong to a tokenizer or checkpoint, or has an unsupported architecture."""


class ContextLengthError(ConfigurationError):
    """A sequence is longer than the model's context or the engine's cache."""


class CheckpointError(SearchEnvError, ValueError):
    """A checkpoint is damaged, incomplete or of another version."""


class DeviceMemoryError(SearchEnvError, MemoryError):
    """Memory ran out; the message says which setting to lower."""


class NonFiniteError(SearchEnvError, ArithmeticError):
    """A loss, gradient or log-probability is NaN or infinite; no weight was changed."""


class RewriterError(SearchEnvError, ConnectionError):
    """An endpoint that rewrites rollouts cannot be reached, refuses, or replies with no text."""


@contextmanager
def memory_errors(expected: str, advice: str) -> Iterator[None]:
    """Raise a device's own out-of-memory error as a DeviceMemoryError.

    It says what was expected to fit into memory, and advises what to lower.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        import torch  # not above: commands that need no torch import this module

        out = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not out and "allocate memory" not in str(error):  # the latter is torch's on a CPU
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DeviceMemoryError(f"Expected {expected}, got: {reason} {advice}") from error
