"""The branches of many traces in a queue: each as soon as the one before it is judged.

Whoever has free rows takes whole branches and hands back their roll-outs; the algorithm is
:mod:`search_env.recording.revise.retro_search`. What is drawn depends on the seed, the number of
the trace, of its branch and of the roll-out alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from search_env.agents.rollouts.episode_queue import draw_seed
from search_env.recording.revise.bans import ActiveBan
from search_env.recording.revise.retro_search import Branch, Outcome, RetroSearch, Revision
from search_env.types import Transcript


class PlannedRollout(NamedTuple):
    """A roll-out that is to be played; ``group`` is the number of the branch among all played."""

    group: int
    member: int
    branch: Branch
    seed: int
    ban: ActiveBan | None


@dataclass(slots=True)
class _Group:
    """The roll-outs of a branch that have ended, by member."""

    trace: int
    branch: Branch
    ended: dict[int, Transcript] = field(default_factory=dict)


class BranchQueue:
    """Revises traces side by side, of which others play the roll-outs.

    Args:
        search: What revises.
        traces: Right ones.
        seed: Non-negative.
        first: Number of the first trace that is not done.
        known: Returns what came of a branch of a trace before, None where it was not played.
        judged: Called with each branch that was played, and what comes of it.
        finished: Called with each revision, in the order of the traces.

    Attributes:
        played: Number of branches that rows have taken.
    """

    def __init__(
        self,
        search: RetroSearch,
        traces: Sequence[Transcript],
        seed: int,
        *,
        first: int = 0,
        known: Callable[[int, Branch], Outcome | None] = lambda trace, branch: None,
        judged: Callable[[int, Branch, Outcome], None] = lambda trace, branch, outcome: None,
        finished: Callable[[Revision], None],
    ) -> None:
        self._search, self._traces, self._seed = search, traces, seed
        self._known, self._judged, self._finished = known, judged, finished
        self._begins = self._ends = first  # the trace that begins, and the one that ends, next
        self._running: dict[int, Generator[Branch, Outcome, Revision]] = {}
        self._pending: deque[tuple[int, Branch]] = deque()
        self._groups: dict[int, _Group] = {}
        self._revisions: dict[int, Revision] = {}  # that wait for those of earlier traces
        self.played = 0

    def take(self, count: int) -> list[PlannedRollout]:
        """Return the roll-outs of whole branches, at most ``count``; none if no branch waits."""
        size, taken = self._search.settings.rollouts, list[PlannedRollout]()
        while count - len(taken) >= size and self._has_pending():
            number, branch = self._pending.popleft()
            group, self.played = self.played, self.played + 1
            self._groups[group] = _Group(number, branch)
            for member in range(size):
                seed = draw_seed((self._seed, number, branch.number, member))
                ban = self._search.active_ban(branch)
                taken.append(PlannedRollout(group, member, branch, seed, ban))
        return taken

    def ended(self, group: int, member: int, rollout: Transcript) -> None:
        """Take a roll-out; the last one of a branch decides on it."""
        members = self._groups[group]
        members.ended[member] = rollout
        if len(members.ended) < self._search.settings.rollouts:
            return
        del self._groups[group]
        rollouts = [members.ended[number] for number in sorted(members.ended)]
        outcome = self._search.judge(members.branch, rollouts)
        self._judged(members.trace, members.branch, outcome)
        self._advance(members.trace, outcome)

    def _has_pending(self) -> bool:
        """Return whether a branch waits for rows, after beginning traces until one does."""
        while not self._pending and self._begins < len(self._traces):
            number, self._begins = self._begins, self._begins + 1
            self._running[number] = self._search.revise(self._traces[number], (self._seed, number))
            self._advance(number, None)
        return bool(self._pending)

    def _advance(self, number: int, outcome: Outcome | None) -> None:
        """Go on with a trace to its next branch that was not played yet, or to its end."""
        branches = self._running[number]
        try:
            branch = next(branches) if outcome is None else branches.send(outcome)
            while (known := self._known(number, branch)) is not None:
                branch = branches.send(known)
        except StopIteration as stop:
            del self._running[number]
            self._revisions[number] = stop.value
            while self._ends in self._revisions:
                self._finished(self._revisions.pop(self._ends))
                self._ends += 1
        else:
            self._pending.append((number, branch))
