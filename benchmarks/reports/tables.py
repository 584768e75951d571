"""Scores as tables, for the terminal and for Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from search_env.benchmarks.harness.results_file import Results, by_question
from search_env.benchmarks.harness.rules import DIGITS
from search_env.benchmarks.harness.scores import MEASURES, Scores, group, majority, pass_at, score
from search_env.benchmarks.question_sets.registry import all_benchmarks, question_set_of
from search_env.evaluation.causal_evidence import CausalEvidence, compare_swapped, plan_swaps
from search_env.evaluation.tables import count_cell, score_cell
from search_env.metrics.statistics import Interval
from search_env.rendering.spans import one_line
from search_env.types import Question

if TYPE_CHECKING:
    from rich.table import Table

Row: TypeAlias = tuple[str, int, Mapping[str, Interval | None]]
COUNTS = ("searches", "policy tokens")  # measures that are no shares
_LONGEST_NAME = 80
_BELOW = ("cover EM in a row", "policy tokens", "format faults")
_NARROW = (*_BELOW, "EM given recall", "search rate")  # not in the terminal's table of agents
GROUPED = (
    *("EM", "F1", "cover EM", "EM given recall", "answer recall", "support recall"),
    *("all supports", "search rate", "searches"),
)
"""Measures that are shown of groups of questions."""


def agent_label(header: Mapping[str, Any]) -> str:
    """Return what an agent is called in a table: its name on one line, with its ablation."""
    name = one_line(str(header["agent"]["name"])) or "(no name)"
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return f"{name}, {one_line(header['ablation'])}" if header.get("ablation") else name


def digests_line(header: Mapping[str, Any]) -> str:
    """Return the first digits of what a score was made with, former digests in parentheses."""
    formerly = header.get("formerly", {})
    parts = []
    for what, digest in header["digests"].items():
        former = f" (formerly {formerly[what][:DIGITS]})" if what in formerly else ""
        parts.append(f"{what} {digest[:DIGITS]}{former}")
    return f"Digests: {', '.join(parts)}."


def protocol_note(header: Mapping[str, Any]) -> str:
    """Return what a reader must know of a registered protocol; "" of others."""
    protocol = all_benchmarks().get(str(header["protocol"]).partition("@")[0])
    return protocol.note if protocol else ""


def score_table(results: Mapping[str, Results]) -> Table:
    """Return agents as rows, each mean above its interval."""
    scores = {name: score(own.episodes) for name, own in results.items()}
    return _table("agent", scores, [name for name in MEASURES if name not in _NARROW])


def evidence_of(plain: Results, swapped: Results, questions: Sequence[Question]) -> CausalEvidence:
    """Return what answers rest on, from a run under ``swapped-documents`` and one as it is."""
    before = {(result.index, result.sample): result.record for result in plain.episodes}
    pairs = [
        (before[result.index, result.sample], result.record)
        for result in swapped.episodes
        if (result.index, result.sample) in before
    ]
    return compare_swapped(pairs, plan_swaps(questions), asked=len(before))


def evidence_table(plain: Results, swapped: Results, questions: Sequence[Question]) -> Table:
    """Return :func:`evidence_of` as a table, each share above its interval."""
    from rich import box
    from rich.table import Table

    evidence = evidence_of(plain, swapped, questions)
    shares = {
        "EM as it is": evidence.exact_match,
        "answer follows": evidence.follows,
        "stays": evidence.unchanged,
        "becomes another": evidence.other,
        "right answers that rest on evidence": evidence.rests,
    }
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    cells = [f"{len(evidence.outcomes):,}", f"{evidence.left_out:,}"]
    for name in ("n", "no swap"):
        table.add_column(name, justify="right")
    for name, share in shares.items():
        table.add_column(name, justify="right", min_width=12)
        mean, interval = score_cell(share)
        cells.append(f"{mean}\n[dim]{interval}[/dim]")
    table.add_row(*cells)
    return table


def breakdowns(results: Results) -> dict[str, dict[str, Scores]]:
    """Return the scores of each group of questions, by the title of each way to group them."""
    scores: dict[str, dict[str, Scores]] = {}
    for title, key in question_set_of(results.header["protocol"]).groups.items():
        groups = group(results.episodes, key)
        if len(groups) > 1:
            scores[title] = {name: score(episodes) for name, episodes in groups.items()}
    return scores


def breakdown_tables(results: Results) -> list[Table]:
    """Return a table for each way in which a question set falls into groups."""
    narrow = [name for name in GROUPED if name != "all supports"]
    return [_table(title, scores, narrow) for title, scores in breakdowns(results).items()]


def endings_line(results: Results) -> str:
    """Return how long episodes were, how many broke the format, and how they ended."""
    scores = score(results.episodes)
    tokens, faults = (scores.measures[name] for name in _BELOW[1:])
    parts = [f"{why} {count:,}" for why, count in scores.stop_reasons.items()]
    if tokens is not None and faults is not None:
        parts.append(f"{tokens.mean:.0f} tokens written; format faults in {faults.mean:.1%}")
    if (rate := scores.measures["search rate"]) is not None:
        parts[-1] += f"; searched in {rate.mean:.1%}"
    if (reading := scores.measures["EM given recall"]) is not None:
        parts[-1] += f"; EM {reading.mean:.3f} where an answer was found"
    return "Endings: " + ", ".join(parts)


def sample_line(results: Results) -> str:
    """Return pass@k and the majority's vote where questions have several samples, else ""."""
    counts = {len(samples) for samples in by_question(results.episodes).values()}
    least = min(counts, default=1)
    if least < 2:
        return ""
    ks = sorted({least, *(2**i for i in range(least.bit_length()) if 2**i <= least)})
    cells = [f"pass@{k} {cell(pass_at(results.episodes, k))}" for k in ks]
    return "  ".join([*cells, f"majority of {least} {cell(majority(results.episodes))}"])


def judge_line(results: Results) -> str:
    """Return who judged the answers."""
    judge = results.header.get("judge")
    return f"Judge: {judge['model'] if judge else 'not run'}"


def cost_line(results: Results) -> str:
    """Return what an endpoint charged in tokens, in all and an episode, else ""."""
    total: Counter[str] = Counter()
    for result in results.episodes:
        total.update(result.cost)
    count = len(results.episodes)
    parts = [f"{n:,} {kind} ({n / count:,.0f} an episode)" for kind, n in total.items()]
    return "Tokens charged: " + ", ".join(parts) if any(total.values()) else ""


def score_rows(scores: Sequence[Row], first: str, measures: Sequence[str]) -> list[list[str]]:
    """Return header and rows of a table, ``first`` above the labels, without empty columns."""
    columns = _measured(scores, measures)
    rows = [
        [label, f"{count:,}", *(cell(values.get(m), m) for m in columns)]
        for label, count, values in scores
    ]
    return [[first, "questions", *columns], *rows]


def rows_of(scores: Mapping[str, Scores]) -> list[Row]:
    """Return what :func:`score_rows` takes."""
    return [(name, each.questions, each.measures) for name, each in scores.items()]


def cell(value: Interval | None, measure: str = "") -> str:
    """Return a mean with its interval on one line."""
    if value is None:
        return "-"
    digits = 2 if measure in COUNTS else 3
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _measured(scores: Sequence[Row], measures: Sequence[str]) -> list[str]:
    """Return those measures that some scores have, in order."""
    return [m for m in MEASURES if m in measures and any(values.get(m) for *_, values in scores)]


def _table(first: str, scores: Mapping[str, Scores], measures: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = _measured(rows_of(scores), measures)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(Text(first), overflow="fold", min_width=10)
    for name in ("n", *columns):
        table.add_column("\n".join(name.rsplit(" ", 1)), justify="right", no_wrap=True)
    for name, row in scores.items():
        pairs = [(count_cell if m in COUNTS else score_cell)(row.measures[m]) for m in columns]
        cells = [f"{mean}\n[dim]{interval}[/dim]" for mean, interval in pairs]
        table.add_row(Text(name), f"{row.questions:,}", *cells)
    return table
