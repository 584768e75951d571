"""From training and measuring to one score, and which algorithms differ.

The *score* of a run is the mean of two numbers between 0, the experiment's chance level, and 1, its
best: the area under its training curve, which says how fast it learnt, and the mean return on
questions of a world that nobody trained in, which says what it learnt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from search_env.benchmarks.suite.experiments import EXPERIMENTS, Experiment
from search_env.benchmarks.suite.task import Ended
from search_env.metrics.statistics import Interval, bootstrap_mean

BINS = 20  # of a training curve
FLIPS = 20_000  # random assignments of a permutation test
VERSION = 1
"""Of experiments, bases, budgets and scores: results of two versions are not to be compared."""


@dataclass(frozen=True, slots=True)
class Run:
    """One algorithm, trained and measured in one experiment with one seed.

    Attributes:
        algorithm: Its name.
        experiment: The experiment's.
        seed: Of everything random.
        curve: Mean return of the training episodes in each twentieth of the budget.
        returns: Return on each question of the unseen world.
        tokens: Policy tokens that were trained with.
        seconds: CPU time of training.
    """

    algorithm: str
    experiment: str
    seed: int
    curve: tuple[float, ...]
    returns: tuple[float, ...]
    tokens: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the JSON line of a results file."""
        return {"suite": VERSION, **asdict(self)}

    @property
    def area(self) -> float:
        """Mean of the training curve, between chance and best."""
        own = EXPERIMENTS[self.experiment]
        return fmean(_scaled(value, own) for value in self.curve)

    @property
    def final(self) -> float:
        """Mean return on the unseen world, between chance and best."""
        return _scaled(fmean(self.returns), EXPERIMENTS[self.experiment])

    @property
    def score(self) -> float:
        """The mean of both."""
        return (self.area + self.final) / 2


@dataclass(frozen=True, slots=True)
class Difference:
    """How much one algorithm scores above another over the same experiments and seeds.

    Attributes:
        first: Name of the algorithm.
        second: Name of the other.
        gain: Mean difference, with its paired bootstrap interval over runs.
        p_value: Of a sign-flip permutation test over runs, two-sided, corrected by Holm's method.
    """

    first: str
    second: str
    gain: Interval
    p_value: float


def training_curve(episodes: Sequence[Ended], budget: int) -> tuple[float, ...]:
    """Return the mean return in each twentieth of a budget.

    A part in which no episode ended repeats the one before; the first is 0 then.

    Example:
        >>> training_curve([Ended(50, 0.0), Ended(51, 1.0), Ended(1000, 1.0)], 1000)[:3]
        (0.0, 1.0, 1.0)
    """
    parts: list[list[float]] = [[] for _ in range(BINS)]
    for tokens, value in episodes:
        parts[min(BINS - 1, (tokens - 1) * BINS // budget)].append(value)
    curve: list[float] = []
    for part in parts:
        curve.append(fmean(part) if part else (curve[-1] if curve else 0.0))
    return tuple(curve)


def by_algorithm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of each algorithm."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.algorithm, []).append(run)
    return found


def overall(runs: Sequence[Run]) -> Interval:
    """Return the mean score over experiments, with an interval over seeds.

    Each experiment counts the same; a seed counts with the experiments that it has.
    """
    experiments = {run.experiment for run in runs}
    seeds = sorted({run.seed for run in runs})
    cells = {(run.experiment, run.seed): run.score for run in runs}
    whole = [s for s in seeds if all((name, s) in cells for name in experiments)]
    return bootstrap_mean(
        [fmean(cells[name, s] for name in experiments) for s in whole or seeds[:0]]
    )


def of_experiment(runs: Sequence[Run], experiment: str) -> Interval | None:
    """Return the mean score in an experiment, with an interval over seeds; None without runs."""
    scores = [run.score for run in runs if run.experiment == experiment]
    return bootstrap_mean(scores) if scores else None


def differences(
    runs: Mapping[str, Sequence[Run]], pairs: Iterable[tuple[str, str]] | None = None
) -> list[Difference]:
    """Compare pairs of algorithms, all of them by default, on the runs that both have."""
    found = []
    for first, second in pairs or itertools.combinations(runs, 2):
        mine, theirs = (
            {(run.experiment, run.seed): run.score for run in runs[name]}
            for name in (first, second)
        )
        shared = sorted(mine.keys() & theirs.keys())
        if shared:
            gaps = [mine[cell] - theirs[cell] for cell in shared]
            found.append((first, second, bootstrap_mean(gaps), sign_flip_test(gaps)))
    corrected = holm([p for *_, p in found])
    return [
        Difference(first, second, gain, p)
        for (first, second, gain, _), p in zip(found, corrected, strict=True)
    ]


def sign_flip_test(gaps: Sequence[float], flips: int = FLIPS, seed: int = 0) -> float:
    """Return the two-sided p-value of a mean of paired differences if their signs were chance.

    Example:
        >>> sign_flip_test([1.0] * 20) < 0.001, sign_flip_test([1.0, -1.0] * 10)
        (True, 1.0)
    """
    values = np.asarray(gaps, np.float64)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (flips, len(values)))
    extreme = np.abs(signs @ values) >= abs(values.sum()) - 1e-9
    return (int(extreme.sum()) + 1) / (flips + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = least
    return corrected


def _scaled(value: float, experiment: Experiment) -> float:
    share = (value - experiment.chance) / (experiment.best - experiment.chance)
    return min(1.0, max(0.0, share))
