"""Finished episodes, kept until their group is complete where a group reward is paid."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from search_env.agents.types import Trajectory
from search_env.rewards import GroupReward, Score, group_scores
from search_env.types import Transcript


class Finished(NamedTuple):
    """A finished episode, as it was played and as the learner takes it."""

    order: int  # its place among all episodes of the collection
    question: int  # index
    transcript: Transcript
    trajectory: Trajectory


class WholeGroups:
    """Returns episodes in groups of ``size``, or each at once where there is no group reward."""

    def __init__(self, reward: GroupReward | None, size: int) -> None:
        self._reward, self._size = reward, size
        self._waiting: dict[int, list[Finished]] = {}

    def take(self, finished: Finished) -> list[Finished]:
        """Return the episodes of the group that this one completes, with the group reward added."""
        if self._reward is None:
            return [finished]
        group = self._waiting.setdefault(finished.trajectory.group, [])
        group.append(finished)
        if len(group) < self._size:
            return []
        del self._waiting[finished.trajectory.group]
        group.sort(key=lambda member: member.order)  # so that sums do not depend on arrival
        scores = group_scores(
            self._reward,
            [member.transcript for member in group],
            [Score(member.trajectory.reward, member.trajectory.reward_parts) for member in group],
        )
        return [
            f._replace(trajectory=replace(f.trajectory, reward=s.total, reward_parts=s.parts))
            for f, s in zip(group, scores, strict=True)
        ]
