"""Play many cases: ``python -m tests.fuzz --steps 1000000 --seed 0``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import traceback
from collections import Counter

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tests.fuzz.run import SCENARIOS, STEPS, FuzzError, play_case


def main() -> int:
    """Play cases until the steps are spent or one fails; print what was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--steps", type=int, help="steps of all cases (or of --case)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="play only the case of this number")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="drawn if not given")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--small", action="store_true", help="without the real vocabularies")
    parser.add_argument("--seconds", type=float, help="stop after that many")
    parser.add_argument("--keep-going", action="store_true", help="count failures, print each")
    arguments = parser.parse_args()
    os.environ.setdefault("SEARCH_ENV_CACHE", tempfile.mkdtemp(prefix="search-env-fuzz-cache-"))
    counts: Counter[str] = Counter()
    start, cpu = time.monotonic(), time.process_time()
    large = not arguments.small
    if arguments.case is not None:
        steps = arguments.steps or STEPS
        chosen = {"scenario": arguments.scenario, "large": large, "steps": steps}
        play_case(arguments.seed, arguments.case, counts, **chosen)
    else:
        _play(arguments, counts)
    _print(counts, time.monotonic() - start, time.process_time() - cpu)
    return 1 if counts["failures"] else 0


def _play(arguments: argparse.Namespace, counts: Counter[str]) -> None:
    total = arguments.steps or 100_000
    columns = (BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f} steps"))
    with Progress(*columns, TimeRemainingColumn(), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=total)
        number, start = arguments.first, time.monotonic()
        limit = arguments.seconds or float("inf")
        while counts["steps"] < total and time.monotonic() - start < limit:
            try:
                chosen = {"scenario": arguments.scenario, "large": not arguments.small}
                play_case(arguments.seed, number, counts, **chosen)
            except FuzzError as error:
                if not arguments.keep_going:
                    raise
                counts["failures"] += 1
                traceback.print_exception(error)
            progress.update(task, completed=counts["steps"])
            number += 1


def _print(counts: Counter[str], seconds: float, cpu: float) -> None:
    for name in sorted(counts, key=lambda name: (" " in name, name)):
        print(f"{name:40s} {counts[name]:>12,}")
    print(f"{seconds:,.0f} s, {cpu:,.0f} CPU s, Python {platform.python_version()}, {_processor()}")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    sys.exit(main())
