"""``search-env score``: what others' outputs are worth by all our measures, and who is better.

Reading and scoring is :mod:`search_env.evaluation.foreign_outputs`'s, comparing
:mod:`search_env.metrics.statistics`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search_env.cli.console import check_output, open_console, say

if TYPE_CHECKING:
    from rich.table import Table

    from search_env.evaluation.evaluate import EpisodeMeasures
    from search_env.evaluation.tables import ScoreColumn
    from search_env.metrics.answers import ScoringRule

_COLUMNS: tuple[ScoreColumn, ...] = (
    ("EM", lambda summary: summary.exact_match),
    ("F1", lambda summary: summary.f1),
    ("cover\nEM", lambda summary: summary.cover_exact_match),
    ("in a\nrow", lambda summary: summary.contiguous_cover_exact_match),
    ("answer\nrecall", lambda summary: summary.answer_recall),
    ("judged\nright", lambda summary: summary.judged),
)
_COMPARED: tuple[tuple[str, Callable[[EpisodeMeasures], float]], ...] = (
    ("EM", lambda record: record.exact_match),
    ("F1", lambda record: record.f1),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "score", epilog="Example: search-env score theirs.jsonl ours.json --out scores.json"
    )(score_command)


def score_command(
    files: Annotated[list[Path], typer.Argument(help="Outputs; plain, .gz or .xz.")],
    format: Annotated[
        str | None,
        typer.Option(
            help="r1-searcher, flashrag, verl, episodes, run or bench; told from each file."
        ),
    ] = None,
    rule: Annotated[
        str, typer.Option(help="How answers are compared: r1-searcher, squad or hotpotqa.")
    ] = "r1-searcher",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the score of each row.")] = None,
) -> None:
    """Score outputs of R1-Searcher, FlashRAG, verl or this package; compare the first with each.

    Answers are taken as their system extracted them. The columns are exact match, token F1, cover
    EM (every word of a gold answer is in the answer), the same in a row, whether a gold answer
    stands in what was retrieved, what the judge said where the file has one, searches an episode.
    """
    from search_env.evaluation.evaluate import summarise
    from search_env.evaluation.foreign_outputs import read_outputs
    from search_env.evaluation.tables import summary_table

    check_output(out)
    compared_by = _rule(rule)
    records: dict[str, list[EpisodeMeasures]] = {}
    for file in files:
        for name, found in read_outputs(file, format, compared_by).items():
            records[_unused(name, records)] = found
    summaries = {name: summarise(found, seed=seed) for name, found in records.items()}
    open_console().print(summary_table(summaries, _COLUMNS))
    counts = ", ".join(f"{name} {summary.episodes:,}" for name, summary in summaries.items())
    say(
        f"Means over episodes ({counts}), below them 95 % bootstrap intervals; "
        f"answers compared by the rule {compared_by.name}.",
        "dim",
    )
    if len(records) > 1 and (table := _comparisons(records, seed)).row_count:
        open_console().print("\n", table, sep="")
    if out is not None:
        _write(out, records)
        say(f"Wrote {out}")


def _rule(name: str) -> ScoringRule:
    from search_env.metrics.answers import HOTPOTQA, R1_SEARCHER, SQUAD
    from search_env.registry import Registry

    rules = {rule.name: rule for rule in (R1_SEARCHER, SQUAD, HOTPOTQA)}
    return Registry("--rule", "Leave it out for R1-Searcher's.", rules)[name]


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """Return a name for a row that no earlier row has."""
    number, free = 2, name
    while free in taken:
        number, free = number + 1, f"{name} ({number})"
    return free


def _comparisons(records: Mapping[str, Sequence[EpisodeMeasures]], seed: int) -> Table:
    """Return each row's difference to the first, where any question was answered by both."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from search_env.evaluation.evaluate import on_shared_questions
    from search_env.metrics.statistics import compare_paired

    (first, base), *others = records.items()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(f"against {first}", overflow="fold")
    for header in ("shared", "measure", "difference", "95 %", "better", "worse", "p"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, found in others:
        mine, theirs = on_shared_questions(found, base)
        for measure, read in _COMPARED if mine else ():
            made = compare_paired(
                [read(record) for record in mine],
                [read(record) for record in theirs],
                seed=seed,
            )
            gap = made.difference
            table.add_row(
                Text(name),
                f"{len(mine):,}",
                measure,
                f"{gap.mean:+.3f}",
                f"{gap.low:+.3f} {gap.high:+.3f}",
                f"{made.first_only:,}",
                f"{made.second_only:,}",
                f"{made.p_value:.2g}",
            )
    return table


def _write(path: Path, records: Mapping[str, Sequence[EpisodeMeasures]]) -> None:
    import dataclasses

    from search_env.evaluation.tables import write_json

    rows = {
        name: {"episodes": [dataclasses.asdict(record) for record in found]}
        for name, found in records.items()
    }
    write_json(path, {"agents": rows})
