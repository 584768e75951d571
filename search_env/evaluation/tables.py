"""Results of an evaluation: a table to read, and a JSON document from which to repeat it."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import gymnasium as gym

from search_env.envs.search_qa import bare_env
from search_env.evaluation.evaluate import EpisodeMeasures, Summary
from search_env.metrics.statistics import RESAMPLES, Interval
from search_env.paths import atomic_path
from search_env.provenance import run_provenance, versions
from search_env.redaction import redacted

if TYPE_CHECKING:
    from rich.table import Table

_PACKAGES = ("search-env", "gymnasium", "numpy", "tokenizers", "bm25s", "PyStemmer")

ScoreColumn: TypeAlias = tuple[str, Callable[[Summary], Interval | None]]
"""Header of a column of scores from 0 to 1, and the function that reads it from a summary."""

_SCORES: tuple[ScoreColumn, ...] = (
    ("EM", lambda summary: summary.exact_match),
    ("F1", lambda summary: summary.f1),
    ("cover\nEM", lambda summary: summary.cover_exact_match),
    ("support\nrecall", lambda summary: summary.supporting_recall),
    ("all\nfound", lambda summary: summary.all_supports),
    ("answer\nrecall", lambda summary: summary.answer_recall),
)


def describe_run(env: gym.Env[Any, Any], count: int, seed: int) -> str:
    """Return a one-line description of an evaluation on the first ``count`` questions."""
    bare = bare_env(env)
    split = bare.questions[0].split if count else ""
    return (
        f"{env.spec.id if env.spec else 'environment'}: {count:,} of {len(bare.questions):,} "
        f"questions{f' ({split})' if split else ''}, protocol {bare.protocol.name}, "
        f"tokenizer {bare.tokenizer.name}, top_k {bare.protocol.top_k}, seed {seed}"
    )


def notes(summaries: Mapping[str, Summary]) -> list[str]:
    """Return the remarks that belong under the table of summaries."""
    resamples = f"{RESAMPLES:,} resamples"
    lines = [f"Means over questions; below each its 95 % bootstrap interval ({resamples})."]
    for name, summary in summaries.items():
        if summary.invalid:
            lines.append(f"{name}: {summary.invalid:,} episodes left out because retrieval failed.")
        unknown = summary.episodes - sum(group.episodes for group in summary.by_hops.values())
        if unknown and name.startswith("oracle"):
            fact = "questions have no known hops and were asked as they are."
            lines.append(f"{name}: {unknown:,} {fact}")
    return lines


def summary_table(
    summaries: Mapping[str, Summary], scores: Sequence[ScoreColumn] = _SCORES
) -> Table:
    """Return agents as rows, each mean above its interval; at most 100 columns wide."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("agent", no_wrap=True)
    for header in (*(header for header, _ in scores), "searches"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("stop reasons", overflow="fold")
    for name, summary in summaries.items():
        pairs = [score_cell(read(summary)) for _, read in scores] + [count_cell(summary.searches)]
        cells = [Text.assemble(top, "\n", (below, "dim")) for top, below in pairs]
        reasons = "\n".join(f"{why} {n}" for why, n in summary.stop_reasons.items())
        table.add_row(Text(name, "bold"), *cells, Text(reasons))
    return table


def run_record(
    env: gym.Env[Any, Any],
    summaries: Mapping[str, Summary],
    episodes: Mapping[str, Sequence[EpisodeMeasures]],
    *,
    command: str,
    seed: int,
) -> dict[str, Any]:
    """Return the results of an evaluation with all that is needed to repeat it, as JSON values.

    ``env`` was made by ``gym.make`` from JSON values; ``command`` is the command line of the run.
    Summaries and measures of episodes are by agent name.
    """
    bare, spec = bare_env(env), env.spec
    installed = versions(_PACKAGES)
    return {
        "command": redacted(command),
        "date": run_provenance()["date"],
        "platform": platform.platform(),
        "python": installed["python"],
        "packages": {name: installed.get(name) for name in _PACKAGES},
        "env_spec": json.loads(redacted(spec.to_json())) if spec is not None else None,
        "seed": seed,
        "protocol": bare.protocol.name,
        "tokenizer": {"name": bare.tokenizer.name, "digest": bare.tokenizer.digest},
        "retriever": {
            "class": type(bare.retriever).__name__,
            "name": redacted(str(getattr(bare.retriever, "name", None) or "")) or None,
            "digest": getattr(bare.retriever, "digest", None),
        },
        "agents": {
            agent: {
                "summary": dataclasses.asdict(summary),
                "episodes": [dataclasses.asdict(episode) for episode in episodes[agent]],
            }
            for agent, summary in summaries.items()
        },
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def score_cell(value: Interval | None) -> tuple[str, str]:
    """Return a mean from 0 to 1 and its interval as text."""
    if value is None:
        return "-", ""
    return _trim(value.mean, 3), f"{_trim(value.low, 2)}-{_trim(value.high, 2)}"


def count_cell(value: Interval | None) -> tuple[str, str]:
    """Return the mean of a count and its interval as text."""
    if value is None:
        return "-", ""
    digits = 2 if value.high < 10 else 1
    return f"{value.mean:.{digits}f}", f"{value.low:.{digits}f}-{value.high:.{digits}f}"


def _trim(value: float, digits: int) -> str:
    """Return a score from 0 to 1 without its leading zero; 1 has one digit less.

    Example:
        >>> _trim(0.5312, 3), _trim(1.0, 3)
        ('.531', '1.00')
    """
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0") else text[:-1]
