"""Rows of the vector environment and of an engine, advanced together, one token a row at a time.

A row whose episode ended begins the next one of the source at once. The ids that the policy sampled
are the ids that the environment gets; nothing is decoded or encoded here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from search_env.agents.errors import ContextLengthError
from search_env.agents.rollouts.episode_queue import EpisodeSource, PlannedEpisode
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import ConfigurationError
from search_env.recording.revise.bans import forbidden_ids
from search_env.types import Transcript

if TYPE_CHECKING:
    from search_env.agents.inference.rollout_engine import (
        Decoded,
        ForbiddingEngine,
        RolloutEngine,
    )
    from search_env.envs.search_qa import EnvState

TIMES = ("environment", "retrieval", "prefill", "decode")
_NO_LIMIT = np.iinfo(np.int64).max


@dataclass(slots=True)
class Timer:
    """Sums of wall time by name."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TIMES, 0.0))
    _last: float = field(default_factory=time.perf_counter)

    def add(self, name: str) -> None:
        """Add the time since the last call."""
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        self._last = now


class Player:
    """Plays the episodes of a source; subclasses keep what they need of them.

    The environment has ``autoreset_mode="Disabled"``, the engine at least as many rows and tokens.
    It forbids ids, if episodes have bans.
    """

    def __init__(
        self, envs: SearchQAVectorEnv, engine: RolloutEngine, source: EpisodeSource
    ) -> None:
        rows = envs.num_envs
        self._envs, self._engine, self._source = envs, engine, source
        self._episodes: dict[int, PlannedEpisode] = {}  # those under way, by row
        self._ready = np.zeros(rows, np.bool_)  # the row waits for the policy's next token
        self._length = np.zeros(rows, np.int64)
        self._sampled = np.zeros(rows, np.int64)  # tokens of the row's episode
        self._limit = np.full(rows, _NO_LIMIT)
        self._num_bans = 0  # episodes under way that have one
        self._timer = Timer()
        self._prefill_before = engine.prefill_seconds
        self.num_policy_tokens = self.num_decodes = 0

    def play(self, wait_for_all: bool = True) -> None:
        """Play all episodes; see :func:`search_env.agents.rollouts.collect.collect`."""
        try:
            self._start()
            while self._episodes:
                self._step(wait_for_all)
        finally:
            self._engine.release(range(self._envs.num_envs))

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time so far, by name; ``decode`` is all time of the engine but its prefill."""
        seconds = dict(self._timer.seconds)
        prefill = self._engine.prefill_seconds - self._prefill_before
        return {**seconds, "prefill": prefill, "decode": seconds["decode"] - prefill}

    # What subclasses may keep.

    def _begun(self, rows: list[int]) -> None:
        """Take rows that have begun an episode."""

    def _decoded(self, rows: NDArray[np.intp], decoded: Decoded) -> None:
        """Take the next token of some rows, before the environment gets it."""

    def _finished(
        self,
        row: int,
        episode: PlannedEpisode,
        transcript: Transcript,
        reward: float,
        infos: Mapping[str, Any],
    ) -> None:
        """Take an episode that has ended."""

    # The loop.

    def _start(self) -> None:
        """Begin the first episodes; rows without one are reset too and stay idle."""
        rows = self._envs.num_envs
        episodes = self._source.take(rows, 0)
        chosen = list(range(len(episodes)))
        obs, _ = self._envs.reset(seed=0, options=_options(rows, chosen, episodes))
        self._begin(chosen, episodes, obs)

    def _step(self, wait_for_all: bool) -> None:
        """Write a token in every row that is ready, and process what the environment returns."""
        rows = np.flatnonzero(self._ready)
        if len(rows):
            self._decode(rows)
        self._timer.add("decode")
        min_ready = len(self._episodes) if wait_for_all else 1
        obs, rewards, terminated, truncated, infos = self._envs.recv(min_ready)
        self._timer.add("retrieval" if "_document_ids" in infos else "environment")
        self._process(obs, rewards, terminated | truncated, infos)

    def _decode(self, rows: NDArray[np.intp]) -> None:
        decoded = self._sample(rows)
        self._decoded(rows, decoded)
        self._sampled[rows] += 1
        self.num_policy_tokens += len(rows)
        self.num_decodes += 1
        self._ready[rows] = False
        self._timer.add("decode")
        self._envs.send(decoded.ids, rows)
        self._timer.add("environment")

    def _sample(self, rows: NDArray[np.intp]) -> Decoded:
        """Decode rows, those with a ban without the ids that it forbids."""
        if not self._num_bans:
            return self._engine.decode(rows)
        bans = [self._episodes[row].ban for row in rows.tolist()]
        forbidden, engine = forbidden_ids(bans), self._engine
        if forbidden is None:
            decoded = engine.decode(rows)
        else:
            forbidding: ForbiddingEngine = engine  # type: ignore[assignment]
            decoded = forbidding.decode(rows, forbidden)
        for ban, token in zip(bans, decoded.ids.tolist(), strict=True):
            if ban is not None and not ban.is_over:
                ban.advance(token)
                self._num_bans -= ban.is_over
        return decoded

    def _process(
        self,
        obs: Mapping[str, Any],
        rewards: NDArray[np.float64],
        ended: NDArray[np.bool_],
        infos: Mapping[str, Any],
    ) -> None:
        """Pass inserted tokens to the engine; close episodes that ended and begin the next."""
        ready: NDArray[np.bool_] = infos["ready"]
        length, is_running = obs["length"].ravel(), ready & ~ended
        cut = is_running & (self._sampled >= self._limit)
        is_running &= ~cut
        has_documents = np.flatnonzero(is_running & (length > self._length + 1))
        if len(has_documents):
            inserted = [
                obs["tokens"][row, self._length[row] + 1 : length[row]].copy()
                for row in has_documents
            ]
            self._engine.insert(has_documents, inserted)
        self._length[ready] = length[ready]
        self._ready[is_running] = True
        done = np.flatnonzero(ready & ended).tolist()
        for row in done:
            episode, transcript = self._close(row), self._envs.transcripts[row]
            self._finished(row, episode, transcript, float(rewards[row]), infos)
            self._source.ended(episode, transcript)
        for row in np.flatnonzero(cut).tolist():
            self._source.ended(self._close(row), self._envs.transcript(row))
            done.append(row)
        if done:
            self._engine.release(done)
            self._begin_next()
        self._timer.add("environment")

    def _close(self, row: int) -> PlannedEpisode:
        episode = self._episodes.pop(row)
        self._num_bans -= episode.ban is not None and not episode.ban.is_over
        return episode

    def _begin_next(self) -> None:
        """Begin episodes in all rows that are free."""
        free = [row for row in range(self._envs.num_envs) if row not in self._episodes]
        episodes = self._source.take(len(free), self.num_policy_tokens)
        if not episodes:
            return
        rows = free[: len(episodes)]
        mask = np.zeros(self._envs.num_envs, np.bool_)
        mask[rows] = True
        options = _options(len(mask), rows, episodes)
        obs, _ = self._envs.reset(options={**options, "reset_mask": mask})
        self._begin(rows, episodes, obs)

    def _begin(
        self, rows: list[int], episodes: Sequence[PlannedEpisode], obs: Mapping[str, Any]
    ) -> None:
        self._length[rows] = obs["length"].ravel()[rows]
        self._sampled[rows] = 0
        self._limit[rows] = [_NO_LIMIT if e.limit is None else e.limit for e in episodes]
        self._num_bans += sum(e.ban is not None and not e.ban.is_over for e in episodes)
        self._begun(rows)
        self._episodes.update(zip(rows, episodes, strict=True))
        self._ready[rows] = True
        prompts = [obs["tokens"][row, : self._length[row]].copy() for row in rows]
        self._timer.add("environment")
        if rows:
            self._engine.begin(rows, prompts, [episode.seed for episode in episodes])
        self._timer.add("decode")


def _options(count: int, rows: Sequence[int], episodes: Sequence[PlannedEpisode]) -> dict[str, Any]:
    """Return the options of a reset with which these rows of ``count`` begin the episodes."""
    index = np.full(count, episodes[0].question if episodes else 0, np.int64)
    states: list[EnvState | None] = [None] * count
    index[rows] = [episode.question for episode in episodes]
    options: dict[str, Any] = {"index": index}
    for row, episode in zip(rows, episodes, strict=True):
        if episode.state is not None:
            states[row] = episode.state
            options["state"] = states
    return options


def check_rows(envs: SearchQAVectorEnv, engine: RolloutEngine) -> None:
    """Check that an environment and an engine can play together.

    Raises:
        ConfigurationError: Another autoreset mode, or too few rows in the engine.
        ContextLengthError: Episodes may grow longer than the engine's cache.
    """
    mode = envs.metadata["autoreset_mode"]
    if mode is not AutoresetMode.DISABLED:
        raise ConfigurationError(
            f"Expected a vector environment with autoreset_mode='Disabled', got {mode.value!r}. "
            "Pass it to gym.make_vec: this function resets a row itself when its episode ends."
        )
    if envs.num_envs > engine.rows:
        raise ConfigurationError(
            f"Expected an engine with at least {envs.num_envs} rows, got {engine.rows}. Build both "
            "with the same number."
        )
    context = envs.components.protocol.max_tokens
    if context > engine.max_tokens:
        raise ContextLengthError(
            f"Expected episodes of at most {engine.max_tokens} tokens, which the engine's rows "
            f"hold, got an environment with max_tokens={context}. Lower the environment's "
            "max_tokens, or raise the engine's."
        )
