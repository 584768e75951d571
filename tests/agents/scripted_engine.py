"""Engines without a model: what they write is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray


@dataclass
class _Decoded:
    ids: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    values: NDArray[np.float32] | None


@dataclass
class ScriptedEngine:
    """Writes a row's own random ids, each with a log-probability that tells where it stands."""

    rows: int
    size: int
    max_tokens: int = 16
    critic: bool = False
    inserted: list[tuple[int, list[int]]] = field(default_factory=list)
    timings: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(prefill_seconds=0.0))

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
        return _Decoded(ids, log_probs, 10 * log_probs if self.critic else None)

    def release(self, rows):
        self.released.update(int(row) for row in rows)
