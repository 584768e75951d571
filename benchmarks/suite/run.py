"""Running the suite: every experiment with every seed, side by side, resumed after a stop."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from search_env.benchmarks.harness.errors import BenchmarkError, ResultsError, ResultsMismatchError
from search_env.benchmarks.suite.experiments import EXPERIMENTS
from search_env.benchmarks.suite.scores import VERSION, Run, training_curve
from search_env.benchmarks.suite.task import Act, Task, open_task
from search_env.errors import ConfigurationError, DataNotFoundError, nearest
from search_env.paths import append
from search_env.registry import search_here
from search_env.validation import check_count

Algorithm = Callable[[Task], Act]
SEEDS = 10
REFERENCE_MODULE = "search_env.benchmarks.suite.reference"


class AlgorithmError(BenchmarkError):
    """An algorithm failed in an experiment."""


def run_suite(
    algorithm: str | Algorithm,
    file: Path,
    *,
    name: str | None = None,
    experiments: Sequence[str] | None = None,
    seeds: int = SEEDS,
    jobs: int | None = None,
    on_run: Callable[[Run], None] | None = None,
) -> list[Run]:
    """Train and measure an algorithm in every experiment with every seed.

    Args:
        algorithm: A function that other processes can import, or its name: ``MODULE:NAME``, or
            that of a reference algorithm.
        file: Where runs are appended as JSON lines; those that it holds are not made again.
        name: Name of the algorithm in tables; by default that of the function.
        experiments: Names of some experiments; all by default.
        seeds: Seeds 0 to this number.
        jobs: Processes side by side, of one thread each; by default one for each processor.
        on_run: Is called with each new run.

    Returns:
        The runs, those of the file included.

    Raises:
        ConfigurationError: No such experiment or algorithm, or an impossible number.
        ResultsMismatchError: The file is of another version of the suite.
        AlgorithmError: The algorithm raised an error; finished runs are in the file.
    """
    names = check_experiments(experiments)
    check_count("seeds", seeds, 1)
    name = name or name_of(algorithm)
    load_algorithm(algorithm)
    runs = read_runs(file) if file.exists() else []
    done = {(run.experiment, run.seed) for run in runs if run.algorithm == name}
    cells = [(e, s) for s in range(seeds) for e in names if (e, s) not in done]
    file.parent.mkdir(parents=True, exist_ok=True)
    workers = check_count("jobs", jobs or os.cpu_count() or 1, 1)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        futures = {pool.submit(run_one, algorithm, name, e, s): (e, s) for e, s in cells}
        try:
            for future in as_completed(futures):
                run = future.result()
                append(file, json.dumps(run.to_json()).encode() + b"\n")
                runs.append(run)
                if on_run is not None:
                    on_run(run)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [run for run in runs if run.algorithm == name and run.experiment in names]


def run_one(algorithm: str | Algorithm, name: str, experiment: str, seed: int) -> Run:
    """Train and measure an algorithm in one experiment with one seed, on one thread."""
    import torch

    torch.set_num_threads(1)
    train = load_algorithm(algorithm)
    with open_task(EXPERIMENTS[experiment], seed) as task:
        begun = time.process_time()
        try:
            act = train(task)
            seconds = time.process_time() - begun
            returns = task.measure(act)
        except Exception as error:
            raise AlgorithmError(
                f"Expected {name!r} to train in {experiment!r} with seed {seed} and to return a "
                f"function from observations to actions, got {type(error).__name__}: {error}. Try "
                f"it alone: search_env.benchmarks.suite.run.run_one."
            ) from error
        budget = task.experiment.budget
        return Run(
            algorithm=name,
            experiment=experiment,
            seed=seed,
            curve=tuple(round(value, 4) for value in training_curve(task.episodes, budget)),
            returns=tuple(round(float(value), 4) for value in returns),
            tokens=budget - task.left,
            seconds=round(seconds, 1),
        )


def read_runs(file: Path) -> list[Run]:
    """Return the runs of a file of JSON lines, which may be compressed (``.gz``).

    Raises:
        DataNotFoundError: No such file.
        ResultsError: A line is no run.
        ResultsMismatchError: A run is of another version of the suite.
    """
    if not file.exists():
        raise DataNotFoundError(f"Expected runs of the suite in {file}, got no file. See its name.")
    content = file.read_bytes()
    text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8")
    return [_read_run(file, number, line) for number, line in enumerate(text.splitlines(), 1)]


def write_runs(file: Path, runs: Iterable[Run]) -> None:
    """Write runs as compressed JSON lines, the same bytes for the same runs."""
    lines = "".join(json.dumps(run.to_json()) + "\n" for run in runs)
    file.write_bytes(gzip.compress(lines.encode(), mtime=0))


def _read_run(file: Path, number: int, line: str) -> Run:
    try:
        row: dict[str, Any] = json.loads(line)
        version = row.pop("suite")
        values = {field.name: row[field.name] for field in fields(Run)}
        run = Run(**values | {name: tuple(values[name]) for name in ("curve", "returns")})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(
            f"Expected a run of the suite in line {number} of {file}, got {line[:80]!r}. Remove "
            "the line; its run is made again."
        ) from error
    if version != VERSION or run.experiment not in EXPERIMENTS:
        raise ResultsMismatchError(
            f"Expected runs of version {VERSION} of the suite in {file}, got version {version!r}, "
            f"experiment {run.experiment!r}. Write to another file."
        )
    return run


def check_experiments(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return names of experiments, all of them for None."""
    for name in names or ():
        if name not in EXPERIMENTS:
            raise ConfigurationError(
                f"Expected an experiment among {', '.join(EXPERIMENTS)}, got {name!r}. "
                f"{nearest(name, EXPERIMENTS)}"
            )
    return tuple(names or EXPERIMENTS)


def name_of(algorithm: str | Algorithm) -> str:
    """Return the name of an algorithm for tables."""
    if isinstance(algorithm, str):
        return algorithm.rpartition(":")[2]
    return getattr(algorithm, "__name__", type(algorithm).__name__)


def load_algorithm(algorithm: str | Algorithm) -> Algorithm:
    """Return the function that ``MODULE:NAME`` or the name of a reference algorithm stands for."""
    if not isinstance(algorithm, str):
        return algorithm
    module, _, name = algorithm.rpartition(":")
    if not module:
        references: Mapping[str, Algorithm] = importlib.import_module(REFERENCE_MODULE).REFERENCES
        if name in references:
            return references[name]
        raise ConfigurationError(
            f"Expected MODULE:NAME or an algorithm among {', '.join(references)}, got "
            f"{algorithm!r}. {nearest(name, references)}"
        )
    search_here()
    try:
        found: Algorithm = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"Expected the algorithm {name!r} in module {module!r}, got: {error}. Run in the "
            "folder of its file, or install it."
        ) from error
    if not callable(found):
        raise ConfigurationError(
            f"Expected {algorithm!r} to be a function of a task, got {type(found).__name__}. See "
            "docs/suite.md."
        )
    return found
