"""``search-env score``: scores of other systems' outputs, and their comparison."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search_env.cli.console import check_output, open_console, open_table, say

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
    ("EM", lambda episode: episode.exact_match),
    ("F1", lambda episode: episode.f1),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    example = "Example: search-env score theirs.jsonl ours.json --out scores.json"
    app.command("score", epilog=example)(score_command)


def score_command(
    files: Annotated[list[Path], typer.Argument(help="Outputs; plain, .gz or .xz.")],
    format: Annotated[
        str | None,
        typer.Option(
            help="r1-searcher, flashrag, verl, episodes, run or bench; detected by default."
        ),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="Comparison of answers: r1-searcher, squad or hotpotqa; by default the one that "
            "each file's system publishes its scores with."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the measures of each episode.")
    ] = None,
) -> None:
    """Score outputs of R1-Searcher, FlashRAG, verl or this package; compare the first with each.

    Answers are taken as their system extracted them. The columns are exact match, token F1, cover
    EM (every word of a gold answer is in the answer), the same in a row, whether a gold answer
    occurs in the retrieved documents, the judge's verdict if the file has one, and searches per
    episode.
    """
    from search_env.evaluation.evaluate import summarise
    from search_env.evaluation.foreign_outputs import output_format, published_rule, read_outputs
    from search_env.evaluation.tables import summary_table, write_json

    check_output(out)
    given = None if rule is None else _rule(rule)
    episodes: dict[str, list[EpisodeMeasures]] = {}
    rules: dict[str, ScoringRule] = {}
    for file in files:
        layout = format or output_format(file)
        own = given or published_rule(file, layout)
        for agent, measures in read_outputs(file, layout, own).items():
            name = _unused(agent, episodes)
            episodes[name], rules[name] = measures, own
    summaries = {name: summarise(measures, seed=seed) for name, measures in episodes.items()}
    open_console().print(summary_table(summaries, _COLUMNS))
    counts = ", ".join(f"{name} {summary.episodes:,}" for name, summary in summaries.items())
    say(f"Means over episodes ({counts}), below them 95 % bootstrap intervals.", "dim")
    say(_rules_line(rules), "dim")
    for name, measures in episodes.items():
        _warn_without_answers(name, measures)
    if len(episodes) > 1 and (table := _comparisons(episodes, rules, seed)).row_count:
        open_console().print("\n", table, sep="")
    if out is not None:
        agents = {
            name: {"rule": rules[name].name, "episodes": list(map(asdict, part))}
            for name, part in episodes.items()
        }
        write_json(out, {"agents": agents})
        say(f"Wrote {out}")


def _rules_line(rules: Mapping[str, ScoringRule]) -> str:
    """Return the rule of each row, or that of all."""
    names = {rule.name: _RULES[rule.name] for rule in rules.values()}
    if len(names) == 1:
        ((name, words),) = names.items()
        return f"Answers compared by the rule {name} ({words})."
    rows = "; ".join(f"{row} by {rule.name}" for row, rule in rules.items())
    legend = "; ".join(f"{name}: {words}" for name, words in names.items())
    return f"Answers of {rows} ({legend}). Compare all by one rule with --rule."


_RULES = {
    "r1-searcher": "punctuation becomes a space, no partial credit for yes and no",
    "squad": "punctuation is deleted",
    "hotpotqa": "the words of squad, no partial credit for yes and no",
}


def _warn_without_answers(name: str, measures: Sequence[EpisodeMeasures]) -> None:
    """Say so where no episode of a file has an answer, which may be in a form that is unknown."""
    if all(episode.answer is None for episode in measures):
        say(
            f"Warning: none of the {len(measures):,} episodes of {name} has an answer in a known "
            "form (<answer>...</answer> or \\boxed{...} in a text), so all count as wrong.",
            "yellow",
            stderr=True,
        )


def _rule(name: str) -> ScoringRule:
    from search_env.metrics.answers import HOTPOTQA, R1_SEARCHER, SQUAD
    from search_env.validation import check_choice

    rules = {rule.name: rule for rule in (R1_SEARCHER, SQUAD, HOTPOTQA)}
    check_choice("--rule", name, list(rules))
    return rules[name]


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """Return the name of a row, with a number if an earlier row has it."""
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in taken)


def _comparisons(
    episodes: Mapping[str, Sequence[EpisodeMeasures]],
    rules: Mapping[str, ScoringRule],
    seed: int,
) -> Table:
    """Return the difference of each row to the first, on the questions that both have.

    Both are compared by the rule of the first.
    """
    from rich.text import Text

    from search_env.evaluation.evaluate import on_shared_questions
    from search_env.evaluation.foreign_outputs import rescored
    from search_env.metrics.statistics import compare_paired

    (first, base), *others = episodes.items()
    numbers = ("shared", "measure", "difference", "95 %", "better", "worse", "p")
    table = open_table(f"against {first}", numbers=numbers)
    for name, measures in others:
        alike = [rescored(episode, rules[first]) for episode in measures]
        ours, theirs = on_shared_questions(alike, base)
        for measure, read in _COMPARED if ours else ():
            paired = compare_paired(list(map(read, ours)), list(map(read, theirs)), seed=seed)
            gap = paired.difference
            difference = (measure, f"{gap.mean:+.3f}", f"{gap.low:+.3f} {gap.high:+.3f}")
            counts = (f"{paired.first_only:,}", f"{paired.second_only:,}")
            row = (f"{len(ours):,}", *difference, *counts, f"{paired.p_value:.2g}")
            table.add_row(Text(name), *row)
    return table
