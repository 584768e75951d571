"""Findings of an examination: facts, each good, doubtful or wrong, with the next step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym

from search_env.errors import SearchEnvError

Level = Literal["OK", "warning", "error"]

EXPECTED = (SearchEnvError, gym.error.Error, OSError)
"""Errors with a message for the user; all others are faults of this package."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report.

    Attributes:
        section: What was examined, for example ``"Tokenizer"``.
        level: ``"error"`` for what will stop or spoil a run, ``"warning"`` for what may.
        text: What was found, with its numbers.
        advice: The next step; empty where there is nothing to do.
    """

    section: str
    level: Level
    text: str
    advice: str = ""


class Section:
    """Makes the findings of one section.

    Example:
        >>> Section("Model").warning("no end id", "Pass eos=.")
        Finding(section='Model', level='warning', text='no end id', advice='Pass eos=.')
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def ok(self, text: str) -> Finding:
        """Return a fact that needs no action."""
        return Finding(self.name, "OK", text)

    def warning(self, text: str, advice: str) -> Finding:
        """Return a fact that may spoil a run."""
        return Finding(self.name, "warning", text, advice)

    def error(self, text: str, advice: str = "") -> Finding:
        """Return a fact that will stop or spoil a run."""
        return Finding(self.name, "error", text, advice)

    def checked(self, good: bool, text: str, advice: str) -> Finding:
        """Return a fact that is good or a warning."""
        return self.ok(text) if good else self.warning(text, advice)


def guarded(section: str, findings: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield findings; an expected error becomes the last of them."""
    try:
        yield from findings()
    except EXPECTED as error:
        yield Section(section).error(str(error))


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level, ``"OK"`` without findings."""
    levels: list[Level] = ["OK", "warning", "error"]
    return max((finding.level for finding in findings), key=levels.index, default="OK")
