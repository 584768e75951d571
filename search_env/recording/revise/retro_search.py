"""The algorithm: branches at the transitions of a trace, the value of roll-outs, acceptance.

It samples nothing. :meth:`RetroSearch.revise` is a generator that yields one :class:`Branch` after
the other; who drives it samples roll-outs from there, lets :meth:`RetroSearch.judge` compare them
with the tail that they would replace, and sends the :class:`Outcome`. So many traces can be revised
side by side by one engine; :func:`retro_search` drives a single one with a sampling callable.

A tail is worth ``gamma ** cost`` if the trace ends right, else 0; a branch is worth the mean of its
roll-outs. It is taken if it is worth more than the tail that is there, strictly, and the guards
hold (:mod:`~search_env.recording.revise.guards`); the cheapest right roll-out is then the trace.

Source: Lu et al., 2025, arXiv 2504.04383, as its abstract and reviews tell it; the operators *skip*
and *stop* are this project's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from search_env.recording.revise.bans import ActiveBan, Ban, ban_tables, tags_of
from search_env.recording.revise.guards import Verifier, is_grounded
from search_env.recording.revise.settings import RevisionSettings
from search_env.recording.revise.steps import (
    StepReader,
    Transition,
    policy_runs,
    policy_tokens,
)
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Transcript

_LEAST_TOKENS = 64  # that a roll-out may have, however short the tail that it would replace
_HIGHEST = 700.0  # the logarithm of the highest gain that is a number


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """A place to go on from in another way.

    Attributes:
        trace: The trace as it is now; its first ``position`` tokens stay.
        number: How many branches of the trace came before.
        ban: What the roll-outs may not write.
        cost: Of the tail that they would replace.
        limit: Policy tokens that a roll-out may have; None for any number.
    """

    trace: Transcript
    number: int
    operator: str
    position: int
    ban: Ban
    cost: float
    limit: int | None


class Outcome(NamedTuple):
    """What came of a branch.

    ``gain`` is its value divided by that of the tail. ``trace`` is the new trace, None where the
    old one stays; ``why`` says in one word: ``taken``, ``wrong`` (too few are right), ``longer``
    (no gain), ``ungrounded``, or ``failed`` (a search failed, so nothing is known).
    """

    why: str
    right: int
    gain: float
    trace: Transcript | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """A trace after its revision.

    Attributes:
        before: The trace as it came.
        after: The trace as it is; the same object where no branch was taken.
        taken: The operators of the branches that were taken, in order.
        tried: Number of branches by operator and by what came of them.
    """

    before: Transcript
    after: Transcript
    taken: tuple[str, ...]
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)


Sample = Callable[[Branch, int], Sequence[Transcript]]
"""Returns so many roll-outs of a branch: whole traces that begin with its prefix."""


class RetroSearch:
    """Revises the traces of one tokenizer and one protocol.

    Args:
        tokenizer: Of the traces' ids.
        settings: How to revise.
        verify: Whether a trace is right; for search episodes
            :func:`~search_env.recording.revise.guards.episode_verifier`.
    """

    def __init__(self, tokenizer: Tokenizer, settings: RevisionSettings, verify: Verifier) -> None:
        self.tokenizer, self.settings, self.verify = tokenizer, settings, verify
        self.steps = StepReader(tokenizer, settings)

    def revise(
        self, trace: Transcript, seed: Sequence[int] = (0,)
    ) -> Generator[Branch, Outcome, Revision]:
        """Yield the branches of a right trace; take the outcome of each, and return the revision.

        ``seed`` draws where a partial revision begins.
        """
        before, taken, tried, number = trace, [], Counter[tuple[str, str]](), 0
        transitions = self.steps.read(trace).transitions
        place = 0
        if self.settings.partial and transitions:
            place = int(np.random.default_rng(seed).integers(len(transitions)))
        while place < len(transitions):
            is_taken = False
            for operator, position, ban in self._operators(trace, transitions, place):
                limit = self._limit(trace, position)
                cost = self.steps.cost(trace, position)
                outcome = yield Branch(trace, number, operator, position, ban, cost, limit)
                number += 1
                tried[operator, outcome.why] += 1
                if outcome.trace is not None:
                    is_taken, trace = True, outcome.trace
                    taken.append(operator)
                    break
            transitions = self.steps.read(trace).transitions
            place += not (is_taken and self.settings.reexamine)
        return Revision(before, trace, tuple(taken), tried)

    def judge(self, branch: Branch, rollouts: Sequence[Transcript]) -> Outcome:
        """Return what comes of a branch with these roll-outs, all that it has."""
        settings, position = self.settings, branch.position
        right = [rollout for rollout in rollouts if self.verify(rollout)]
        costs = [self.steps.cost(rollout, position) for rollout in right]
        worth = -math.log(settings.gamma)
        gains = [math.exp(min(_HIGHEST, (branch.cost - cost) * worth)) for cost in costs]
        gain = math.fsum(gains) / len(rollouts)
        if any(stop is not None and not stop.valid for stop in (r.stop_reason for r in rollouts)):
            return Outcome("failed", len(right), gain)
        if len(right) < settings.least_right:
            return Outcome("wrong", len(right), gain)
        effort = [
            (cost, policy_tokens(rollout, position), n)
            for n, (cost, rollout) in enumerate(zip(costs, right, strict=True))
        ]
        shorter = [n for cost, _, n in sorted(effort) if cost < branch.cost]
        if gain <= 1.0 or not shorter:
            return Outcome("longer", len(right), gain)
        for chosen in (right[n] for n in shorter):
            if self._is_grounded(chosen, branch.trace):
                return Outcome("taken", len(right), gain, chosen)
        return Outcome("ungrounded", len(right), gain)

    def active_ban(self, branch: Branch) -> ActiveBan | None:
        """Return a branch's ban in one roll-out, None where nothing is forbidden."""
        if branch.ban.is_empty:
            return None
        cut = branch.position
        start = max(
            (first for first, last in policy_runs(branch.trace) if first <= cut < last), default=cut
        )
        prefix = branch.trace.tokens[start:cut].tolist()
        return ActiveBan(ban_tables(branch.ban, self.tokenizer), prefix)

    def _operators(
        self, trace: Transcript, transitions: Sequence[Transition], place: int
    ) -> Iterator[tuple[str, int, Ban]]:
        """Yield operator, position and ban of each way to branch off at a transition."""
        at, settings = transitions[place], self.settings
        later = any(other.search >= 0 for other in transitions[place + 1 :])
        for operator in settings.operators:
            if operator == "continue":
                yield operator, at.position, self._ban(trace, settings.keywords, queries=True)
            elif operator == "skip" and at.search >= 0:
                cut = at.announced if settings.skip_from == "step" else at.position
                yield operator, cut, self._ban(trace, (), queries=settings.skip_bans)
            elif operator == "stop" and at.search >= 0 and later:
                yield operator, at.after, self._ban(trace, (), queries=True, for_good=True)

    def _ban(
        self, trace: Transcript, keywords: tuple[str, ...], *, queries: bool, for_good: bool = False
    ) -> Ban:
        tags, allowed, ends = tags_of(trace.markup, forbid_queries=queries)
        settings = self.settings
        return Ban(keywords, tags, allowed, ends, settings.separator, settings.ban_from, for_good)

    def _limit(self, trace: Transcript, position: int) -> int | None:
        longest = self.settings.longest
        if longest is None:
            return None
        return max(_LEAST_TOKENS, math.ceil(longest * policy_tokens(trace, position)))

    def _is_grounded(self, new: Transcript, before: Transcript) -> bool:
        grounding = self.settings.grounding
        return grounding == "off" or is_grounded(new, before, grounding)


def retro_search(
    search: RetroSearch, trace: Transcript, sample: Sample, seed: Sequence[int] = (0,)
) -> Revision:
    r"""Revise one right trace with a sampling callable.

    Example:
        >>> from search_env.recording.revise.settings import PLAIN
        >>> from search_env.recording.revise.steps import plain_trace
        >>> from search_env.tokens.tokenizer import load_tokenizer
        >>> byte = load_tokenizer("byte")
        >>> ends_right = lambda trace: byte.decode(trace.tokens).endswith("four.")
        >>> search = RetroSearch(byte, PLAIN, ends_right)
        >>> long = plain_trace(byte, "?", "Two and two.\n\nWait, is it?\n\nYes, four.")
        >>> def sample(branch, count):
        ...     begun = branch.trace.tokens[1 : branch.position]
        ...     return [plain_trace(byte, "?", [*begun, *byte.encode("That is four.")])] * count
        >>> revision = retro_search(search, long, sample)
        >>> byte.decode(revision.after.tokens), revision.taken
        ('?Two and two.\n\nThat is four.', ('continue',))
    """
    branches = search.revise(trace, seed)
    try:
        branch = next(branches)
        while True:
            rollouts = sample(branch, search.settings.rollouts)
            branch = branches.send(search.judge(branch, rollouts))
    except StopIteration as stop:
        revision: Revision = stop.value
        return revision


class Figures(NamedTuple):
    """Counts of a trace before and after its revision."""

    searches: tuple[int, int]
    steps: tuple[int, int]
    tokens: tuple[int, int]  # of the policy


def figures(search: RetroSearch, revision: Revision) -> Figures:
    """Return searches, steps and policy tokens of a trace before and after."""
    before, after = revision.before, revision.after
    steps = search.steps
    return Figures(
        (len(before.searches), len(after.searches)),
        (len(steps.read(before).steps), len(steps.read(after).steps)),
        (policy_tokens(before), policy_tokens(after)),
    )
