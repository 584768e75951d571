"""Recordings of training episodes with signals for each token, for ``search-env view``.

Lines are those of :mod:`search_env.recording.files`; signals are ``log_prob`` (of the distribution
that the token was drawn from), ``value`` if there is a critic, and ``advantage`` if the episode was
trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search_env.agents.learning.distributed import SINGLE_RANK, Ranks
from search_env.agents.types import Trajectory
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.paths import atomic_path
from search_env.recording.files import EpisodeWriter, RecordedGroup
from search_env.types import Transcript


class Recording:
    """The episodes of one step; the environment's present reward is recorded with them."""

    def __init__(self, envs: SearchQAVectorEnv) -> None:
        self._envs, self._reward = envs, envs.reward
        self._episodes: list[tuple[Transcript, Trajectory]] = []
        self._advantages: list[tuple[Trajectory, NDArray[np.float32]]] = []

    def played(self, question: int, transcript: Transcript, trajectory: Trajectory) -> None:
        """Add a finished episode; an ``OnEpisode`` of ``collect``."""
        del question
        self._episodes.append((transcript, trajectory))

    def learnt(
        self, trajectories: Sequence[Trajectory], advantages: Sequence[NDArray[np.float32]]
    ) -> None:
        """Add the advantages of episodes; an ``OnAdvantages`` of ``update``."""
        self._advantages += zip(trajectories, advantages, strict=True)

    def write(self, path: Path, ranks: Ranks = SINGLE_RANK) -> None:
        """Write the episodes of all ranks, ordered by group; an existing file is replaced.

        The id of a group is the file's stem and the group's number in the step. All ranks must call
        this; the main one writes the file. The environment's arguments and reward need names.
        """
        ordered = sorted(self._episodes, key=lambda episode: episode[1].group)
        sizes = Counter(trajectory.group for _, trajectory in ordered)  # ranks share no group
        episodes = [
            (
                transcript,
                self._signals(trajectory),
                RecordedGroup(f"{path.stem}/{trajectory.group}", sizes[trajectory.group]),
            )
            for transcript, trajectory in ordered
        ]
        gathered = ranks.gather(episodes)
        if not ranks.is_main:
            return
        with atomic_path(path) as temporary:
            writer = EpisodeWriter(temporary, self._envs)
            for transcript, signals, group in (episode for part in gathered for episode in part):
                writer.write(transcript, reward=self._reward, signals=signals, group=group)

    def _advantage(self, trajectory: Trajectory) -> NDArray[np.float32] | None:
        # Groups may have been renumbered since; the array of ids is the same.
        matches = (a for learnt, a in self._advantages if learnt.tokens is trajectory.tokens)
        return next(matches, None)

    def _signals(self, trajectory: Trajectory) -> dict[str, NDArray[np.float32]]:
        signals = {
            "log_prob": trajectory.log_probs,
            "value": trajectory.values,
            "advantage": self._advantage(trajectory),
        }
        written = {n: s[trajectory.policy] for n, s in signals.items() if s is not None}
        return {name: signal for name, signal in written.items() if np.isfinite(signal).all()}
