"""Which episodes are played next: the source that :mod:`search_env.agents.rollouts.collect` asks.

:class:`QuestionQueue` has whole groups of questions; other sources decide what is played by what
has come before, and may begin in the middle of an episode.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from search_env.errors import ConfigurationError
from search_env.types import Transcript

if TYPE_CHECKING:
    from search_env.envs.search_qa import EnvState
    from search_env.recording.revise.bans import ActiveBan


@dataclass(frozen=True, slots=True, eq=False)
class PlannedEpisode:
    """An episode that is to be played.

    Attributes:
        order: Its place among all episodes.
        member: Its number in the group.
        question: Index of its question.
        seed: Of what is sampled.
        state: Where it goes on from; None for the beginning.
        ban: What it may not sample, of its own.
        limit: Tokens that it may sample before it is cut off; None for any number.
    """

    order: int
    group: int
    member: int
    question: int
    seed: int
    state: EnvState | None = None
    ban: ActiveBan | None = None
    limit: int | None = None


class EpisodeSource(Protocol):
    """What is played, in order. ``total`` counts all that are known so far."""

    total: int

    def take(self, count: int, policy_tokens: int) -> list[PlannedEpisode]:
        """Return up to ``count`` episodes for rows that are free.

        It is asked at the beginning and whenever an episode has ended, with all rows that are free
        then, and how many tokens all episodes have sampled so far. An empty list while no episode
        is under way ends the collection.
        """

    def ended(self, episode: PlannedEpisode, transcript: Transcript) -> None:
        """Take an episode that has ended, or that was cut off and has no stop reason."""


class QuestionQueue:
    """The episodes of questions, groups in order; see :func:`collect` for the arguments."""

    def __init__(
        self,
        questions: Sequence[int],
        group_size: int,
        seed: int,
        shard: tuple[int, int],
        token_limit: int | None,
        first_group: int,
    ) -> None:
        self._token_limit = math.inf if token_limit is None else token_limit
        self._size = group_size
        episodes = []
        first, every = shard
        repeats: Counter[int] = Counter()  # a repeated question is a group with seeds of its own
        for group, question in enumerate(map(int, questions)):
            for member in range(group_size) if group % every == first else ():
                number = draw_seed((seed, question, repeats[question], member))
                order = group * group_size + member
                planned = PlannedEpisode(order, first_group + group, member, question, number)
                episodes.append(planned)
            repeats[question] += 1
        if not episodes:
            raise ConfigurationError(
                f"Expected a shard of {len(questions)} groups, got shard={shard}, which has none "
                "of them. Pass more questions, or fewer processes."
            )
        self.total = len(episodes)
        self._pending = deque(episodes)

    def take(self, count: int, policy_tokens: int) -> list[PlannedEpisode]:
        """Return up to ``count`` episodes; none of a new group once the limit is reached."""
        taken: list[PlannedEpisode] = []
        while self._pending and len(taken) < count:
            begins_group = self._pending[0].order % self._size == 0
            if begins_group and policy_tokens >= self._token_limit:
                self.total -= len(self._pending)
                self._pending.clear()
                break
            taken.append(self._pending.popleft())
        return taken

    def ended(self, episode: PlannedEpisode, transcript: Transcript) -> None:
        """Do nothing: the next episodes do not depend on it."""


def draw_seed(numbers: Sequence[int]) -> int:
    """Return the seed of a row of an engine, from 0 to 2**63 - 1, that belongs to some numbers."""
    state = np.random.SeedSequence(tuple(numbers)).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))
