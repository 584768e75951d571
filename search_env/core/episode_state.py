"""State of an episode in the dynamics beside its tokens, its snapshots and its queries."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.types import Event, Question, StopReason, TokenIds

Opening: TypeAlias = tuple[int, int]  # position of the token, bytes of it after the tag


@dataclass(frozen=True, slots=True)
class Query:
    """A query that was closed in ``row`` and waits for documents; ``tool`` runs it."""

    row: int
    text: str
    tool: str


@dataclass(slots=True)
class EpisodeState:
    """State of one row beside its tokens."""

    question: Question
    prompt_length: int
    segment_start: int
    inserted: int = 0
    num_searches: int = 0
    num_turns: int = 0
    num_faults: int = 0
    opened: dict[str, Opening] = field(default_factory=dict)  # open queries and answers, by name
    pending: str | None = None
    tool: str = ""  # of the pending query
    notice: bool = False
    stop_reason: StopReason | None = None
    events: list[Event] = field(default_factory=list)

    def copy(self) -> EpisodeState:
        """Return a copy that shares no mutable object."""
        return dataclasses.replace(self, opened=self.opened.copy(), events=self.events.copy())


@dataclass(frozen=True, slots=True)
class EpisodeSnapshot:
    """The complete state of a row, for :meth:`Dynamics.restore`. Plain data, picklable."""

    episode: EpisodeState
    tokens: TokenIds
    sources: NDArray[np.int8]
    automaton_state: int


def no_episode() -> EpisodeState:
    """State of a row before its first episode: ended, so that nothing can be appended."""
    return EpisodeState(Question("", "", ("",)), 0, 0, stop_reason=StopReason.END_OF_SEQUENCE)
