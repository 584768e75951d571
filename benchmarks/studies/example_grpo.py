"""Does the GRPO in one file teach the bundled base to search? Seed by seed.

    python -m search_env.benchmarks.studies.example_grpo --output benchmarks/results/example_grpo.md

Each seed is a run of ``agents/examples/grpo_search.py`` with its own settings: greedy episodes on
100 questions of the validation split, of one and two hops, before and after.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import torch

from search_env.agents.examples.grpo_search import Args, train
from search_env.benchmarks.reports.measurement_page import interval, measure, parser, table

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


def page(args: argparse.Namespace) -> str:
    """Run all seeds and return the table."""
    torch.set_num_threads(1)
    results = [run(Args(seed=seed)) for seed in range(args.seeds)]
    config = Args()
    return f"""`agents/examples/grpo_search.py`: {config.steps} steps of {config.prompts} questions
with {config.group_size} episodes each, reward `{config.reward}`; greedy episodes on
{config.questions} validation questions of one and two hops. Seconds are of the whole run, both
evaluations included; seconds of a shared machine are more than its CPU seconds. Intervals: 95 % t
over seeds.

{report(results)}
"""


def main() -> None:
    """Run all seeds, write the table."""
    options = parser(__doc__, __spec__.name)
    options.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    packages = ["torch", "transformers", "gymnasium", "numpy"]
    measure(options, "GRPO in one file, seed by seed", packages, page)


if __name__ == "__main__":
    main()
