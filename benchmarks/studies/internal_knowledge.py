"""Does R1-Searcher++ learn when not to search? A world of which a base has read a part.

    python -m search_env.benchmarks.studies.internal_knowledge run --seeds 0 1 2 3 4
    python -m search_env.benchmarks.studies.internal_knowledge report --output FILE.md

For each seed ``run`` makes a world, a base that has read a part of it, and a cold start (rejection
sampling, then masked imitation), and trains every condition from them; what is there already is not
made again. ``report`` writes the tables and what came of the claims. Worlds and bases are described
in ``internal_knowledge_world.py`` (``--world small``, the default) and, for the encyclopaedia with
the bundled base, in ``internal_knowledge_encyclopaedia.py``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from search_env.agents.reporting.logs import read_log
from search_env.benchmarks.reports.measurement_page import heading, interval, publish, table
from search_env.benchmarks.studies.internal_knowledge_encyclopaedia import EncyclopaediaHome
from search_env.benchmarks.studies.internal_knowledge_runs import (
    COLD,
    CONDITIONS,
    NO_COLD_START,
    NO_GROUP,
    NO_MEMORY,
    PLAIN,
    PLUS,
    Home,
    Scores,
    run_one,
)
from search_env.benchmarks.studies.internal_knowledge_world import SmallHome
from search_env.metrics.statistics import Interval, t_quantile

CLAIMS = """\
1. R1-Searcher++ searches at least 30 % less than R1-Searcher (upper bound of its searches less .7
   times the other's is below 0), without loss of EM (lower bound of the difference above -.02).
2. It searches where it has to: search rate at least .8 on unknown facts and at most .3 on known
   ones (means over seeds).
3. Without the group reward it searches more (lower bound of the difference in searches above .05).
4. Some of what was only ever retrieved is known afterwards: with memorisation, closed-book accuracy
   on unknown facts that were trained on ends .05 or more above the cold start's and above that of
   the run without (lower bounds).
5. Without the cold start the format is learnt later: over the first third of the steps, fewer
   rollouts are well formed (in every seed).
"""
"""Written down before the runs of the seeds that are reported.

Settings were chosen on seeds 100 and 101. On seed 100 with 60 steps after a weaker cold start (3
epochs at 5e-4), memorisation once led to answers from memory alone, unknown facts included: once
all rollouts of a group are wrong alike, nothing speaks against the paths that are imitated.
"""


WORLDS: Mapping[str, type[Home]] = {"small": SmallHome, "encyclopaedia": EncyclopaediaHome}


def run(args: argparse.Namespace) -> None:
    """Make all that is not there."""
    torch.set_num_threads(1)
    for seed in args.seeds:
        home = WORLDS[args.world](args.folder / f"seed-{seed}", seed)
        for condition in args.conditions:
            run_one(home, condition)
            print(f"seed {seed}, {condition}: done", flush=True)


# The report.

Results = dict[str, list[dict[str, Any]]]  # by condition, seed after seed


def read_results(folder: Path) -> Results:
    """Return the records of all conditions, the cold start first."""
    records = [json.loads(file.read_text()) for file in folder.glob("seed-*/*/result.json")]
    results: Results = {}
    for name in (COLD, *CONDITIONS):
        found = [record for record in records if record["condition"] == name]
        if found:
            results[name] = sorted(found, key=lambda record: record["seed"])
    return results


def mean_of(
    record: Mapping[str, Any], questions: str, part: str, known: bool | None = None
) -> float:
    """Return the mean of a part of the scores, on known or unknown facts alone."""
    scores = Scores.from_json(record["scores"][questions])
    values = np.asarray(scores._asdict()[part], float)
    chosen = np.ones(len(values), bool) if known is None else scores.known == known
    return float(values[chosen].mean())


def over_seeds(values: Sequence[float]) -> Interval:
    """Return the mean over seeds with its 95 % t interval."""
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Interval(mean, -math.inf, math.inf, count)
    half = t_quantile(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


class Gap(NamedTuple):
    """A condition less another one, ``scale`` times, on the seeds that both have."""

    results: Results
    first: str
    second: str
    scale: float = 1.0

    def of(self, questions: str, part: str, known: bool | None = None) -> Interval:
        """Return the difference in a part of the scores."""
        means = [
            {r["seed"]: mean_of(r, questions, part, known) for r in self.results[name]}
            for name in (self.first, self.second)
        ]
        shared = sorted(means[0].keys() & means[1].keys())
        return over_seeds([means[0][seed] - self.scale * means[1][seed] for seed in shared])


def early_format(folder: Path, condition: str, seed: int) -> float:
    """Return the share of well-formed rollouts in the first third of the steps."""
    log = read_log(folder / f"seed-{seed}" / condition.replace(" ", "-") / "metrics.jsonl")
    rows = [row.metrics["format/well_formed"] for row in log.steps]
    return float(np.mean(rows[: max(1, len(rows) // 3)]))


def outcomes(results: Results, folder: Path) -> str:
    """Return what came of each claim."""
    fewer = Gap(results, PLUS, PLAIN, 0.7).of("test", "searches")
    right = Gap(results, PLUS, PLAIN).of("test", "right")
    rates = [
        over_seeds([mean_of(r, "test", "searches", known) for r in results[PLUS]]).mean
        for known in (False, True)
    ]
    more = Gap(results, NO_GROUP, PLUS).of("test", "searches")
    rise = Gap(results, PLUS, COLD).of("train", "recalled", False)
    apart = Gap(results, PLUS, NO_MEMORY).of("train", "recalled", False)
    seeds = [record["seed"] for record in results[NO_COLD_START]]
    formed = [
        [early_format(folder, name, seed) for seed in seeds] for name in (NO_COLD_START, PLUS)
    ]
    later = all(one < other for one, other in zip(*formed, strict=True))
    found = (
        (
            fewer.high < 0 and right.low > -0.02,
            f"searches less .7 times R1-Searcher's {shown(fewer)}; EM {shown(right)}.",
        ),
        (rates[0] >= 0.8 and rates[1] <= 0.3, "search rates {:.2f} and {:.2f}.".format(*rates)),
        (more.low > 0.05, f"searches {shown(more)}."),
        (
            rise.low >= 0.05 and apart.low >= 0.05,
            f"{shown(rise)} over the cold start, {shown(apart)} over the run without.",
        ),
        (later, "well formed {:.3f} and {:.3f} (with it).".format(*map(np.mean, formed))),
    )
    return "\n".join(
        f"{number}. {'**Holds**' if holds else '**Fails**'}: {text}"
        for number, (holds, text) in enumerate(found, 1)
    )


def shown(value: Interval) -> str:
    """Return a difference with its interval."""
    return f"{value.mean:+.3f} ({value.low:+.3f} to {value.high:+.3f})"


class Column(NamedTuple):
    """A mean over questions; ``known``: whether they are on facts that were read, None for all."""

    title: str
    questions: str
    part: str
    known: bool | None = None


_COLUMNS = (
    Column("EM", "test", "right"),
    Column("EM, known", "test", "right", True),
    Column("EM, unknown", "test", "right", False),
    Column("searches", "test", "searches"),
    Column("known", "test", "searches", True),
    Column("unknown", "test", "searches", False),
    Column("well formed", "test", "formed"),
)
_MEMORY = (
    Column("read, trained on", "train", "recalled", True),
    Column("read, never asked", "test", "recalled", True),
    Column("only retrieved", "train", "recalled", False),
    Column("never seen", "test", "recalled", False),
    Column("EM on trained questions", "train", "right"),
    Column("searches on them", "train", "searches"),
)


def table_of(results: Results, columns: Sequence[Column]) -> str:
    """Return a table of means over seeds."""
    rows = [
        [name, str(len(records))]
        + [interval([mean_of(r, c.questions, c.part, c.known) for r in records]) for c in columns]
        for name, records in results.items()
    ]
    return table(["condition", "seeds", *(column.title for column in columns)], rows)


def costs(results: Results, folder: Path) -> str:
    """Return the seconds of a step by part, and the minutes of a run."""
    rows = []
    parts = ("rollout", "rewrite", "learn", "memory_loss", "step")
    for name in CONDITIONS:
        for record in results.get(name, ())[:1]:
            place = folder / f"seed-{record['seed']}" / name.replace(" ", "-") / "metrics.jsonl"
            steps = [row.metrics for row in read_log(place).steps]
            seconds = [float(np.mean([m.get(f"time/{p}", 0.0) for m in steps])) for p in parts]
            share = (seconds[1] + seconds[3]) / seconds[4]
            minutes = f"{record['seconds'].get('train', 0.0) / 60:.1f}"
            rows.append([name, *(f"{s:.2f}" for s in seconds), f"{share:.0%}", minutes])
    columns = ["condition", "rollout", "rewriting", "learning", "of it memory loss", "step"]
    return table([*columns, "memorisation", "CPU minutes"], rows)


def report(args: argparse.Namespace) -> None:
    """Write the tables, what came of the claims, and the results by question."""
    results = read_results(args.folder)
    seeds = sorted({record["seed"] for records in results.values() for record in records})
    module = "python -m search_env.benchmarks.studies.internal_knowledge"
    world = f"--world {args.world}"
    numbers = " ".join(map(str, seeds))
    command = f"{module} run {world} --seeds {numbers}; {module} report {world}"
    packages = ("search-env", "torch", "transformers", "numpy")
    text = heading("When not to search", command, packages)
    text += f"\n{WORLDS[args.world].legend}\n\n{table_of(results, _COLUMNS)}\n"
    text += f"## Closed book\n\n{_CLOSED}\n{table_of(results, _MEMORY)}\n"
    text += f"## Seconds of a step, first seed\n\n{costs(results, args.folder)}\n"
    text += f"## What was claimed, before the runs\n\n{CLAIMS}\n"
    if {COLD, *CONDITIONS} <= results.keys():
        text += f"## What came\n\n{outcomes(results, args.folder)}\n"
    publish(text, args.output)
    if args.episodes is not None:
        args.episodes.write_bytes(gzip.compress(json.dumps(results).encode(), mtime=0))


_CLOSED = """\
Exact match where episodes begin with recall and cannot search, by what could be known.
"""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    everything = [COLD, *CONDITIONS]
    running = commands.add_parser("run")
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    running.add_argument("--conditions", nargs="+", default=everything, choices=everything)
    running.set_defaults(function=run)
    reporting = commands.add_parser("report")
    reporting.add_argument("--output", type=Path)
    reporting.add_argument("--episodes", type=Path, help="compressed results by question")
    reporting.set_defaults(function=report)
    for command in (running, reporting):
        command.add_argument("--world", default="small", choices=WORLDS)
        command.add_argument("--folder", type=Path, help="by default, of runs/internal_knowledge")
    args = parser.parse_args()
    args.folder = args.folder or Path("runs/internal_knowledge") / args.world
    args.function(args)


if __name__ == "__main__":
    main()
