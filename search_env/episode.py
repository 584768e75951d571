"""What the dynamics keep of an episode beside its tokens, and what they hand out of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.types import Document, Event, Question, StopReason

Ids: TypeAlias = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Query:
    """A query that was closed in ``row`` and waits for its documents."""

    row: int
    text: str


@dataclass(slots=True)
class Episode:
    """What one row knows beside its tokens.

    ``query_start`` and ``answer_start`` hold where a tag was opened, as (position of the token,
    bytes of it that follow the tag).
    """

    question: Question
    prompt_length: int
    segment_start: int
    inserted: int = 0
    num_searches: int = 0
    num_turns: int = 0
    num_faults: int = 0
    query_start: tuple[int, int] | None = None
    answer_start: tuple[int, int] | None = None
    pending: str | None = None
    notice: bool = False
    stop_reason: StopReason | None = None
    events: list[Event] = field(default_factory=list)
    documents: dict[str, Document] = field(default_factory=dict)

    def copy(self) -> Episode:
        """Return a copy that shares nothing that changes."""
        return dataclasses.replace(self, events=self.events.copy(), documents=self.documents.copy())


@dataclass(frozen=True, slots=True)
class SavedEpisode:
    """One row's whole state, to be given to :meth:`Dynamics.restore`. Plain data, picklable."""

    episode: Episode
    tokens: Ids
    sources: NDArray[np.int8]
    automaton_state: int


def no_episode() -> Episode:
    """A row before its first episode: ended, so that nothing can be appended by mistake."""
    return Episode(Question("", "", ("",)), 0, 0, stop_reason=StopReason.END_OF_SEQUENCE)
