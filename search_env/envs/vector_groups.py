"""The groups of a vector environment's episodes, and what is paid once a group is complete.

Rows stand in blocks of ``group_size`` neighbours. The k-th episodes of a block's rows, counted from
when they were last reset together, are one group. Rows of a block end their episodes at different
times, and in the autoreset modes begin the next ones at once, so a group is complete in the step
in which its last member ends, when other rows may be episodes ahead. Until then the transcripts of
its finished members are kept here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from search_env.errors import ConfigurationError
from search_env.rewards import GroupReward, get_group_reward
from search_env.types import Question, Transcript
from search_env.validation import check_count


def check_group_size(group_size: int, num_envs: int) -> int:
    """Return the number of rows in a block.

    Raises:
        ConfigurationError: It is no positive number, or blocks of so many do not make up the rows.
    """
    size = check_count("group_size", group_size, 1)
    if num_envs % size:
        raise ConfigurationError(
            f"Expected num_envs to be a multiple of group_size={size}, got {num_envs}. Change one "
            "of them."
        )
    return size


@dataclass(slots=True)
class _Group:
    """One group on its way to completion."""

    question: Question
    ended: dict[int, Transcript] = field(default_factory=dict)  # by row
    lost: bool = False  # a member was reset before its end, so it will never be complete

    def copy(self) -> _Group:
        return replace(self, ended=dict(self.ended))


@dataclass(frozen=True, slots=True)
class GroupsState:
    """All that groups hold. Plain data, picklable."""

    counts: tuple[int, ...]
    groups: dict[tuple[int, int], _Group]


class Groups:
    """Groups of the episodes of N rows.

    Args:
        reward: What a complete group is paid.
        size: Rows in a block.
        count: Number of rows, a multiple of ``size``.
    """

    def __init__(self, reward: GroupReward, size: int, count: int) -> None:
        self.reward, self._size = reward, size
        self._counts = [-1] * count  # number of each row's episode
        self._groups: dict[tuple[int, int], _Group] = {}  # by block and number, not complete
        self._complete: list[tuple[int, dict[int, Transcript]]] = []  # and not told of

    @classmethod
    def of(cls, reward: str | GroupReward | None, size: int, count: int) -> Groups | None:
        """Return the groups that a group reward is paid to, None where there is none to pay.

        Raises:
            ConfigurationError: No group reward of that name.
        """
        return None if reward is None else cls(get_group_reward(reward), size, count)

    def reset_together(self, rows: Sequence[int]) -> None:
        """Forget the groups of blocks of which all rows are reset: they begin alike again.

        Numbers go on where a block stands; after a reset of all rows they begin with 0.
        """
        asked = set(rows)
        if len(asked) == len(self._counts):
            self._counts, self._groups, self._complete = [-1] * len(self._counts), {}, []
            return
        for block in {row // self._size for row in asked}:
            members = self._rows(block)
            if asked.issuperset(members):
                last = max(self._counts[row] for row in members)
                for row in members:
                    self._counts[row] = last
                self._drop(block, last)

    def begin(self, row: int, question: Question) -> None:
        """Take note that a row begins its next episode.

        Raises:
            ConfigurationError: Another row of the group was asked another question.
        """
        block, number = row // self._size, self._counts[row]
        left = self._groups.get((block, number))
        if left is not None and row not in left.ended:
            left.lost, left.ended = True, {}
        self._counts[row] = number + 1
        group = self._groups.setdefault((block, number + 1), _Group(question))
        if group.question != question:
            raise ConfigurationError(
                f"Expected rows {self._rows(block).start} to {self._rows(block).stop - 1}, one "
                f"group, to be asked the same question, got {group.question.id!r} and, in row "
                f"{row}, {question.id!r}. Reset all rows of a group together, with a seed or the "
                "same question for each."
            )
        self._drop(block, min(self._counts[r] for r in self._rows(block)) - 1)

    def end(self, row: int, transcript: Transcript) -> int:
        """Take in a finished episode; return the number of its group."""
        key = row // self._size, self._counts[row]
        number = key[1] * (len(self._counts) // self._size) + key[0]
        group = self._groups[key]
        if not group.lost:
            group.ended[row] = transcript
        if len(group.ended) == self._size:
            self._complete.append((number, self._groups.pop(key).ended))
        return number

    def take_complete(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the rows of groups that were completed since the last call, each with its info.

        Raises:
            RewardError: The group reward failed.
        """
        complete, self._complete = self._complete, []
        for number, ended in complete:
            rows = sorted(ended)
            scores = self.reward([ended[row] for row in rows])
            for row, score in zip(rows, scores, strict=True):
                info: dict[str, Any] = {"complete_group": number, "group_reward": score.total}
                if score.parts:  # as reward_parts, which failed retrieval leaves out
                    info["group_reward_parts"] = score.parts
                yield row, info

    def get_state(self) -> GroupsState:
        """Return a copy of everything."""
        groups = {key: group.copy() for key, group in self._groups.items()}
        return GroupsState(tuple(self._counts), groups)

    def set_state(self, state: GroupsState) -> None:
        """Go on from a saved state."""
        self._counts = list(state.counts)
        self._groups = {key: group.copy() for key, group in state.groups.items()}
        self._complete = []

    def _rows(self, block: int) -> range:
        return range(block * self._size, (block + 1) * self._size)

    def _drop(self, block: int, last: int) -> None:
        """Forget a block's groups up to a number: no row can end an episode of theirs."""
        for key in [key for key in self._groups if key[0] == block and key[1] <= last]:
            del self._groups[key]
