"""Finished episodes on their way out of a collection: held back until their group is complete.

Only where a group reward is paid, for nothing can be said of an episode's worth before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from search_env.agents.types import Trajectory
from search_env.rewards import GroupReward, Score, group_scores
from search_env.types import Transcript


class Finished(NamedTuple):
    """A finished episode.

    Attributes:
        order: Its place among all of the collection.
        question: Index of its question.
        transcript: What it left behind.
        trajectory: The same for the learner.
    """

    order: int
    question: int
    transcript: Transcript
    trajectory: Trajectory


class WholeGroups:
    """Lets episodes go once all that they are worth is known.

    Args:
        reward: What a complete group is paid; None lets each episode go at once.
        size: Episodes in a group.
    """

    def __init__(self, reward: GroupReward | None, size: int) -> None:
        self._reward, self._size = reward, size
        self._waiting: dict[int, list[Finished]] = {}

    def take(self, finished: Finished) -> list[Finished]:
        """Return what this episode completes, by order, with the group reward added.

        Raises:
            RewardError: The group reward failed.
        """
        if self._reward is None:
            return [finished]
        group = self._waiting.setdefault(finished.trajectory.group, [])
        group.append(finished)
        if len(group) < self._size:
            return []
        del self._waiting[finished.trajectory.group]
        group.sort(key=lambda member: member.order)  # sums then do not depend on who came last
        scores = group_scores(
            self._reward,
            [member.transcript for member in group],
            [Score(member.trajectory.reward, member.trajectory.reward_parts) for member in group],
        )
        return [_worth(member, score) for member, score in zip(group, scores, strict=True)]


def _worth(member: Finished, score: Score) -> Finished:
    paid = replace(member.trajectory, reward=score.total, reward_parts=score.parts)
    return member._replace(trajectory=paid)
