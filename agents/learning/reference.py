"""The frozen reference model that a KL penalty is measured against."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from search_env.agents.learning.master_weights import arrange
from search_env.agents.learning.precision import Dtype
from search_env.errors import ConfigurationError


class Reference:
    """A model as it was when this was made.

    With adapters of peft the reference is the model with them disabled, so nothing is copied.
    ``enabled=False`` copies nothing: then only a model with adapters has a reference.
    """

    def __init__(
        self, model: PreTrainedModel, dtype: Dtype, *, enabled: bool, sharded: bool
    ) -> None:
        self._trained = model
        self._has_adapters = hasattr(model, "disable_adapter")
        self._copy = None
        if enabled and not self._has_adapters:
            self._copy = copy.deepcopy(model)
            self._copy.requires_grad_(False)
            arrange(self._copy, dtype, sharded=sharded)

    @contextmanager
    def model(self) -> Iterator[PreTrainedModel]:
        """Yield the reference model, or raise ConfigurationError if there is none."""
        if self._has_adapters:
            with self._trained.disable_adapter():  # type: ignore[operator]
                yield self._trained
        elif self._copy is None:
            raise ConfigurationError(
                "Expected a reference model, got none. Make the learner with reference=True."
            )
        else:
            yield self._copy
