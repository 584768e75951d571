"""The tables of the study of a real model: by set, kind and origin, over seeds, paired."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from search_env.benchmarks.harness.results_file import Results, read_results
from search_env.benchmarks.reports.measurement_page import heading, publish, table
from search_env.benchmarks.reports.pages import by_protocol, report_markdown
from search_env.evaluation.evaluate import EpisodeMeasures
from search_env.metrics.statistics import bootstrap_crossed, sign_test
from search_env.types import Question

SCRIPT = "question-as-query"
READER = "question-as-query"  # the variant that every free model is compared with
SHUFFLED = "shuffled-documents"
_SEED = re.compile(r"(.+)-(\d+)$")


class Slice(NamedTuple):
    """Questions that a claim is about: a set, and kinds of it (none for all)."""

    title: str
    set_name: str
    kinds: tuple[str, ...] = ()

    def holds(self, record: EpisodeMeasures) -> bool:
        """Return whether a question is one of them."""
        return not self.kinds or record.kind in self.kinds


SLICES = (
    Slice("Bamboogle", "bamboogle"),
    Slice("MuSiQue", "musique"),
    Slice("HotpotQA, bridge", "hotpotqa", ("bridge",)),
    Slice("HotpotQA, comparison", "hotpotqa", ("comparison",)),
    Slice("2Wiki, compositional and inference", "2wiki", ("compositional", "inference")),
    Slice("2Wiki, comparison", "2wiki", ("comparison",)),
    Slice("2Wiki, bridge and comparison", "2wiki", ("bridge_comparison",)),
)


@dataclass(frozen=True, slots=True)
class Row:
    """An agent in a table: one file, or one for each seed, of the same questions."""

    name: str
    model: str
    variant: str
    seeds: tuple[Results, ...]


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of a set's folder, runs that differ in their seed alone as one."""
    found: dict[tuple[str, str], list[Results]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        model, _, variant = file.stem.partition("+")
        seed = _SEED.fullmatch(model)
        found.setdefault((model if seed is None else seed[1], variant), []).append(
            read_results(file)
        )
    return [
        Row(", ".join(part for part in key if part), *key, tuple(seeds))
        for key, seeds in found.items()
    ]


def values_of(
    row: Row,
    chosen: Slice,
    measure: Callable[[EpisodeMeasures], float | None],
) -> dict[str, list[float]]:
    """Return a measure by question id, a value for each seed, of questions that have one in all."""
    by_seed = [
        {r.question_id: value for r in results.records if chosen.holds(r)
         and (value := measure(r)) is not None}
        for results in row.seeds
    ]  # fmt: skip
    shared = set.intersection(*(set(values) for values in by_seed))
    return {id_: [values[id_] for values in by_seed] for id_ in sorted(shared)}


def later_recall(record: EpisodeMeasures, supporting: Mapping[str, frozenset[str]]) -> float | None:
    """Return the share of a question's evidence that the searches after the first one found.

    None without a second search, and for questions whose evidence is not known.
    """
    wanted = supporting.get(record.question_id)
    if not wanted or len(record.document_ids) < 2:
        return None
    found = {id_ for search in record.document_ids[1:] for id_ in search}
    return len(wanted & found) / len(wanted)


def supporting_of(questions: Sequence[Question]) -> dict[str, frozenset[str]]:
    """Return the ids of each question's evidence."""
    return {question.id: frozenset(question.supporting) for question in questions}


MEASURES: Mapping[str, Callable[[EpisodeMeasures], float | None]] = {
    "F1": lambda r: r.f1,
    "cover EM": lambda r: r.cover_exact_match,
    "search rate": lambda r: float(bool(r.searches)),
    "searches": lambda r: float(r.searches or 0),
    "support recall": lambda r: r.supporting_recall,
    "answer recall": lambda r: r.answer_recall,
    "EM given recall": lambda r: r.exact_match if r.answer_recall else None,
}


def slice_table(
    rows: Sequence[Row], chosen: Slice, supporting: Mapping[str, frozenset[str]]
) -> str:
    """Return the scores of a slice, each free model beside the same start behind one search."""
    by_key = {(row.model, row.variant): row for row in rows}
    head = ["agent", "seeds", "questions", "EM", "over reading alone", "p", "lost when shuffled"]
    body = []
    for row in rows:
        right = values_of(row, chosen, lambda r: r.exact_match)
        if not right:
            continue
        cells = [row.name, str(len(row.seeds)), str(len(right)), _crossed(list(right.values()))]
        reader = by_key.get((row.model.partition("-")[0], READER))
        cells += _gain(row, reader, chosen) if row.variant == "" and reader else ["", ""]
        cells.append(_lost(right, by_key.get((row.model, SHUFFLED)), chosen, row.variant))
        for measure in (*MEASURES.values(), lambda r: later_recall(r, supporting)):
            numbers = [np.mean(v) for v in values_of(row, chosen, measure).values()]
            cells.append(f"{np.mean(numbers):.3f}" if numbers else "-")
        body.append(cells)
    return table([*head, *MEASURES, "support recall, later queries"], body)


def _crossed(values: Sequence[Sequence[float]], sign: str = "") -> str:
    """Return the mean of values by question and seed, with its interval over both."""
    found = bootstrap_crossed(np.array(values).T.tolist())
    return f"{found.mean:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def _gain(row: Row, reader: Row, chosen: Slice) -> list[str]:
    """Return how much better a model is than its start behind one search, and the p-value."""
    mine = values_of(row, chosen, lambda r: r.exact_match)
    theirs = values_of(reader, chosen, lambda r: r.exact_match)
    shared = sorted(mine.keys() & theirs.keys())
    if not shared:
        return ["", ""]
    gaps = [[value - float(np.mean(theirs[id_])) for value in mine[id_]] for id_ in shared]
    means = [float(np.mean(gap)) for gap in gaps]
    p_value = sign_test(sum(gap > 0 for gap in means), sum(gap < 0 for gap in means))
    return [_crossed(gaps, "+"), f"{p_value:.2g}"]


def _lost(
    right: Mapping[str, Sequence[float]], shuffled: Row | None, chosen: Slice, variant: str
) -> str:
    """Return the share of a free model's exact match that other documents take away."""
    if shuffled is None or variant:
        return ""
    left = values_of(shuffled, chosen, lambda r: r.exact_match)
    shared = right.keys() & left.keys()
    before, after = (float(np.mean([np.mean(v[id_]) for id_ in shared])) if shared else 0.0
                     for v in (right, left))  # fmt: skip
    return f"{1 - after / before:.0%}" if before else "-"


_LEGEND = """
EM and differences with 95 % intervals over questions and seeds (pigeonhole bootstrap). *Over
reading alone* is the difference from the start that a model began with, made to search for the
question as it stands and then to answer, on the same questions; *p* is that of the sign test over
questions, of each question's mean over seeds, two-sided and uncorrected. *Lost when shuffled* is
the share of EM that is gone with the documents of another question. The other columns are means.

1,417 of MuSiQue's 2,417 development questions have evidence in this corpus; for 1,070 of these and
for 346 of 2Wiki's 510 it was joined by title, which favours what a retriever finds: see the rows by
origin. On comparison questions guessing is right in about a half.
"""


def report(folder: Path, output: Path | None) -> None:
    """Write the tables of a study's folder."""
    from search_env.envs.loading import load_questions

    sets = ("hotpotqa:dev", "musique:dev", "2wikimultihopqa:dev")
    supporting: dict[str, frozenset[str]] = {}
    for name in sets:
        supporting |= supporting_of(load_questions(name, None, None))
    text = heading(
        "A real language model on real text",
        "python -m search_env.benchmarks.studies.real_model report",
        ("search-env", "torch", "transformers", "numpy"),
    )
    text += _LEGEND
    for chosen in SLICES:
        for place in (chosen.set_name, f"{chosen.set_name}-whole"):
            if rows := read_rows(folder / "eval" / place):
                scope = " (all questions)" if place.endswith("-whole") else ""
                text += f"\n## {chosen.title}{scope}\n\n{slice_table(rows, chosen, supporting)}\n"
    files = sorted((folder / "eval").glob("*/*.jsonl"), key=_first_reader)
    text += f"\n{report_markdown(by_protocol(map(read_results, files)))}"
    publish(text, output)


def _first_reader(file: Path) -> tuple[str, bool, str]:
    """Return the order of files: in each set first the one that others are compared with."""
    return file.parent.name, not file.stem.endswith(f"+{READER}"), file.stem
