"""The scripted agents on the published sets and the world: scores and retrieval, with intervals.

    SEARCH_ENV_DATA=... python -m benchmarks.baselines --output benchmarks/results/baselines.md

Every question once, protocol r1-searcher, BM25; the published sets over the corpus that
``$SEARCH_ENV_DATA`` holds (81,405 passages). The oracle's answer is the gold answer, so its scores
only say that the harness is right and what its queries find. MuSiQue is also reported by origin:
rows whose evidence was joined by title and step answer favour what a retriever finds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from agents.baselines import BASELINES, make_baseline
from benchmarks.report import heading, publish, table
from search_env.datasets.files import iter_records
from search_env.datasets.resolve import find_questions
from search_env.evaluation import EpisodeRecord, bare_env, evaluate, summarise
from search_env.report import setting_line
from search_env.statistics import Interval

RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("SearchQA-v0", {"split": "test"}),
    ("SearchQA-Musique-v0", {}),
    ("SearchQA-HotpotQA-v0", {}),
    ("SearchQA-2Wiki-v0", {}),
    ("SearchQA-Bamboogle-v0", {}),
)
STATED = {  # the data folder's README: question as query, top 5: supporting recall, all supports
    "SearchQA-Musique-v0": (0.366, 0.074),
    "SearchQA-HotpotQA-v0": (0.721, 0.491),
    "SearchQA-2Wiki-v0": (0.637, 0.316),
}
_COLUMNS = (
    ("EM", "exact_match"),
    ("F1", "f1"),
    ("cover EM", "cover_exact_match"),
    ("support recall", "supporting_recall"),
    ("all supports", "all_supports"),
    ("answer recall", "answer_recall"),
    ("searches", "searches"),
)
JOINED = "peterbaile/lag"


def main() -> None:
    """Run everything and publish one page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="only the first N questions of each set")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    command = "SEARCH_ENV_DATA=... python -m benchmarks.baselines" + (
        f" --limit {arguments.limit}" if arguments.limit else ""
    )
    packages = ["search-env", "gymnasium", "numpy", "tokenizers", "bm25s", "PyStemmer"]
    parts = [heading("Scripted agents", command, packages), _LEGEND]
    for env_id, options in RUNS:
        env = gym.make(env_id, **options)
        count = min(arguments.limit or len(bare_env(env).questions), len(bare_env(env).questions))
        records = {
            name: evaluate(env, make_baseline(name), range(count), progress=_dots(env_id, name))
            for name in BASELINES
        }
        parts.append(f"## {env_id}\n\n{setting_line(env, count, 0)}.\n")
        parts.append(score_table(records))
        parts += details(env_id, records, whole=arguments.limit is None)
    publish("\n".join(parts), arguments.output)


_LEGEND = """
Means with 95 % bootstrap intervals (2,000 resamples) over questions. *Support recall*: share of a
question's supporting passages among all that the episode retrieved; *all supports*: all of them;
*answer recall*: a gold answer stands in a retrieved passage. `search-env eval ID` prints the same
figures for one set.
"""


def score_table(records: Mapping[str, Sequence[EpisodeRecord]]) -> str:
    """Return agents as rows and measures as columns."""
    rows = []
    for name, found in records.items():
        summary = summarise(found)
        reasons = ", ".join(f"{why} {n}" for why, n in summary.stop_reasons.items())
        rows.append([name, *(_cell(getattr(summary, field)) for _, field in _COLUMNS), reasons])
    return table(["agent", *(header for header, _ in _COLUMNS), "endings"], rows) + "\n"


def details(
    env_id: str, records: Mapping[str, Sequence[EpisodeRecord]], *, whole: bool
) -> list[str]:
    """Return what the set's own facts add: stated figures (of whole sets), hops, origins."""
    parts = []
    if env_id in STATED and whole:
        summary = summarise(records["question-as-query"])
        measured = [summary.supporting_recall, summary.all_supports]
        text = ", ".join(
            f"{name} {value.mean:.3f} (stated {stated:.3f}, {value.mean - stated:+.3f})"
            for name, value, stated in zip(
                ("support recall", "all supports"), measured, STATED[env_id], strict=True
            )
            if value is not None
        )
        parts.append(f"Question as query against the figures stated for this corpus: {text}.\n")
    groups = {"hops": _by_hops(records), "origin": {}}
    if env_id == "SearchQA-Musique-v0":
        groups["origin"] = _by_origin(records)
    for title, held in groups.items():
        if len(held) > 1:
            columns = [title, "questions"]
            columns += [f"{agent}: {what}" for agent in _SEARCHING for what in ("recall", "all")]
            parts.append(table(columns, [[k, *v] for k, v in held.items()]) + "\n")
    return parts


_SEARCHING = ("question-as-query", "oracle-queries")


def _group(records: Mapping[str, Sequence[EpisodeRecord]], keep: Any) -> list[str]:
    """Return the number of questions kept, and retrieval of the searching agents on them."""
    cells: list[str] = []
    for agent in _SEARCHING:
        summary = summarise([record for record in records[agent] if keep(record)])
        cells = cells or [f"{summary.episodes:,}"]
        cells += [_cell(summary.supporting_recall), _cell(summary.all_supports)]
    return cells


def _by_hops(records: Mapping[str, Sequence[EpisodeRecord]]) -> dict[str, list[str]]:
    hops = sorted({r.hops for r in records["oracle"] if r.hops is not None})
    return {str(n): _group(records, lambda r, n=n: r.hops == n) for n in hops}


def _by_origin(records: Mapping[str, Sequence[EpisodeRecord]]) -> dict[str, list[str]]:
    path, _ = find_questions("musique")
    joined = {
        record.data["id"]
        for record in iter_records(path)
        if str(record.data.get("source", "")).startswith(JOINED)
    }
    return {
        "native records": _group(records, lambda r: r.question_id not in joined),
        "joined by title": _group(records, lambda r: r.question_id in joined),
    }


def _cell(value: Interval | None) -> str:
    return "-" if value is None else f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _dots(env_id: str, agent: str) -> Any:
    """Return a progress callback that says now and then where the run is."""
    count = 0

    def progress(record: EpisodeRecord) -> None:
        nonlocal count
        count += 1
        if count % 250 == 0:
            print(f"{env_id} {agent}: {count}", file=sys.stderr, flush=True)

    return progress


if __name__ == "__main__":
    main()
