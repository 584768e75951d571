"""An engine that begins every episode in the same way: a policy that is forced to search.

What a base model can do and what it does are two things. Forced to begin as episodes that search
begin, it shows what it reads and answers; only what training adds to that score is more than the
decision to search.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search_env.agents.inference.rollout_engine import (
    AnyTokenIds,
    Decoded,
    RolloutEngine,
    Rows,
    Weights,
)
from search_env.errors import ConfigurationError


class OpeningEngine:
    """A :class:`~search_env.agents.inference.rollout_engine.RolloutEngine` around another.

    The first tokens that the policy writes in each episode are given; the inner engine samples all
    others. Given tokens have the log-probability 0, so episodes are for evaluation, not for
    learning.

    Args:
        engine: Samples the rest.
        opening: The ids that each episode begins with, at least one.

    Raises:
        ConfigurationError: There is no id.
    """

    def __init__(self, engine: RolloutEngine, opening: NDArray[np.integer]) -> None:
        self._opening: NDArray[np.int64] = np.asarray(opening, np.int64).reshape(-1)
        if not len(self._opening):
            raise ConfigurationError(
                "Expected at least one id to begin with, got none. Use the engine as it is."
            )
        self._engine = engine
        self._given = np.full(engine.rows, len(self._opening))  # tokens of the opening so far
        self.rows, self.max_tokens, self.sampling = engine.rows, engine.max_tokens, engine.sampling
        self.has_log_probs = engine.has_log_probs

    @property
    def weights_version(self) -> int:
        """Version of the inner engine's weights."""
        return self._engine.weights_version

    @property
    def prefill_seconds(self) -> float:
        """Seconds of the inner engine."""
        return self._engine.prefill_seconds

    def begin(self, rows: Rows, prompts: Sequence[AnyTokenIds], seeds: Sequence[int]) -> None:
        """Begin new sequences; the opening follows each prompt."""
        self._engine.begin(rows, prompts, seeds)
        self._given[np.asarray(rows, np.int64)] = 0

    def insert(self, rows: Rows, tokens: Sequence[AnyTokenIds]) -> None:
        """Append ids that the policy did not write."""
        self._engine.insert(rows, tokens)

    def decode(self, rows: Rows) -> Decoded:
        """Return the opening's next id for rows that are in it, and sample in the others."""
        index = np.asarray(rows, np.int64).reshape(-1)
        is_given = self._given[index] < len(self._opening)
        ids, log_probs = np.zeros(len(index), np.int64), np.zeros(len(index), np.float32)
        given = index[is_given]
        ids[is_given] = self._opening[self._given[given]]
        self._engine.insert(given, list(ids[is_given, None]))
        self._given[given] += 1
        if not is_given.all():
            sampled = self._engine.decode(index[~is_given])
            ids[~is_given], log_probs[~is_given] = sampled.ids, sampled.log_probs
        return Decoded(ids, log_probs, None)

    def release(self, rows: Rows) -> None:
        """End the sequences of rows."""
        self._engine.release(rows)

    def update_weights(self, weights: Weights, version: int) -> None:
        """Pass new weights to the inner engine."""
        self._engine.update_weights(weights, version)
