"""Recordings of training episodes with what was learnt from each token, for ``search-env view``.

A line is that of :mod:`search_env.recording.files`; its signals are ``log_prob`` (of the
distribution that the token was drawn from), ``value`` where there is a critic, and ``advantage``
where the episode was learnt from.
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
    """The episodes of one step.

    Args:
        envs: That they are played in; its present reward is the one that is noted.
    """

    def __init__(self, envs: SearchQAVectorEnv) -> None:
        self._envs, self._reward = envs, envs.reward
        self._episodes: list[tuple[Transcript, Trajectory]] = []
        self._advantages: list[tuple[Trajectory, NDArray[np.float32]]] = []

    def played(self, question: int, transcript: Transcript, trajectory: Trajectory) -> None:
        """Take in a finished episode; as :data:`search_env.agents.rollouts.collect.OnEpisode`."""
        del question
        self._episodes.append((transcript, trajectory))

    def learnt(
        self, trajectories: Sequence[Trajectory], advantages: Sequence[NDArray[np.float32]]
    ) -> None:
        """Take in what episodes were worth; an ``OnAdvantages`` of ``update``."""
        self._advantages += zip(trajectories, advantages, strict=True)

    def write(self, path: Path, ranks: Ranks = SINGLE_RANK) -> None:
        """Write all ranks' episodes, groups together, to a new file or in place of what is there.

        The id of a group is the file's stem and the group's number in the step.

        Args:
            path: The file; the main rank writes it.
            ranks: The processes that train together, all of which must call.

        Raises:
            ConfigurationError: The environment's arguments or its reward have no names.
        """
        ordered = sorted(self._episodes, key=lambda episode: episode[1].group)
        sizes = Counter(trajectory.group for _, trajectory in ordered)  # ranks share no group
        own = [
            (
                transcript,
                self._signals(trajectory),
                RecordedGroup(f"{path.stem}/{trajectory.group}", sizes[trajectory.group]),
            )
            for transcript, trajectory in ordered
        ]
        gathered = ranks.gather(own)
        if not ranks.is_main:
            return
        with atomic_path(path) as temporary:
            writer = EpisodeWriter(temporary, self._envs)
            for transcript, signals, group in (episode for part in gathered for episode in part):
                writer.write(transcript, reward=self._reward, signals=signals, group=group)

    def _advantage(self, trajectory: Trajectory) -> NDArray[np.float32] | None:
        # Groups may have been given other numbers since; the array of ids is the same.
        found = (a for learnt, a in self._advantages if learnt.tokens is trajectory.tokens)
        return next(found, None)

    def _signals(self, trajectory: Trajectory) -> dict[str, NDArray[np.float32]]:
        known = {
            "log_prob": trajectory.log_probs,
            "value": trajectory.values,
            "advantage": self._advantage(trajectory),
        }
        written = {n: of[trajectory.policy] for n, of in known.items() if of is not None}
        return {name: of for name, of in written.items() if np.isfinite(of).all()}
