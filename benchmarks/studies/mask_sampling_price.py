"""Three questions on the suite's policies: mask and rate, rejection sampling, price of a search.

    python -m search_env.benchmarks.studies.mask_sampling_price --seeds 5 \
        --output benchmarks/results/mask_sampling_price.md

Worlds, bases and policy are those of ``search-env suite``, with seeds of their own (200 and on).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch

from search_env.benchmarks.reports.measurement_page import interval, measure, parser, table
from search_env.benchmarks.suite.base import Demonstrations, Habits
from search_env.benchmarks.suite.experiments import EXPERIMENTS, Experiment
from search_env.benchmarks.suite.policy import Policy, clone, imitate
from search_env.benchmarks.suite.reference import (
    Reference,
    Rollouts,
    collect,
    every_token,
    join,
    policy_tokens,
)
from search_env.benchmarks.suite.task import Act, BudgetSpentError, Task, open_task
from search_env.rewards import F1
from search_env.rewards.shaping import search_cost

FIRST_SEED = 200
RATES = (1e-3, 3e-4, 1e-4)
PRICES = (0.0, 0.1, 0.2, 0.4)
ROUNDS, EPOCHS, RATE = 4, 4, 1e-3  # of rejection sampling

CLAIMS = """\
1. Without the mask GRPO ends lower on long documents than with it at 1e-3 (all of the interval of
   the difference below 0), and the difference is smaller at 1e-4.
2. Rejection sampling (four rounds) ends within .1 of GRPO on `credit`, and imitation of perfect
   episodes followed by GRPO at or above GRPO alone.
3. A price of .2 makes GRPO search at most .2 of the known questions and at least .8 of the unknown
   ones; without a price it goes on searching for more than half of the known ones.
"""
"""Written before the runs."""


class Outcome(NamedTuple):
    """What one run came to; searches are shares of episodes with one."""

    final: float  # mean return on the unseen world
    searches_known: float
    searches_unknown: float


class Job(NamedTuple):
    """One run: its question, condition and seed."""

    question: str
    condition: str
    seed: int


def conditions() -> dict[str, dict[str, tuple[Experiment, Callable[[Task], Act]]]]:
    """Return experiment and algorithm of each condition of each question."""
    long, credit, price = (EXPERIMENTS[name] for name in ("long-documents", "credit", "restraint"))
    grpo = Reference("grpo", 1e-3)
    return {
        "mask": {
            f"{name}, rate {rate:g}": (long, Reference("grpo", rate, mask))
            for rate in RATES
            for name, mask in (("with the mask", policy_tokens), ("without", every_token))
        },
        "sampling": {
            "GRPO": (credit, grpo),
            "rejection sampling": (credit, rejection_sampling),
            "imitation of perfect episodes": (replace(credit, habits=PERFECT), only_imitate),
            "that, then GRPO": (replace(credit, habits=PERFECT), grpo),
        },
        "price": {
            f"price {p:g}": (
                replace(price, reward=(F1 + search_cost(p)).renamed(f"f1-price-{p:g}")),
                grpo,
            )
            for p in PRICES
        },
    }


PERFECT = Habits(search=1.0, go_on=1.0, read=1.0)


def only_imitate(task: Task) -> Act:
    """Return the clone of the base."""
    return clone(task).greedy()


def rejection_sampling(task: Task) -> Act:
    """Sample with a quarter of the budget, imitate what was right, four times."""
    policy = clone(task)
    envs = task.make_vec(64, group_size=8)
    random = torch.Generator().manual_seed(task.seed)
    share = task.experiment.budget // ROUNDS
    for number in range(ROUNDS):
        right: list[Demonstrations] = []
        try:
            while task.left > share * (ROUNDS - 1 - number):
                right.append(kept(collect(envs, policy, random, task.left)))
        except BudgetSpentError:
            pass
        learn(policy, right, task.seed + number)
    return policy.greedy()


def kept(rollouts: Rollouts) -> Demonstrations:
    """Return the episodes with the best return, as episodes to imitate."""
    best = rollouts.rewards >= 1.0
    written = torch.nn.functional.pad(rollouts.written, (1, 0))
    return Demonstrations(rollouts.tokens[best].numpy(), written[best].numpy())


def learn(policy: Policy, parts: Sequence[Demonstrations], seed: int) -> None:
    """Imitate episodes."""
    tokens = join(tuple(torch.as_tensor(part.tokens) for part in parts)).numpy()
    written = join(tuple(torch.as_tensor(part.written) for part in parts)).numpy()
    if len(tokens):
        imitate(policy, Demonstrations(tokens, written), seed, epochs=EPOCHS, rate=RATE)


def run(job: Job) -> Outcome:
    """Train and measure."""
    torch.set_num_threads(1)
    experiment, algorithm = conditions()[job.question][job.condition]
    with open_task(experiment, job.seed) as task:
        episodes = task.play(algorithm(task))
        known = ["value" in episode.question.text for episode in episodes]
        searched = np.array([bool(episode.searches) for episode in episodes])
        returns = [experiment.reward(episode).total for episode in episodes]
        shares = [
            float(searched[np.equal(known, which)].mean()) if which in known else float("nan")
            for which in (True, False)
        ]
        return Outcome(fmean(returns), *shares)


def page(args: argparse.Namespace) -> str:
    """Run everything; return the page."""
    made = conditions()
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    jobs = [Job(q, c, s) for q, own in made.items() for c in own for s in seeds]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        outcomes = dict(zip(jobs, pool.map(run, jobs), strict=True))

    def values(question: str, condition: str, field: str) -> list[float]:
        return [getattr(outcomes[Job(question, condition, s)], field) for s in seeds]

    parts = [f"Registered before the runs:\n\n{CLAIMS}"]
    columns = ["mean return"]
    for question, own in made.items():
        fields = ["final"]
        if question == "price":
            fields, columns = list(Outcome._fields), ["mean return", "known", "unknown"]
        rows = [[c, *(interval(values(question, c, f)) for f in fields)] for c in own]
        parts.append(f"## {TITLES[question]}\n\n{table(['condition', *columns], rows)}")
    gaps = [
        [
            f"rate {rate:g}",
            interval(
                np.subtract(
                    values("mask", f"without, rate {rate:g}", "final"),
                    values("mask", f"with the mask, rate {rate:g}", "final"),
                ).tolist()
            ),
        ]
        for rate in RATES
    ]
    parts.append(f"Without less with the mask:\n\n{table(['', 'mean return'], gaps)}")
    return "\n\n".join(parts) + "\n"


TITLES = {
    "mask": "Mask and learning rate (`long-documents`)",
    "sampling": "Rejection sampling, imitation, GRPO (`credit`)",
    "price": "Price of a search (`restraint`): shares of episodes that search",
}


def main() -> None:
    """Measure, and write."""
    options = parser(__doc__, "search_env.benchmarks.studies.mask_sampling_price")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--jobs", type=int, default=2)
    measure(options, "Mask, rejection sampling, price", ["torch", "numpy"], page)


if __name__ == "__main__":
    main()
