"""Does the GRPO in one file teach the bundled base to search? Seed by seed.

    python -m search_env.benchmarks.studies.example_grpo --output benchmarks/results/example_grpo.md

Each seed is a run of ``agents/examples/grpo_search.py`` with its own settings: greedy episodes on
100 questions of the validation split, of one and two hops, before and after.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import torch

from search_env.agents.examples.grpo_search import Args, train
from search_env.benchmarks.reports.measurement_page import heading, interval, publish, table

PACKAGES = ("search-env", "torch", "transformers", "gymnasium", "numpy")
SCORES = ("search_rate", "num_searches", "exact_match", "f1", "well_formed")


class Result(NamedTuple):
    """One seed: scores before and after, and what it took, evaluations included."""

    before: dict[str, float]
    after: dict[str, float]
    seconds: float
    cpu_seconds: float


def run(args: Args) -> Result:
    """Score, train, score."""
    start, cpu_start = time.perf_counter(), time.process_time()
    figures = {}
    for name, values in train(args):
        figures[name] = values
        print(f"seed {args.seed}  {name}  {values}", flush=True)
    took = time.perf_counter() - start, time.process_time() - cpu_start
    return Result(figures["before"], figures["after"], *took)


def report(results: list[Result]) -> str:
    """Return the table: the base, each seed, and the mean of the seeds."""
    rows = [["before", *(f"{results[0].before[name]:.3f}" for name in SCORES), "-", "-"]]
    for seed, result in enumerate(results):
        took = f"{result.seconds:.0f}", f"{result.cpu_seconds:.0f}"
        rows.append([f"seed {seed}", *(f"{result.after[name]:.3f}" for name in SCORES), *took])
    means = [interval([result.after[name] for result in results]) for name in SCORES]
    seconds = [interval([result.seconds for result in results], 0)]
    seconds.append(interval([result.cpu_seconds for result in results], 0))
    rows.append(["after, mean", *means, *seconds])
    head = ["", "search rate", "searches", "EM", "F1", "well formed", "seconds", "CPU seconds"]
    return table(head, rows)


def main() -> None:
    """Run all seeds, write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--output", type=Path, help="file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    head = heading(
        "GRPO in one file, seed by seed",
        "python -m search_env.benchmarks.studies.example_grpo",
        PACKAGES,
    )
    results = [run(Args(seed=seed)) for seed in range(given.seeds)]
    args = Args()
    text = (
        f"`agents/examples/grpo_search.py`: {args.steps} steps of {args.prompts} questions with "
        f"{args.group_size} episodes each, reward `{args.reward}`;\ngreedy episodes on "
        f"{args.questions} validation questions of one and two hops. Seconds are of the whole run, "
        "both\nevaluations included; seconds of a shared machine are more than its CPU seconds. "
        "Intervals: 95 % t over seeds.\n"
    )
    publish(f"{head}\n{text}\n{report(results)}\n", given.output)


if __name__ == "__main__":
    main()
