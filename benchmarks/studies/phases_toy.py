r"""When does learning to search need its own phase? On the toy, where both answers can come out.

    python -m search_env.benchmarks.studies.phases_toy --output benchmarks/results/phases_toy.md \
        --episodes benchmarks/results/phases_toy_episodes.json.gz --plot docs/images/phases_toy.png

A base policy is cloned from scripts: it searches in a quarter of its episodes, with the right
query, and cannot read what it finds, since documents are in a code. Else it guesses the common
answer. Where that answer is common enough, searching does not pay yet. Stable-Baselines3's PPO then
trains it under R1-Searcher's first reward, its second, or both in turn, without any shaping.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.progress import Progress

from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.benchmarks.studies.phases_toy_runs import (
    ARMS,
    COMMON,
    STEPS,
    TEST_SEEDS,
    Job,
    Result,
    run,
)
from search_env.metrics.statistics import Interval, bootstrap_crossed, sign_test
from search_env.paths import append

BETWEEN = (0.1, 0.2, 0.5, 0.65)
"""Other shares, with fewer seeds and without a claim."""

CLAIMS = """\
1. Where searching does not pay yet, phase 2 alone unlearns it: search rate below .1 at the end in
   at least 16 of 20 seeds.
2. There both phases end above .9 searches in at least 16 of 20 seeds, and answer better than phase
   2 alone by .1 or more (lower bound of the interval over seeds and questions).
3. There phase 1 alone searches and does not learn to read: below both phases by .1 or more (upper
   bound).
4. Where searching pays from the start, the first phase adds nothing: phase 2 alone ends above .9
   searches in at least 16 of 20 seeds, and within .05 of both phases (the whole interval).
"""


def run_all(jobs: Sequence[Job], file: Path, workers: int) -> dict[Job, Result]:
    """Run what the file does not hold yet, several at a time, and return all results."""
    results = {}
    if file.exists():
        for line in file.read_text("utf-8").splitlines():
            job, content = json.loads(line)
            results[Job(*job)] = Result.from_json(content)
    left = [job for job in jobs if job not in results]
    file.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool, Progress() as progress:
        futures = {pool.submit(run, job): job for job in left}
        for future in progress.track(as_completed(futures), len(left), description="runs"):
            job, results[job] = futures[future], future.result()
            append(file, json.dumps([job, results[job].to_json()]).encode() + b"\n")
    return {job: results[job] for job in jobs}


def plan(seeds: int, fewer: int) -> list[Job]:
    """Return the runs: all arms in the two settings of the claims, two arms between."""
    arms = ("base", *ARMS)
    jobs = [Job(c, arm, s) for c in COMMON.values() for arm in arms for s in range(seeds)]
    two = ("phase 2 alone", "both phases")
    return jobs + [Job(c, arm, s) for c in BETWEEN for arm in two for s in range(fewer)]


class Cell:
    """All seeds of an arm where a guess is worth so much."""

    def __init__(self, results: Mapping[Job, Result], common: float, arm: str) -> None:
        own = sorted(job for job in results if job[:2] == (common, arm))
        self.seeds = [results[job] for job in own]
        self.right = np.array([result.right for result in self.seeds])  # (seeds, questions)
        self.rates = np.array([result.searched.mean() for result in self.seeds])

    def over(self, other: Cell) -> Interval:
        """Return the gain over another arm with the same seeds."""
        return bootstrap_crossed((self.right.astype(float) - other.right).tolist())

    def p_values(self, other: Cell) -> tuple[float, float]:
        """Return those of the sign tests over seeds and over questions."""
        difference = self.right.astype(float) - other.right
        means = (difference.mean(axis) for axis in (1, 0))
        over_seeds, over_questions = (
            sign_test(int((mean > 0).sum()), int((mean < 0).sum())) for mean in means
        )
        return over_seeds, over_questions

    def row(self, name: str) -> list[str]:
        """Return the cells of the table."""
        em = bootstrap_crossed(self.right.tolist())
        rates = f"{self.rates.mean():.3f} ({self.rates.min():.3f} to {self.rates.max():.3f})"
        searching = f"{(self.rates > 0.9).sum()} / {(self.rates < 0.1).sum()}"
        return [name, str(len(self.seeds)), rates, searching, shown(em)]


def shown(interval: Interval) -> str:
    """Return a mean with its interval."""
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def outcomes(results: Mapping[Job, Result]) -> str:
    """Return what came of each claim."""
    early, paying = COMMON.values()
    cell = partial(Cell, results)
    one, two, both = (cell(early, arm) for arm in ARMS)
    gain, reading = both.over(two), one.over(both)
    alone, pair = cell(paying, "phase 2 alone"), cell(paying, "both phases")
    apart = pair.over(alone)
    unlearnt, kept, found = (
        (two.rates < 0.1).sum(),
        (both.rates > 0.9).sum(),
        (alone.rates > 0.9).sum(),
    )
    need = 0.8 * len(two.seeds)
    return "\n".join(
        f"{number}. {'**Holds**' if holds else '**Fails**'}: {text}"
        for number, (holds, text) in enumerate(
            (
                (unlearnt >= need, f"below .1 in {unlearnt} of {len(two.seeds)} seeds."),
                (
                    kept >= need and gain.low >= 0.1,
                    f"above .9 in {kept} of {len(both.seeds)} seeds; gain over phase 2 alone "
                    f"{shown(gain)}, sign tests over seeds and over questions "
                    "p = {:.1g} and {:.1g}.".format(*both.p_values(two)),
                ),
                (reading.high <= -0.1, f"difference from both phases {shown(reading)}."),
                (
                    found >= need and -0.05 < apart.low <= apart.high < 0.05,
                    f"above .9 in {found} of {len(alone.seeds)} seeds; both phases less phase 2 "
                    f"alone {shown(apart)}.",
                ),
            ),
            1,
        )
    )


def plot(results: Mapping[Job, Result], path: Path) -> None:
    """Draw search rate and F1 of the training episodes, and the scores against a guess's worth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), dpi=100, layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    early = COMMON["searching does not pay yet"]
    for column, (axis, name) in enumerate(zip(axes, ("search rate", "F1"), strict=False), 1):
        for arm in ARMS:
            curves = np.array([result.curve for result in Cell(results, early, arm).seeds])
            steps, values = curves[0, :, 0] / 1000, curves[:, :, column]
            (line,) = axis.plot(steps, values.mean(0), label=arm)
            low, high = values.min(0), values.max(0)
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, lw=0)
        axis.set(title=f"{name} where a guess is worth .43", xlabel="thousand environment steps")
    shares = sorted({job.common for job in results})
    worth = [share + (1 - share) / 8 for share in shares]
    for arm, marker, colour in (("phase 2 alone", "o", "C1"), ("both phases", "s", "C2")):
        cells = [Cell(results, share, arm) for share in shares]
        each = [cell.right.mean(1) for cell in cells]
        axes[2].plot(worth, [values.mean() for values in each], color=colour, label=arm)
        for x, values in zip(worth, each, strict=True):
            axes[2].plot([x] * len(values), values, marker, color=colour, ms=4, alpha=0.4)
    axes[2].plot(worth, worth, ls="--", color="0.5", label="guessing")
    axes[2].set(title="EM on unseen questions at the end", xlabel="worth of a guess")
    for axis in axes:
        axis.set_ylim(-0.02, 1.05)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def page(args: argparse.Namespace) -> str:
    """Run, draw, and return the tables."""
    results = run_all(plan(args.seeds, args.fewer), args.runs, args.jobs)
    if args.plot is not None:
        plot(results, args.plot)
    if args.episodes is not None:
        lines = [json.dumps([job, result.to_json()]) + "\n" for job, result in results.items()]
        args.episodes.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    columns = ["arm", "seeds", "search rate (range)", "seeds above .9 / below .1", "EM"]
    tables = []
    for title, common in COMMON.items():
        rows = [Cell(results, common, arm).row(arm) for arm in ("base", *ARMS)]
        tables.append(f"## {title.capitalize()} ({common:g})\n\n{table(columns, rows)}\n")
    between = [
        [f"{common:g}", *Cell(results, common, arm).row(arm)]
        for common in sorted({job.common for job in results})
        for arm in ("phase 2 alone", "both phases")
    ]
    design = " ".join(__doc__.split("\n\n")[2].split())
    return f"""{design}

{STEPS:,} steps, seeds 0 to {args.seeds - 1}; settings in `phases_toy_runs.py`, chosen on seeds 100
to 102 and the validation split. Scores are of greedy episodes on {64 * len(TEST_SEEDS):,}
questions, {len(TEST_SEEDS)} tables of the test split; EM with 95 % intervals over seeds and
questions (pigeonhole bootstrap).

{chr(10).join(tables)}
## What was claimed, before the runs

{CLAIMS}
## What came

{outcomes(results)}

## Other worths of a guess (no claim)

{table(["common answer", *columns], between)}

Results by question: `phases_toy_episodes.json.gz`, a line for each run; `right` and `searched` are
bits in hexadecimal digits, by table and question.
"""


if __name__ == "__main__":
    arguments = parser(__doc__, __spec__.name)
    arguments.add_argument("--seeds", type=int, default=20, help="of the claims, from 0")
    arguments.add_argument("--fewer", type=int, default=5, help="seeds between, from 0")
    arguments.add_argument("--jobs", type=int, default=2, help="runs at a time")
    arguments.add_argument("--runs", type=Path, default=Path("runs/phases_toy.jsonl"))
    arguments.add_argument("--episodes", type=Path, help="compressed results by question")
    arguments.add_argument("--plot", type=Path, help="picture to write")
    packages = ["gymnasium", "torch", "stable-baselines3"]
    measure(arguments, "The phases on the toy", packages, page)
