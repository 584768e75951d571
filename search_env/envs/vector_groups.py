"""The groups of a vector environment's episodes, and the rewards of complete groups.

Rows form blocks of ``group_size`` neighbours. The k-th episodes of a block's rows, counted from
their last common reset with a seed or a chosen question, are one group. It is complete in the step
in which its last member ends; other rows may then be episodes ahead. Transcripts of finished
members are stored until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from search_env.errors import ConfigurationError
from search_env.rewards import GroupReward
from search_env.types import Question, Transcript
from search_env.validation import check_count


def check_group_size(group_size: int, num_envs: int) -> int:
    """Return the number of rows in a block, a positive divisor of ``num_envs``."""
    size = check_count("group_size", group_size, 1)
    if num_envs % size:
        raise ConfigurationError(
            f"Expected num_envs to be a multiple of group_size={size}, got {num_envs}. Change one "
            "of them."
        )
    return size


@dataclass(slots=True)
class _Group:
    """A group that is not complete."""

    question: Question
    ended: dict[int, Transcript] = field(default_factory=dict)  # by row
    abandoned: bool = False  # a member was reset before its end


@dataclass(frozen=True, slots=True)
class GroupsState:
    """The complete state of the groups. Plain data, picklable."""

    counts: tuple[int, ...]
    groups: dict[tuple[int, int], _Group]


class Groups:
    """Groups of the episodes of ``count`` rows, in blocks of ``size``."""

    def __init__(self, reward: GroupReward, size: int, count: int) -> None:
        self.reward, self._size = reward, size
        self._counts = [-1] * count  # number of each row's episode
        self._groups: dict[tuple[int, int], _Group] = {}  # incomplete, by block and number
        self._complete: list[tuple[int, dict[int, Transcript]]] = []  # not yet reported

    def reset_together(self, rows: Sequence[int]) -> None:
        """Drop the groups of blocks whose rows are all reset; their rows begin together again.

        For resets with a seed or a chosen question. Numbers continue within a block; after such a
        reset of all rows they begin with 0.
        """
        reset = set(rows)
        if len(reset) == len(self._counts):
            self._counts, self._groups, self._complete = [-1] * len(self._counts), {}, []
            return
        for block in {row // self._size for row in reset}:
            members = self._rows(block)
            if reset.issuperset(members):
                last = max(self._counts[row] for row in members)
                for row in members:
                    self._counts[row] = last
                self._drop(block, last)

    def begin(self, row: int, question: Question) -> None:
        """Record that a row begins its next episode."""
        block, number = row // self._size, self._counts[row]
        previous = self._groups.get((block, number))
        if previous is not None and row not in previous.ended:
            previous.abandoned, previous.ended = True, {}
        self._counts[row] = number + 1
        group = self._groups.setdefault((block, number + 1), _Group(question))
        if group.question != question:
            raise ConfigurationError(
                f"Expected rows {self._rows(block).start} to {self._rows(block).stop - 1}, one "
                f"group, to have the same question, got {group.question.id!r} and, in row "
                f"{row}, {question.id!r}. Reset all rows of a group together, with a seed or the "
                "same question for each."
            )
        self._drop(block, min(self._counts[r] for r in self._rows(block)) - 1)

    def end(self, row: int, transcript: Transcript) -> int:
        """Record a finished episode; return the number of its group."""
        key = row // self._size, self._counts[row]
        number = key[1] * (len(self._counts) // self._size) + key[0]
        group = self._groups[key]
        if not group.abandoned:
            group.ended[row] = transcript
        if len(group.ended) == self._size:
            self._complete.append((number, self._groups.pop(key).ended))
        return number

    def take_complete(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the rows of groups that were completed since the last call, each with its info."""
        complete, self._complete = self._complete, []
        for number, ended in complete:
            rows = sorted(ended)
            scores = self.reward([ended[row] for row in rows])
            for row, score in zip(rows, scores, strict=True):
                info: dict[str, Any] = {"complete_group": number, "group_reward": score.total}
                if score.parts:  # absent after failed retrieval, as reward_parts
                    info["group_reward_parts"] = score.parts
                yield row, info

    def get_state(self) -> GroupsState:
        """Return a copy of the state."""
        return GroupsState(tuple(self._counts), _copies(self._groups))

    def set_state(self, state: GroupsState) -> None:
        """Restore a saved state."""
        self._counts = list(state.counts)
        self._groups = _copies(state.groups)
        self._complete = []

    def _rows(self, block: int) -> range:
        return range(block * self._size, (block + 1) * self._size)

    def _drop(self, block: int, last: int) -> None:
        """Drop a block's groups up to a number, of which no row can end an episode any more."""
        for key in [key for key in self._groups if key[0] == block and key[1] <= last]:
            del self._groups[key]


def _copies(groups: dict[tuple[int, int], _Group]) -> dict[tuple[int, int], _Group]:
    return {key: replace(group, ended=dict(group.ended)) for key, group in groups.items()}
