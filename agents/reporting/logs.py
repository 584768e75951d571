"""Observers of a training run, and the logs that they write.

The loop calls an :class:`Observer` and knows nothing of displays or formats. Here are the protocol,
the composite, and two writers: JSON Lines (the log that plots are made from) and TensorBoard. The
live terminal is :mod:`search_env.agents.reporting.dashboard`. Only TensorBoard imports torch.

Metric names are ``group/name``; values are floats. ``NaN`` means that a step did not measure it.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from search_env.agents.types import Trajectory
from search_env.errors import (
    ConfigurationError,
    DataFormatError,
    DataNotFoundError,
    StorageError,
)
from search_env.paths import append, atomic_path

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class Observer(Protocol):
    """Receives the events of a run, in the order below; ``end`` also after a failure."""

    def begin(self, total_steps: int, description: Mapping[str, str]) -> None:
        """Receive the start of a run, or of its next part; it may end before ``total_steps``.

        The description has model, environment and so on, for example ``{"model": "tiny-base"}``.
        """

    def step(self, step: int, metrics: Mapping[str, float], samples: Sequence[Trajectory]) -> None:
        """Receive a finished step, numbered from 1, and its episodes (none in supervised runs)."""

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Receive an evaluation on held-out questions after so many steps; names: ``eval/...``."""

    def warn(self, step: int, text: str) -> None:
        """Receive a monitor's warning about a step."""

    def end(self, step: int, reason: str) -> None:
        """Receive the end of the run after this step, and the reason; close files and displays."""


class Silent(Observer):
    """Ignores all events. Base class of observers that need only some of them."""


class Observers(Silent):
    """Several observers as one, called in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def begin(self, total_steps: int, description: Mapping[str, str]) -> None:
        """Call all."""
        for observer in self._observers:
            observer.begin(total_steps, description)

    def step(self, step: int, metrics: Mapping[str, float], samples: Sequence[Trajectory]) -> None:
        """Call all."""
        for observer in self._observers:
            observer.step(step, metrics, samples)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Call all."""
        for observer in self._observers:
            observer.evaluated(step, metrics)

    def warn(self, step: int, text: str) -> None:
        """Call all."""
        for observer in self._observers:
            observer.warn(step, text)

    def end(self, step: int, reason: str) -> None:
        """Call all, even if one of them fails."""
        with contextlib.ExitStack() as stack:
            for observer in reversed(self._observers):
                stack.callback(observer.end, step, reason)


class JsonLinesLog(Silent):
    """Writes a line of JSON for each event, at once.

    A line holds ``event`` (``begin``, ``step``, ``evaluated``, ``warning`` or ``end``), ``step``,
    ``elapsed`` (seconds of this run, earlier parts of a resumed one included) and the metrics; one
    that is not finite is null. :func:`read_log` reads the file.

    Nothing is written before :meth:`begin`. It creates a missing folder, and removes an incomplete
    last line and the lines after ``resume_step``, the step whose checkpoint the run is resumed
    from; None is for a new run, which replaces the file of one that made no step. A line that
    cannot be written does not end the run: it is written with the next one, at the latest with the
    last, whose failure is an error.

    Raises:
        ConfigurationError: A new run would overwrite another's file.
        DataNotFoundError: There is no file to continue.
        DataFormatError: The file is no log.
    """

    def __init__(self, path: str | Path, *, resume_step: int | None = None) -> None:
        self.path = Path(path)
        self._is_open = self._has_begun = False
        self._started = time.monotonic()
        self._unwritten = b""  # lines that the disk had no room for
        self._kept: list[dict[str, Any]] = []  # lines of earlier parts of the run
        if resume_step:
            lines = _lines(self.path)
            self._kept = [x for x in lines if x["event"] != "end" and x["step"] <= resume_step]
        elif resume_step is None and self.path.exists() and _has_steps(self.path):
            raise ConfigurationError(
                f"Expected a new file to log to, got {self.path}, which holds another run. "
                "Choose another folder, or resume that run."
            )
        self._spent = max((float(line["elapsed"]) for line in self._kept), default=0.0)

    @property
    def spent(self) -> float:
        """Seconds that earlier parts of a resumed run took."""
        return self._spent

    def begin(self, total_steps: int, description: Mapping[str, str]) -> None:
        """Write the description."""
        self._started, self._is_open = time.monotonic(), True
        if not self._has_begun:
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(map(_text, self._kept)), encoding="utf-8")
        self._has_begun = True
        self._write("begin", 0, total_steps=total_steps, description=dict(description))

    def step(self, step: int, metrics: Mapping[str, float], samples: Sequence[Trajectory]) -> None:
        """Write the step's metrics."""
        self._write("step", step, metrics=_finite(metrics))

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the evaluation's metrics, unless a part of the run that was killed then has."""
        if not any(x["event"] == "evaluated" and x["step"] == step for x in self._kept):
            self._write("evaluated", step, metrics=_finite(metrics))

    def warn(self, step: int, text: str) -> None:
        """Write the warning."""
        self._write("warning", step, text=text)

    def end(self, step: int, reason: str) -> None:
        """Write the reason, if :meth:`begin` was called."""
        if self._is_open:
            self._write("end", step, reason=reason)
            self._is_open = False

    def _write(self, event: str, step: int, **content: Any) -> None:
        if not self._is_open:
            raise ConfigurationError(
                f"Expected begin() before {event!r} of step {step}, got none. Call begin() first."
            )
        elapsed = round(self._spent + time.monotonic() - self._started, 3)
        line = {"event": event, "step": step, "elapsed": elapsed, **content}
        self._unwritten += _text(line).encode()
        try:
            append(self.path, self._unwritten)
        except StorageError as error:
            if event == "end":
                raise
            warnings.warn(f"{error} The line is kept until the next is written.", stacklevel=3)
        else:
            self._unwritten = b""


class TensorBoardLog(Silent):
    """Writes metrics as TensorBoard scalars, warnings and the description as texts.

    With ``resume_step``, as for :class:`JsonLinesLog`, TensorBoard hides the old later steps.

    If its files cannot be written, it warns and writes nothing more.

    Raises:
        ConfigurationError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path, *, resume_step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise ConfigurationError(
                f"Expected TensorBoard to be installed, got: {error}. Run "
                "`pip install tensorboard`, or train without it."
            ) from error
        purge = None if resume_step is None else resume_step + 1
        self._open = partial(SummaryWriter, str(folder), purge_step=purge)
        self._writer: SummaryWriter | None = None  # before begin() and after end()

    def begin(self, total_steps: int, description: Mapping[str, str]) -> None:
        """Open the files; write the description."""
        lines = [f"total steps: {total_steps}", *(f"{k}: {v}" for k, v in description.items())]
        with self._disk():
            self._writer = self._open()
            self._writer.add_text("description", "  \n".join(lines))

    def step(self, step: int, metrics: Mapping[str, float], samples: Sequence[Trajectory]) -> None:
        """Write the step's metrics."""
        self._scalars(step, metrics)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the evaluation's metrics."""
        self._scalars(step, metrics)

    def warn(self, step: int, text: str) -> None:
        """Write the warning."""
        if self._writer is not None:
            with self._disk():
                self._writer.add_text("warnings", text, step)

    def end(self, step: int, reason: str) -> None:
        """Write the reason and close the files, if :meth:`begin` was called."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._disk():
                writer.add_text("end", reason, step)
                writer.close()

    def _scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._writer is not None:
            with self._disk():
                for name, value in metrics.items():
                    if math.isfinite(value):
                        self._writer.add_scalar(name, value, step)
                self._writer.flush()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            warnings.warn(f"TensorBoard's files cannot be written: {error}.", stacklevel=4)


@dataclass(frozen=True, slots=True)
class Row:
    """The metrics of one step or one evaluation."""

    step: int
    elapsed: float  # seconds since the run began
    metrics: dict[str, float]  # by name, without those that were not finite


@dataclass(frozen=True, slots=True)
class RunLog:
    """The content of a log; ``description`` and ``total_steps`` are :meth:`Observer.begin`'s."""

    description: dict[str, str]
    total_steps: int
    steps: tuple[Row, ...]  # in order, like evaluations and warnings
    evaluations: tuple[Row, ...]
    warnings: tuple[tuple[int, str], ...]  # (step, text)
    end: str | None  # its reason; None if the run goes on or was killed


def read_log(path: str | Path) -> RunLog:
    """Read a file of :class:`JsonLinesLog`, also while it is being written.

    Raises:
        DataNotFoundError: There is no such file.
        DataFormatError: A line before the last is no line of a log.
    """
    lines = _lines(Path(path))
    begins = [line for line in lines if line["event"] == "begin"]
    ends = [line["reason"] for line in lines if line["event"] == "end"]
    return RunLog(
        description=begins[-1]["description"] if begins else {},
        total_steps=begins[-1]["total_steps"] if begins else 0,
        steps=_rows(lines, "step"),
        evaluations=_rows(lines, "evaluated"),
        warnings=tuple((w["step"], w["text"]) for w in lines if w["event"] == "warning"),
        end=ends[-1] if ends else None,
    )


def _rows(lines: Sequence[dict[str, Any]], event: str) -> tuple[Row, ...]:
    """Return the metrics of one kind of event; if a step is there twice, the later ones."""
    rows = {}
    for line in lines:
        if line["event"] == event:
            metrics = {name: value for name, value in line["metrics"].items() if value is not None}
            rows[line["step"]] = Row(line["step"], line["elapsed"], metrics)
    return tuple(rows[step] for step in sorted(rows))


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a log."""
    if not path.is_file():
        raise DataNotFoundError(
            f"Expected the log of a run at {path}, got no such file. Name the metrics.jsonl of a "
            "run's folder."
        )
    raw = path.read_bytes().split(b"\n")
    lines = []
    for number, text in enumerate(raw[:-1], start=1):  # after the last newline: an incomplete line
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if not _is_line(line):
            raise DataFormatError.at(path, number, "", "a line of a training log", text)
        lines.append(line)
    return lines


_FIELDS: Mapping[str, Mapping[str, type]] = {
    "begin": {"description": dict, "total_steps": int},
    "step": {"metrics": dict},
    "evaluated": {"metrics": dict},
    "warning": {"text": str},
    "end": {"reason": str},
}
"""Fields of each event beside ``step`` and ``elapsed``."""


def _is_line(line: object) -> bool:
    """Return whether a value is an event of a run, its fields of their types."""
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return False
    fields = _FIELDS.get(line["event"]) if isinstance(line.get("event"), str) else {}
    if not all(isinstance(line.get(name), kind) for name, kind in (fields or {}).items()):
        return False
    metrics = line.get("metrics", {}).values() if fields else ()
    numbers = [line.get("elapsed"), *(value for value in metrics if value is not None)]
    return all(type(value) in (int, float) for value in numbers)


def _has_steps(path: Path) -> bool:
    """Return whether a file is anything but the log of a run that made no step."""
    if not path.stat().st_size:
        return False
    try:
        return any(line["event"] == "step" for line in _lines(path))
    except DataFormatError:  # some other file
        return True


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics as JSON values: null for those that are not finite."""
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


def tokens_per_second(metrics: Mapping[str, float]) -> float | None:
    """Return all tokens of a step by its time; None where it did not measure both."""
    seconds = metrics.get("time/step", 0.0)
    return metrics["tokens/total"] / seconds if seconds and "tokens/total" in metrics else None


def reward_parts(names: Iterable[str]) -> list[str]:
    """Return the metrics that are parts of the reward, in their order."""
    totals = ("reward/mean", "reward/group_std")
    return [name for name in names if name.startswith("reward/") and name not in totals]
