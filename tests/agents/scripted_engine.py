"""Engines without a model: what they write is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from search_env.agents.inference.rollout_engine import Decoded
from search_env.agents.inference.sampling import Sampling


@dataclass
class ScriptedEngine:
    """Writes a row's own random ids, each with a log-probability that tells where it stands."""

    rows: int
    size: int
    max_tokens: int = 16
    critic: bool = False
    inserted: list[tuple[int, list[int]]] = field(default_factory=list)
    sampling: Sampling = field(default_factory=Sampling)
    has_log_probs: bool = True
    weights_version: int = 0
    prefill_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.lengths = np.zeros(self.rows, np.int64)
        self.random = [np.random.default_rng(0)] * self.rows
        self.released: set[int] = set(range(self.rows))

    def begin(self, rows, prompts, seeds):
        for row, prompt, seed in zip(rows, prompts, seeds, strict=True):
            assert row in self.released
            self.released.discard(row)
            self.lengths[row] = len(prompt)
            self.random[row] = np.random.default_rng(seed)

    def insert(self, rows, tokens):
        for row, ids in zip(rows, tokens, strict=True):
            self.inserted.append((int(row), ids.tolist()))
            self.lengths[row] += len(ids)

    def decode(self, rows):
        ids = np.array([self.random[row].integers(self.size) for row in rows])
        log_probs = -self.lengths[rows].astype(np.float32)
        self.lengths[rows] += 1
        return Decoded(ids, log_probs, 10 * log_probs if self.critic else None)

    def release(self, rows):
        self.released.update(int(row) for row in rows)

    def update_weights(self, weights, version):
        self.weights_version = version
