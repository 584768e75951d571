"""Texts without an environment: an engine continues ids until an end, many side by side.

For reasoning traces that do not search: :func:`revise_traces` is Retro-Search on them, with a
verifier of one's own, as in the paper; :func:`continue_texts` samples answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from search_env.agents.errors import ContextLengthError
from search_env.agents.rollouts.branches import BranchQueue, PlannedRollout
from search_env.agents.rollouts.episode_queue import draw_seed
from search_env.errors import ConfigurationError
from search_env.recording.revise.bans import ActiveBan, forbidden_ids
from search_env.recording.revise.retro_search import RetroSearch, Revision
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Source, Transcript

if TYPE_CHECKING:
    from search_env.agents.inference.rollout_engine import ForbiddingEngine

TokenIds = NDArray[np.int32]


class PlannedText(NamedTuple):
    """A text to continue: its ids so far, and how."""

    prefix: TokenIds
    seed: int
    key: tuple[int, int]  # for the source
    ban: ActiveBan | None = None
    limit: int | None = None  # of sampled ids


class TextSource(Protocol):
    """Which texts are continued."""

    def take(self, count: int) -> list[PlannedText]:
        """Return up to ``count`` texts for rows that are free; none while no row is busy: end."""

    def ended(self, text: PlannedText, sampled: TokenIds) -> None:
        """Take what was sampled of a text."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Where a text ends: at an end-of-sequence id of the tokenizer, or with one of these texts."""

    tokenizer: Tokenizer
    texts: tuple[str, ...] = ()

    def __contains__(self, sampled: list[int]) -> bool:
        """Return whether sampled ids have come to an end with the last one."""
        if sampled[-1] in self.tokenizer.eos_ids:
            return True
        if not self.texts:
            return False
        ends = [text.encode() for text in self.texts]
        # An end that is new reaches into the last id.
        length = max(map(len, ends)) + len(self.tokenizer.token_bytes[sampled[-1]]) - 1
        tail = b""
        for token in reversed(sampled):
            tail = self.tokenizer.token_bytes[token] + tail
            if len(tail) >= length:
                break
        return any(end in tail[-length:] for end in ends)


def play_texts(engine: ForbiddingEngine, source: TextSource, ends: Ends) -> int:
    """Continue all texts of a source; return the number of ids that were sampled.

    A text that fills its row ends there.

    Raises:
        ContextLengthError: A prefix leaves no room in the engine's rows.
    """
    busy: dict[int, tuple[PlannedText, list[int]]] = {}
    total = 0
    try:
        while True:
            _begin(engine, source, busy)
            if not busy:
                return total
            total += len(busy)
            for row in _decode(engine, busy):
                text, sampled = busy[row]
                full = len(text.prefix) + len(sampled) >= engine.max_tokens
                over = text.limit is not None and len(sampled) >= text.limit
                if full or over or sampled in ends:
                    del busy[row]
                    engine.release([row])
                    source.ended(text, np.array(sampled, np.int32))
    finally:
        engine.release(range(engine.rows))


def _begin(
    engine: ForbiddingEngine,
    source: TextSource,
    busy: dict[int, tuple[PlannedText, list[int]]],
) -> None:
    """Begin texts in the rows that are free."""
    free = [row for row in range(engine.rows) if row not in busy]
    texts = source.take(len(free)) if free else []
    rows = free[: len(texts)]
    for text in texts:
        if len(text.prefix) >= engine.max_tokens:
            raise ContextLengthError(
                f"Expected texts of less than the {engine.max_tokens} tokens of the engine's rows, "
                f"got {len(text.prefix)}. Raise its max_tokens, or leave the text out."
            )
    if rows:
        engine.begin(rows, [text.prefix for text in texts], [text.seed for text in texts])
    busy.update({row: (text, []) for row, text in zip(rows, texts, strict=True)})


def _decode(engine: ForbiddingEngine, busy: dict[int, tuple[PlannedText, list[int]]]) -> list[int]:
    """Sample an id in each busy row; return the rows."""
    rows = sorted(busy)
    bans = [busy[row][0].ban for row in rows]
    decoded = engine.decode(rows, forbidden_ids(bans))
    for row, ban, token in zip(rows, bans, decoded.ids.tolist(), strict=True):
        busy[row][1].append(token)
        if ban is not None and not ban.is_over:
            ban.advance(token)
    return rows


@dataclass(slots=True)
class _Prompts:
    """Texts in order, and what was sampled of each."""

    left: list[PlannedText]
    sampled: dict[int, TokenIds] = field(default_factory=dict)

    def take(self, count: int) -> list[PlannedText]:
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def ended(self, text: PlannedText, sampled: TokenIds) -> None:
        self.sampled[text.key[0]] = sampled


def continue_texts(
    engine: ForbiddingEngine, prompts: Sequence[TokenIds], ends: Ends, *, seed: int = 0
) -> list[TokenIds]:
    """Return what is sampled after each prompt, up to its end or the engine's ``max_tokens``."""
    texts = [
        PlannedText(np.asarray(prompt, np.int32), draw_seed((seed, number)), (number, 0))
        for number, prompt in enumerate(prompts)
    ]
    source = _Prompts(texts)
    play_texts(engine, source, ends)
    return [source.sampled[number] for number in range(len(prompts))]


class _Branches:
    """The roll-outs of a queue of branches as texts."""

    def __init__(self, queue: BranchQueue) -> None:
        self._queue = queue
        self._planned: dict[tuple[int, int], PlannedRollout] = {}

    def take(self, count: int) -> list[PlannedText]:
        texts = []
        for rollout in self._queue.take(count):
            key, branch = (rollout.group, rollout.member), rollout.branch
            self._planned[key] = rollout
            prefix = branch.trace.tokens[: branch.position]
            texts.append(PlannedText(prefix, rollout.seed, key, rollout.ban, branch.limit))
        return texts

    def ended(self, text: PlannedText, sampled: TokenIds) -> None:
        branch = self._planned.pop(text.key).branch
        sources = branch.trace.sources[: branch.position]
        own = np.full(len(sampled), Source.POLICY, np.int8)
        rollout = Transcript(
            question=branch.trace.question,
            protocol=branch.trace.protocol,
            tokens=np.concatenate([text.prefix, sampled]),
            sources=np.concatenate([sources, own]),
            events=(),
            decode=branch.trace.decode,
            markup=branch.trace.markup,
        )
        self._queue.ended(*text.key, rollout)


def revise_traces(
    engine: ForbiddingEngine,
    search: RetroSearch,
    traces: Sequence[Transcript],
    ends: Ends,
    *,
    seed: int = 0,
) -> list[Revision]:
    """Revise reasoning traces that do not search.

    Args:
        engine: Of the reviser; its rows hold prompt and trace.
        search: What revises, with the verifier of these traces.
        traces: Right ones; :func:`~search_env.recording.revise.steps.plain_trace` makes them.
        ends: Where a trace ends.
        seed: Non-negative; what is sampled depends on it and on the trace's number alone.

    Returns:
        The revision of each trace, in order.

    Raises:
        ConfigurationError: A trace is wrong or has searches, or a branch has more roll-outs than
            the engine has rows.
        ContextLengthError: A trace does not fit the engine's rows.
    """
    for number, trace in enumerate(traces):
        if trace.searches or not search.verify(trace):
            what = "one with searches" if trace.searches else "a wrong one"
            raise ConfigurationError(
                f"Expected right traces without searches, got {what}: number {number}, question "
                f"{trace.question.id!r}. Leave it out; revise_episodes revises search episodes."
            )
    if engine.rows < search.settings.rollouts:
        raise ConfigurationError(
            f"Expected at least {search.settings.rollouts} rows, one for each roll-out of a "
            f"branch, got {engine.rows}. Build the engine with more."
        )
    revisions: list[Revision] = []
    queue = BranchQueue(search, traces, seed, finished=revisions.append)
    play_texts(engine, _Branches(queue), ends)
    return revisions
