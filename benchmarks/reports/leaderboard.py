"""The committed store of scores, one JSON line for each protocol, agent and ablation, and its page.

A line holds what a file of results says of itself and its scores with their intervals, not its
episodes. A line of the same protocol, agent, decoding and ablation as a new one is replaced by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_env.benchmarks.harness.errors import ResultsError
from search_env.benchmarks.harness.results_file import IDENTITY, Results, with_current_rules
from search_env.benchmarks.harness.scores import MEASURES, score
from search_env.benchmarks.reports.measurement_page import table
from search_env.benchmarks.reports.published_scores import PUBLISHED, Published
from search_env.benchmarks.reports.tables import agent_label, cell, digests_line
from search_env.metrics.statistics import Interval
from search_env.paths import atomic_path

PUBLISHED_TITLE = "Reported elsewhere, under other protocols: not to be compared with the above"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the store.

    Attributes:
        header: First line of the file of results.
        questions: How many questions.
        measures: By the names of :data:`search_env.benchmarks.harness.scores.MEASURES`; None where
            no episode has it.
    """

    header: dict[str, Any]
    questions: int
    measures: dict[str, Interval | None]

    @property
    def key(self) -> str:
        """Return what two entries share of which only the newer is kept."""
        return json.dumps([self.header.get(name) for name in IDENTITY], sort_keys=True)


def entry_of(results: Results) -> Entry:
    """Return the entry of a file of results."""
    scores = score(results.episodes)
    return Entry(results.header, scores.questions, scores.measures)


def add(path: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Put entries into a store, and return all that it holds then.

    Args:
        path: The store's file; made where it is not there.
        entries: Each replaces the one with its key.

    Raises:
        ResultsError: The file is no store.
    """
    by_key = {entry.key: entry for entry in (read(path) if path.is_file() else [])}
    by_key |= {entry.key: entry for entry in entries}
    with atomic_path(path) as temporary:
        temporary.write_text("".join(_line(entry) for entry in by_key.values()), "utf-8")
    return list(by_key.values())


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


def leaderboard(entries: Sequence[Entry], published: Sequence[Published] = PUBLISHED) -> str:
    """Return the leaderboard as Markdown: our scores by protocol, and what others report apart.

    Args:
        entries: The store's.
        published: What others report.
    """
    parts = []
    for id in dict.fromkeys(entry.header["protocol"] for entry in entries):
        own = [entry for entry in entries if entry.header["protocol"] == id]
        own.sort(key=lambda entry: -(em.mean if (em := entry.measures["EM"]) else 0.0))
        columns = [name for name in MEASURES if any(entry.measures[name] for entry in own)]
        rows = [
            [
                agent_label(entry.header),
                f"{entry.questions:,}",
                *(cell(entry.measures[name], name) for name in columns),
                str(entry.header["date"])[:10],
            ]
            for entry in own
        ]
        lines = dict.fromkeys(digests_line(entry.header) for entry in own)
        parts.append(f"## {id}\n\n" + "\n".join(lines) + "\n")
        parts.append(table(["agent", "questions", *columns, "date"], rows) + "\n")
        parts.append("```\n" + "\n".join(str(e.header["command"]) for e in own) + "\n```\n")
    head = ["system", "metric", "setting", "MuSiQue", "Bamboogle", "source"]
    reported = [
        [
            *(row.system, row.metric, row.setting),
            *("-" if value is None else f"{value:.3f}" for value in (row.musique, row.bamboogle)),
            row.source,
        ]
        for row in published
    ]
    parts.append(f"## {PUBLISHED_TITLE}\n\n{table(head, reported)}\n")
    return "\n".join(parts)


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
            f"{path}, line {number}: expected scores as the leaderboard writes "
            f"them, got {line[:60]!r} ({type(error).__name__}). Delete the line and score again."
        ) from error
    return Entry(with_current_rules(path, row), questions, measures)
