"""Engines that write parts of each episode as given: a policy that is forced to search, or not to.

What a base model can do and what it does are two things. Forced to begin as episodes that search
begin, it shows what it reads and answers; only what training adds to that score is more than the
decision to search. Forced to search for the question as it stands and then to answer, it is a
reader behind one plain search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


class ScriptedEngine:
    """A :class:`~search_env.agents.inference.rollout_engine.RolloutEngine` around another.

    Some tokens of each episode are given; the inner engine samples all others. Given tokens have
    the log-probability 0, so episodes are for evaluation, not for learning.

    Args:
        engine: Samples the rest.
        script: From a prompt to the pieces that are given: the first follows the prompt, each
            further one the next text that the environment inserts, such as documents. Pieces may
            be empty, and there may be none.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        script: Callable[[AnyTokenIds], Sequence[NDArray[np.integer]]],
    ) -> None:
        self._engine, self._script = engine, script
        self._given: list[list[int]] = [[] for _ in range(engine.rows)]  # the rest of a piece
        self._later: list[list[list[int]]] = [[] for _ in range(engine.rows)]
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
        """Begin new sequences; the first piece of each script follows its prompt."""
        self._engine.begin(rows, prompts, seeds)
        for row, prompt in zip(
            np.asarray(rows, np.int64).reshape(-1).tolist(), prompts, strict=True
        ):
            first, *later = [np.asarray(ids).tolist() for ids in self._script(prompt)] or [[]]
            self._given[row], self._later[row] = first, later

    def insert(self, rows: Rows, tokens: Sequence[AnyTokenIds]) -> None:
        """Append ids that the policy did not write; the next piece follows them."""
        self._engine.insert(rows, tokens)
        for row, ids in zip(np.asarray(rows, np.int64).reshape(-1).tolist(), tokens, strict=True):
            if len(ids) and self._later[row]:
                self._given[row] = self._later[row].pop(0)

    def decode(self, rows: Rows) -> Decoded:
        """Return the next given id for rows that have one, and sample in the others."""
        index = np.asarray(rows, np.int64).reshape(-1)
        is_given = np.array([bool(self._given[row]) for row in index.tolist()], bool)
        ids, log_probs = np.zeros(len(index), np.int64), np.zeros(len(index), np.float32)
        given = index[is_given]
        ids[is_given] = [self._given[row].pop(0) for row in given.tolist()]
        self._engine.insert(given, list(ids[is_given, None]))
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


class OpeningEngine(ScriptedEngine):
    """A :class:`ScriptedEngine` in which all episodes begin with the same ids.

    Args:
        engine: Samples the rest.
        opening: The ids that each episode begins with, at least one.

    Raises:
        ConfigurationError: There is no id.
    """

    def __init__(self, engine: RolloutEngine, opening: NDArray[np.integer]) -> None:
        ids: NDArray[np.int64] = np.asarray(opening, np.int64).reshape(-1)
        if not len(ids):
            raise ConfigurationError(
                "Expected at least one id to begin with, got none. Use the engine as it is."
            )
        super().__init__(engine, lambda prompt: [ids])
