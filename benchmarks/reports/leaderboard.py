"""The committed store of scores, one JSON line for each protocol, agent and ablation, and its page.

A line holds what a file of results says of itself and its scores with their intervals, not its
episodes. A line of the same protocol, agent, decoding and ablation as a new one is replaced by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from search_env.benchmarks.harness.errors import ResultsError
from search_env.benchmarks.harness.results_file import (
    IDENTITY,
    Results,
    check_header,
    with_current_rules,
)
from search_env.benchmarks.harness.scores import MEASURES, score
from search_env.benchmarks.reports.measurement_page import code_block, plain, table
from search_env.benchmarks.reports.tables import agent_label, digests_line, score_rows
from search_env.metrics.statistics import Interval
from search_env.paths import atomic_path

PUBLISHED_TITLE = "Reported elsewhere, under other protocols: not to be compared with the above"


class Published(NamedTuple):
    """A score on MuSiQue and on Bamboogle that a paper or repository reports.

    Rows differ in metric, retriever, corpus, questions and turns, so they compare only where
    setting and metric are equal. One question of Bamboogle is 0.8 points.
    """

    system: str
    metric: str
    setting: str
    musique: float
    bamboogle: float
    source: str


_WIKI = "wiki-18, e5, whole sets"
_R1 = "KILT 2019, BGE, 500 questions (Bamboogle: all)"
_S = "arXiv 2503.09516, main table"
_R = "arXiv 2503.05592, table 2"

PUBLISHED = (
    Published("R1-Searcher, Qwen2.5-7B", "cover EM", _R1, 0.282, 0.528, _R),
    Published("R1-Searcher, Qwen2.5-7B", "judge", _R1, 0.314, 0.544, _R),
    Published("R1-Searcher, Llama-3.1-8B", "cover EM", _R1, 0.254, 0.504, _R),
    Published("R1-Searcher, Llama-3.1-8B", "judge", _R1, 0.282, 0.544, _R),
    Published("ReARTeR, GPT-4o-mini", "cover EM", _R1, 0.296, 0.496, _R),
    Published("naive generation, GPT-4o-mini", "cover EM", _R1, 0.134, 0.240, _R),
    Published("R1-Searcher++, Qwen2.5-7B", "F1", _R1, 0.338, 0.608, "arXiv 2505.17005"),
    Published("Search-R1 PPO, Qwen2.5-7B base", "EM", _WIKI, 0.196, 0.432, _S),
    Published("Search-R1 PPO, Qwen2.5-7B instruct", "EM", _WIKI, 0.146, 0.368, _S),
    Published("Search-R1 GRPO, Qwen2.5-7B base", "EM", _WIKI, 0.125, 0.360, _S),
    Published("Search-R1 GRPO, Qwen2.5-7B instruct", "EM", _WIKI, 0.162, 0.400, _S),
    Published("Search-R1 GRPO, Qwen2.5-3B instruct", "EM", _WIKI, 0.124, 0.232, _S),
    Published("RAG, Qwen2.5-7B", "EM", _WIKI, 0.058, 0.208, _S),
    Published("no retrieval, Qwen2.5-7B", "EM", _WIKI, 0.031, 0.120, _S),
    Published("SkyRL recipe, 3 turns, Qwen2.5-3B", "EM", _WIKI, 0.179, 0.448, "SkyRL docs"),
    Published("StepSearch, Qwen2.5-7B base", "EM", _WIKI, 0.216, 0.467, "its README"),
    Published("Tree-GRPO, Qwen2.5-14B", "EM", _WIKI, 0.259, 0.544, "its README"),
)
"""A choice; systems whose harness is known to be wrong are left out."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the store: header of a file of results, number of questions, scores by name."""

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
    """Put entries into a store, in place of those with their keys, and return all that it holds."""
    by_key = {entry.key: entry for entry in (read(path) if path.is_file() else [])}
    by_key |= {entry.key: entry for entry in entries}
    with atomic_path(path) as temporary:
        temporary.write_text("".join(_line(entry) for entry in by_key.values()), "utf-8")
    return list(by_key.values())


def read(path: Path) -> list[Entry]:
    """Return the entries of a store."""
    return [
        _entry(path, number, line)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if line.strip()
    ]


def leaderboard(entries: Sequence[Entry]) -> str:
    """Return the leaderboard as Markdown: our scores by protocol, best first, and others' apart."""
    parts = []
    for id in dict.fromkeys(entry.header["protocol"] for entry in entries):
        played = [entry for entry in entries if entry.header["protocol"] == id]
        played.sort(key=lambda entry: -(em.mean if (em := entry.measures["EM"]) else 0.0))
        labels = [(plain(agent_label(e.header)), e.questions, e.measures) for e in played]
        head, *rows = score_rows(labels, "agent", list(MEASURES))
        dates = [str(entry.header["date"])[:10] for entry in played]
        dated = [[*row, date] for row, date in zip(rows, dates, strict=True)]
        digests = "\n".join(dict.fromkeys(digests_line(entry.header) for entry in played))
        commands = "\n".join(str(entry.header["command"]) for entry in played)
        parts.append(f"## {plain(id)}\n\n{digests}\n\n{table([*head, 'date'], dated)}\n")
        parts.append(code_block(commands))
    head = ["system", "metric", "setting", "MuSiQue", "Bamboogle", "source"]
    reported = [[x if isinstance(x, str) else f"{x:.3f}" for x in row] for row in PUBLISHED]
    return "\n".join([*parts, f"## {PUBLISHED_TITLE}\n\n{table(head, reported)}\n"])


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
            name: None if value is None else Interval(*map(_number, value))
            for name, value in row.pop("measures").items()
        }
        questions = int(row.pop("questions"))
        row["date"], row["command"], measures["EM"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ResultsError(
            f"{path}, line {number}: expected scores as the leaderboard writes "
            f"them, got {line[:60]!r} ({type(error).__name__}). Delete the line and score again."
        ) from error
    check_header(f"{path}, line {number}", row)
    return Entry(with_current_rules(path, row), questions, measures)


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} where a number belongs")
    return value
