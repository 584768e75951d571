"""Kill commands at every moment, go on, and compare with a run that nobody disturbed.

``python -m scripts.kill_tests COUNT [COMMAND ...]``: each command (``train``, ``train-plus``,
``sft``, ``bench``, ``eval``, ``index``, ``label``, ``sample``, ``revise``) runs for about a second,
COUNT times with SIGINT, COUNT times with SIGTERM and three times COUNT with SIGKILL; then SIGKILL
before and after each of its renames. Half of the moments are write points (opening, appending,
forcing to the disk, renaming, removing; before, after and, for an append, in the middle), the
others lie between two of them. The run is then gone on with as its message says, and must leave the
same files: nothing lost, doubled or left behind. A table is printed; the exit code is the number of
kills that went wrong, at most 100.

Runs are forked from a process that has imported everything. POSIX only; single-threaded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scripts.kill_commands import COMMANDS, Command, prepare
from search_env import paths

_LONGEST = 120.0  # seconds that a run may take


class Point(NamedTuple):
    """A write point that a run passed."""

    name: str
    seconds: float  # since the run began


@dataclass(frozen=True)
class Moment:
    """When to send a signal: this long after the write point of this number."""

    number: int
    seconds: float
    signal: int


class Points:
    """Counts the write points of this process; sends the signal at the moment."""

    def __init__(self, folder: Path, moment: Moment | None, trace: Path) -> None:
        self._folder, self._moment, self._trace = str(folder), moment, trace
        self._passed: list[Point] = []
        self._started = time.monotonic()

    def passed(self, name: str) -> None:
        """Count a write point."""
        number = len(self._passed)
        self._passed.append(Point(name, time.monotonic() - self._started))
        moment = self._moment
        if moment is None or moment.number != number:
            return
        if not moment.seconds:
            os.kill(os.getpid(), moment.signal)
            return
        target = os.getpid()
        reader, writer = os.pipe()
        if not os.fork():
            os.read(reader, 1)  # what others do at a fork swallows errors: it comes after that
            time.sleep(moment.seconds)
            if os.getppid() == target:  # it has not ended
                os.kill(target, moment.signal)
            os._exit(0)
        os.write(writer, b"\0")

    def write_trace(self) -> None:
        """Write the points for the process that draws moments from them."""
        self._trace.write_text(json.dumps(self._passed))

    def install(self) -> None:
        """Wrap what writes files."""
        for name in ("replace", "rename", "mkdir", "unlink", "rmdir", "fsync"):
            original = getattr(os, name)
            setattr(os, name, self._wrapped(name, original))
        paths._swap = self._wrapped("swap", paths._swap)
        paths.append_to = self._torn(paths.append_to)
        for module in (io, __import__("builtins")):
            module.open = self._opened(module.open)

    def _concerns(self, target: Any) -> bool:
        if isinstance(target, int):
            target = os.readlink(f"/proc/self/fd/{target}")
        return os.path.abspath(os.fsdecode(target)).startswith(self._folder + os.sep)

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(target: Any, *arguments: Any, **options: Any) -> Any:
            if options.get("dir_fd") is None and not self._concerns(target):
                return original(target, *arguments, **options)
            self.passed(f"before {name}")
            result = original(target, *arguments, **options)
            self.passed(f"after {name}")
            return result

        return wrapper

    def _torn(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(file: Any, data: bytes) -> None:
            self.passed("before append")
            dies_here = Moment(len(self._passed), 0.0, signal.SIGKILL)
            if self._moment == dies_here:
                file.write(data[: len(data) // 2])
            self.passed("in append")
            original(file, data)
            self.passed("after append")

        return wrapper

    def _opened(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            writes = set(mode) & set("wax+") and not isinstance(file, int)
            if not (writes and self._concerns(file)):
                return original(file, mode, *arguments, **options)
            self.passed("before open")
            opened = original(file, mode, *arguments, **options)
            self.passed("after open")
            return opened

        return wrapper


class Ended(NamedTuple):
    """How a run ended: its exit code, or the negative number of the signal, and its output."""

    code: int
    output: str
    points: list[Point]  # of a run that was not disturbed


def run(arguments: list[str], folder: Path, moment: Moment | None = None) -> Ended:
    """Run a command in a process of its own, whose working directory is the folder."""
    report, trace = folder.with_suffix(".out"), folder.with_suffix(".points")
    trace.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        _become(arguments, folder, report, Points(folder, moment, trace))
    code = _wait(child)
    passed = json.loads(trace.read_text()) if moment is None else []
    points = [Point(*point) for point in passed]
    return Ended(code, report.read_text(errors="replace"), points)


def _become(arguments: list[str], folder: Path, report: Path, points: Points) -> None:
    """Run a command in this forked process; never return."""
    code = 99
    try:
        handle = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(handle, stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(folder)
        points.install()
        from search_env.cli.main import app

        app(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            sys.stdout.flush()
            sys.stderr.flush()
            points.write_trace()
        finally:  # a signal that comes now must not raise in the caller's frames
            os._exit(code)


def _wait(child: int) -> int:
    """Return the exit code of a process, which is killed if it takes too long."""
    until = time.monotonic() + _LONGEST
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"Expected the run to end in {_LONGEST:g} s, got none.")
        time.sleep(0.005)


def moments(points: list[Point], count: int, draw: random.Random) -> Iterator[tuple[str, Moment]]:
    """Yield the moments to kill a command at, by kind."""
    signals = [signal.SIGINT] * count + [signal.SIGTERM] * count + [signal.SIGKILL] * (3 * count)
    for index, number in enumerate(signals):
        at = draw.randrange(len(points))
        gap = points[at + 1].seconds - points[at].seconds if at + 1 < len(points) else 0.1
        between = index % 2 * draw.random() * gap
        yield signal.Signals(number).name, Moment(at, between, number)
    for at, point in enumerate(points):
        if point.name.endswith((" replace", " rename", " swap")):
            yield "each rename", Moment(at, 0.0, signal.SIGKILL)


def attack(command: Command, base: Path, moment: Moment, expected: Any) -> list[str]:
    """Kill a command at a moment and go on; return what is wrong then."""
    folder = Path(tempfile.mkdtemp(dir=base.parent))
    shutil.copytree(base, folder, dirs_exist_ok=True)
    try:
        ended = run(command.arguments, folder, moment)
        faults = _check_end(ended, moment)
        faults += command.check_killed(folder, expected)
        further = run(command.go_on(folder), folder)
        if further.code and not command.is_finished(further.output):
            faults.append(f"going on ended with {further.code}: {further.output[-2000:]}")
        return faults + command.compare(folder, expected)
    finally:
        shutil.rmtree(folder)
        for suffix in (".out", ".points"):
            folder.with_suffix(suffix).unlink(missing_ok=True)


def _check_end(ended: Ended, moment: Moment) -> list[str]:
    """Return what is wrong with the end of a run that got a signal."""
    if moment.signal == signal.SIGKILL:
        return [] if ended.code in (-signal.SIGKILL, 0) else [f"ended with {ended.code}"]
    faults = []
    if ended.code not in (128 + moment.signal, 0):  # 0: it came when all was done
        faults.append(f"ended with {ended.code}, expected {128 + moment.signal}")
    if "Traceback" in ended.output:
        faults.append(f"printed a traceback: {ended.output[-2000:]}")
    if ended.code and "Interrupted" not in ended.output:
        faults.append(f"said nothing: {ended.output[-500:]}")
    return faults


def test(command: Command, base: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Kill a command at many moments; return the numbers of kills by kind, and all faults."""
    whole = Path(tempfile.mkdtemp(dir=base.parent))
    shutil.copytree(base, whole, dirs_exist_ok=True)
    undisturbed = run(command.arguments, whole)
    if undisturbed.code:
        return Counter(), [f"undisturbed it ends with {undisturbed.code}: {undisturbed.output}"]
    expected = command.read(whole)
    kills: Counter[str] = Counter()
    faults = []
    for kind, moment in moments(undisturbed.points, count, random.Random(seed)):
        kills[kind] += 1
        where = f"{command.name}, {kind} {moment.seconds:.4f} s after point {moment.number} "
        where += f"({undisturbed.points[moment.number].name})"
        wrong = attack(command, base, moment, expected)
        faults += [f"{where}: {fault}" for fault in wrong]
    kills["points"] = len(undisturbed.points)
    return kills, faults


def main() -> None:
    """Test all commands; print the table and the faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kill-tests-"))
    wrong = 0
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        base = prepare(root / "base")
        kinds = ("SIGINT", "SIGTERM", "SIGKILL", "each rename", "points")
        print("  ".join(f"{name:>11}" for name in ("command", *kinds, "wrong", "seconds")))
        for name in arguments.commands:
            started = time.monotonic()
            kills, faults = test(COMMANDS[name], base, arguments.count, arguments.seed)
            cells = [name, *(kills[kind] for kind in kinds), len(faults)]
            cells.append(round(time.monotonic() - started))
            print("  ".join(f"{cell:>11}" for cell in cells), flush=True)
            for fault in faults:
                print(f"    {fault}", flush=True)
            wrong += len(faults)
    sys.exit(min(wrong, 100))


if __name__ == "__main__":
    main()
