"""The committed store of scores: one JSON line for each protocol, agent and control.

A line holds what a file of results says of itself and its scores with their intervals, not its
episodes; a leaderboard is made of such lines. A line of the same protocol, agent, decoding and
control as a new one is replaced by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.errors import ResultsError
from benchmarks.harness.results_file import IDENTITY, Results
from benchmarks.harness.scores import score
from search_env.paths import atomic_path
from search_env.statistics import Interval


@dataclass(frozen=True, slots=True)
class Entry:
    """One line.

    Attributes:
        header: Of the file of results.
        questions: How many questions.
        measures: By the names of :data:`benchmarks.harness.scores.MEASURES`; None where nothing tells.
    """

    header: dict[str, Any]
    questions: int
    measures: dict[str, Interval | None]

    @property
    def key(self) -> str:
        """Return what two entries share of which only the newer is kept."""
        return json.dumps([self.header.get(name) for name in IDENTITY], sort_keys=True)

    @property
    def agent(self) -> str:
        """Return the agent's name, with its control."""
        control = self.header.get("control")
        name = str(self.header["agent"]["name"])
        return f"{name}, {control}" if control else name


def entry_of(results: Results) -> Entry:
    """Return the entry of a file of results."""
    scores = score(results.episodes)
    return Entry(results.header, scores.questions, scores.measures)


def add(path: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Put entries into a store, and return all that it holds then.

    Args:
        path: Of the store; made where it is not there.
        entries: Each replaces the one with its key.

    Raises:
        ResultsError: The file is no store.
    """
    held = {entry.key: entry for entry in (read(path) if path.is_file() else [])}
    held |= {entry.key: entry for entry in entries}
    with atomic_path(path) as temporary:
        temporary.write_text("".join(_line(entry) for entry in held.values()), "utf-8")
    return list(held.values())


def read(path: Path) -> list[Entry]:
    """Return the entries of a store.

    Raises:
        ResultsError: The file is no store.
    """
    return [
        _entry(path, number, line)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if line.strip()
    ]


def _line(entry: Entry) -> str:
    measures = {
        name: None if value is None else [round(value.mean, 6), value.low, value.high, value.count]
        for name, value in entry.measures.items()
    }
    row = {**entry.header, "questions": entry.questions, "measures": measures}
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _entry(path: Path, number: int, line: str) -> Entry:
    try:
        row = json.loads(line)
        measures = {
            name: None if value is None else Interval(*value)
            for name, value in row.pop("measures").items()
        }
        questions = int(row.pop("questions"))
        row["agent"]["name"], row["protocol"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(
            f"{path}, line {number}: expected scores as benchmarks.reports.leaderboard writes them, got "
            f"{line[:60]!r} ({type(error).__name__}). Delete the line and score again."
        ) from error
    return Entry(row, questions, measures)
