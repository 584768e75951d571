"""The data that renderers draw, of a saved transcript exactly as of a running episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from search_env.metrics.answers import token_f1
from search_env.protocols.protocol import Protocol
from search_env.types import StopReason, Transcript

_ENDINGS = {
    StopReason.ANSWERED: "answered",
    StopReason.END_OF_SEQUENCE: "ended without an answer",
    StopReason.FORMAT_FAULT: "stopped by a format fault",
    StopReason.MAX_TOKENS: "out of tokens",
    StopReason.MAX_POLICY_TOKENS: "out of policy tokens",
    StopReason.MAX_SEGMENT_TOKENS: "out of segment tokens",
    StopReason.MAX_SEARCHES: "out of searches",
    StopReason.MAX_TURNS: "out of turns",
    StopReason.RETRIEVAL_ERROR: "retrieval failed",
}


class Budget(NamedTuple):
    """The used part of one limit."""

    name: str
    used: int
    limit: int | None

    @property
    def fraction(self) -> float:
        """The used share in [0, 1]; 0 where there is no limit.

        Example:
            >>> Budget("tokens", 1024, 4096).fraction, Budget("searches", 3, None).fraction
            (0.25, 0.0)
        """
        if self.limit is None:
            return 0.0
        return min(1.0, self.used / self.limit) if self.limit > 0 else 1.0

    def __str__(self) -> str:
        return f"{self.used:,}" + ("" if self.limit is None else f" / {self.limit:,}")


@dataclass(frozen=True, slots=True)
class Frame:
    """One moment of an episode: the transcript so far, limits and, after its end, the score."""

    transcript: Transcript
    max_tokens: int  # of the context, prompt included
    max_searches: int | None = None
    max_policy_tokens: int | None = None
    score: float | None = None  # None while the episode runs or if it was not scored

    @classmethod
    def of(cls, protocol: Protocol, transcript: Transcript) -> Frame:
        """Return the frame of an episode with a protocol's limits, scored by F1 after its end."""
        limits = (protocol.max_tokens, protocol.max_searches, protocol.max_policy_tokens)
        if transcript.stop_reason is None:
            return cls(transcript, *limits)
        return cls(transcript, *limits, token_f1(transcript.answer, transcript.question.answers))

    @property
    def running(self) -> bool:
        """Whether the episode has not ended; gold answers are shown only after its end."""
        return self.transcript.stop_reason is None

    @property
    def ending(self) -> str:
        """The ending in words; ``"running"`` while the episode runs."""
        reason = self.transcript.stop_reason
        return "running" if reason is None else _ENDINGS[reason]

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Tokens and searches, and the policy's tokens where they have a limit."""
        transcript = self.transcript
        tokens = Budget("tokens", len(transcript.tokens), self.max_tokens)
        searches = Budget("searches", len(transcript.searches), self.max_searches)
        if self.max_policy_tokens is None:
            return (tokens, searches)
        policy = Budget("policy tokens", transcript.num_policy_tokens, self.max_policy_tokens)
        return (tokens, policy, searches)
