"""Does Stable-Baselines3's PPO teach the bundled base to search? Seed by seed.

    python -m search_env.benchmarks.studies.sb3_learning --output benchmarks/results/sb3_learning.md

Each seed is a run of ``agents/examples/sb3_tiny.py`` with its own settings. Scores are of sampled
episodes on questions that nobody trained on; intervals are t intervals over seeds.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple, cast

import torch

from search_env.agents.bridges.sb3_policy import CausalLMPolicy
from search_env.agents.examples.sb3_tiny import Printer, Score, make_ppo, score
from search_env.benchmarks.reports.measurement_page import interval, measure, parser, table


class SeedResult(NamedTuple):
    """One seed: scores before and after, and what it took."""

    before: Score
    after: Score
    tokens: int
    minutes: float


def train_seed(seed: int, steps: int, rows: int, rollout: int, questions: int) -> SeedResult:
    """Score, train, score."""
    ppo = make_ppo("tiny-base", rows, rollout, seed)
    model = cast(CausalLMPolicy, ppo.policy).model
    before, start = score(model, questions), time.process_time()
    ppo.learn(steps, Printer())
    minutes = (time.process_time() - start) / 60
    return SeedResult(before, score(model, questions), ppo.num_timesteps, minutes)


def report(results: list[SeedResult]) -> str:
    """Return the table of all seeds."""
    rows = [
        [when, *(interval(values, 2) for values in zip(*scores, strict=True))]
        for when, scores in (
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


def page(args: argparse.Namespace) -> str:
    """Run all seeds and return the table."""
    torch.set_num_threads(1)
    numbers = args.steps, args.rows, args.rollout, args.questions
    return report([train_seed(seed, *numbers) for seed in range(args.seeds)])


def main() -> None:
    """Run all seeds, write the table."""
    options = parser(__doc__, __spec__.name)
    options.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    options.add_argument("--steps", type=int, default=131_072, help="tokens to write in training")
    options.add_argument("--rows", type=int, default=16, help="episodes side by side")
    options.add_argument("--rollout", type=int, default=1024, help="tokens of each row an update")
    options.add_argument("--questions", type=int, default=256, help="to score by")
    packages = ["stable-baselines3", "torch", "transformers", "numpy"]
    measure(options, "Stable-Baselines3's PPO on the bundled base", packages, page)


if __name__ == "__main__":
    main()
