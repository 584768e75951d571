"""Does Stable-Baselines3's PPO teach the bundled base to search? Seed by seed.

    python -m benchmarks.studies.sb3_learning --output benchmarks/results/sb3_learning.md

Each seed is a run of ``agents/examples/sb3_tiny.py`` with its own settings: half of the reward for
a search, half for the format, one-hop questions, until episodes are paid enough. Scores are of
sampled episodes on questions that nobody trained on; intervals are t intervals over seeds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple, cast

import torch

from agents.examples.sb3_tiny import Printer, Score, make_ppo, score
from agents.sb3 import CausalLMPolicy
from benchmarks.reports.measurement_page import heading, interval, publish, table

PACKAGES = ("search-env", "stable-baselines3", "torch", "transformers", "numpy")


class Result(NamedTuple):
    """One seed: scores before and after, and what it took."""

    before: Score
    after: Score
    tokens: int
    minutes: float


def run(seed: int, steps: int, rows: int, rollout: int, questions: int) -> Result:
    """Score, train, score."""
    ppo = make_ppo("tiny-base", rows, rollout, seed)
    model = cast(CausalLMPolicy, ppo.policy).model
    before, start = score(model, questions), time.process_time()
    ppo.learn(steps, Printer())
    minutes = (time.process_time() - start) / 60
    return Result(before, score(model, questions), ppo.num_timesteps, minutes)


def report(results: list[Result]) -> str:
    """Return the table of all seeds."""
    rows = [
        [name, *(interval(values, 2) for values in zip(*scores, strict=True))]
        for name, scores in (
            ("before", [result.before for result in results]),
            ("after", [result.after for result in results]),
        )
    ]
    rows += [
        [f"after, seed {seed}", *(f"{value:.2f}" for value in result.after)]
        for seed, result in enumerate(results)
    ]
    tokens = ", ".join(f"{result.tokens:,}" for result in results)
    minutes = interval([result.minutes for result in results], 1)
    return (
        f"{table(['', 'search rate', 'format kept', 'exact match'], rows)}\n\n"
        f"Tokens written in training: {tokens}. CPU minutes of training: {minutes}.\n"
    )


def main() -> None:
    """Run all seeds, write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--steps", type=int, default=131_072, help="tokens to write in training")
    parser.add_argument("--rows", type=int, default=16, help="episodes side by side")
    parser.add_argument("--rollout", type=int, default=1024, help="tokens of each row an update")
    parser.add_argument("--questions", type=int, default=256, help="to score by")
    parser.add_argument("--output", type=Path, help="file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    head = heading(
        "Stable-Baselines3's PPO on the bundled base",
        "python -m benchmarks.studies.sb3_learning",
        PACKAGES,
    )
    results = [
        run(seed, given.steps, given.rows, given.rollout, given.questions)
        for seed in range(given.seeds)
    ]
    publish(f"{head}\n{report(results)}", given.output)


if __name__ == "__main__":
    main()
