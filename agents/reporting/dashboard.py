"""The live display of a training run, in place on a terminal and line by line elsewhere.

It shows metrics; warnings of the monitors are printed as they come and stay above the numbers. It
writes to standard error, so that results can be piped. All numbers of a run are in its log
(:mod:`search_env.agents.reporting.logs`).
"""

from __future__ import annotations

import atexit
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search_env.agents.reporting.logs import Silent, reward_parts, tokens_per_second
from search_env.agents.types import Trajectory

HISTORY = 240
"""Number of steps in a sparkline."""

_PACE_STEPS = 20  # steps whose mean duration predicts that of the next ones
_LABEL, _VALUE = 17, 9  # columns
_TWO_COLUMNS = 72  # columns of a terminal that has room for two rows side by side
_MOST_COLUMNS = 110
_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the display: its label, its metric, and the format."""

    label: str
    metric: str
    share: bool = False  # from 0 to 1: shown in per cent, drawn on the scale from 0 to 1


_TASK = (
    _Row("loss", "loss"),
    _Row("accuracy", "accuracy", share=True),
    _Row("search rate", "search/rate", share=True),
    _Row("searches", "search/mean"),
    _Row("exact match", "answer/exact_match", share=True),
    _Row("F1", "answer/f1", share=True),
    _Row("format kept", "format/well_formed", share=True),
    _Row("format faults", "format/faults"),
    _Row("out of budget", "stop/truncated", share=True),
)
_POLICY = (
    _Row("entropy", "policy/entropy"),
    _Row("KL", "policy/kl"),
    _Row("log-prob drift", "policy/drift_max"),
    _Row("gradient norm", "policy/grad_norm"),
    _Row("clipped tokens", "policy/clip_fraction", share=True),
    _Row("std in groups", "reward/group_std"),
    _Row("equal groups", "groups/zero_variance", share=True),
    _Row("learning rate", "policy/learning_rate"),
    _Row("tokens/s", "tokens/s"),
)
_LINE = (
    _Row("loss", "loss"),
    _Row("accuracy", "accuracy", share=True),
    _Row("reward", "reward/mean"),
    _Row("search", "search/rate", share=True),
    _Row("EM", "answer/exact_match", share=True),
    _Row("entropy", "policy/entropy"),
    _Row("KL", "policy/kl"),
)
_HELD_OUT = (
    _Row("loss", "eval/loss"),
    _Row("accuracy", "eval/accuracy", share=True),
    _Row("whole", "eval/exact", share=True),
    _Row("EM", "eval/exact_match", share=True),
    _Row("F1", "eval/f1", share=True),
    _Row("search rate", "eval/search_rate", share=True),
    _Row("searches", "eval/searches"),
)
_TIMES = ("decode", "prefill", "environment", "retrieval", "learn")


@dataclass(slots=True)
class Progress:
    """State of a run that the display is drawn from."""

    minutes: float | None = None  # time limit
    spent: float = 0.0  # seconds that earlier parts of the run took
    total_steps: int = 0
    description: dict[str, str] = field(default_factory=dict)
    started: float = 0.0  # clock at the beginning, in seconds
    step: int = 0  # the last finished one
    latest: dict[str, float] = field(default_factory=dict)  # its metrics
    history: dict[str, deque[float]] = field(default_factory=dict)  # by metric, oldest first
    evaluation: tuple[int, dict[str, float]] | None = None  # step and metrics of the last one
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=_PACE_STEPS + 1))

    def add(self, step: int, metrics: Mapping[str, float], now: float) -> None:
        """Add a finished step; ``tokens/s`` is computed from its metrics."""
        if not self._ends:
            self._ends.append(self.started)
        self._ends.append(now)
        self.step, self.latest = step, {k: v for k, v in metrics.items() if math.isfinite(v)}
        speed = tokens_per_second(self.latest)
        if speed is not None:
            self.latest["tokens/s"] = speed
        for name, value in self.latest.items():
            self.history.setdefault(name, deque(maxlen=HISTORY)).append(value)

    def seconds(self, now: float) -> float:
        """Return the duration of the run, all its parts together."""
        return self.spent + now - self.started

    def seconds_left(self, now: float) -> float | None:
        """Return the time until the last step or the limit; None while neither is known."""
        left = []
        if len(self._ends) > 1:
            pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
            left.append((self.total_steps - self.step) * pace - (now - self._ends[-1]))
        if self.minutes is not None:
            left.append(60 * self.minutes - self.seconds(now))
        return max(0.0, min(left)) if left else None

    def fraction(self, now: float) -> float:
        """Return the completed share of the run, by steps or by time, whichever is more."""
        by_steps = self.step / self.total_steps if self.total_steps else 0.0
        by_time = self.seconds(now) / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))


class Dashboard(Silent):
    """Live display of a run.

    On a terminal the display is redrawn in place, twice a second. Elsewhere there is one line a
    step, but not more than one in ``interval`` seconds, and one for each evaluation, warning and
    change of phase.

    Without a console it writes to standard error. ``minutes`` is the time limit of the run,
    ``spent`` the seconds that earlier parts of a resumed run took.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        minutes: float | None = None,
        spent: float = 0.0,
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._interval, self._clock = interval, clock
        self._progress = Progress(minutes, spent)
        self._lock = threading.Lock()  # between the loop and the thread that draws
        self._live: Live | None = None
        self._printed_at = -math.inf

    def begin(self, total_steps: int, description: Mapping[str, str]) -> None:
        """Open the display."""
        before, now = self._progress, self._clock()
        self._progress = Progress(before.minutes, before.spent, total_steps, {**description}, now)
        self._printed_at = -math.inf
        if not self._console.is_interactive:
            self._print(_title(self._progress))
            return
        self._live = Live(
            get_renderable=self._draw,
            console=self._console,
            refresh_per_second=2,  # in a thread of its own: short steps are not slowed down
            redirect_stdout=sys.stdout.isatty(),  # piped output must not appear on the screen
        )
        self._live.start(refresh=True)
        atexit.register(self._close)  # restores the cursor if end() is never called

    def step(self, step: int, metrics: Mapping[str, float], samples: Sequence[Trajectory]) -> None:
        """Show the step's metrics."""
        before = self._progress.latest.get("phase")
        now = self._clock()
        with self._lock:
            self._progress.add(step, metrics, now)
        phase = self._progress.latest.get("phase")
        if phase is not None and before is not None and phase != before:
            self._print(f"step {step}: phase {phase:.0f} begins")
        is_due = now - self._printed_at >= self._interval or step == self._progress.total_steps
        if self._live is None and is_due:
            self._printed_at = now
            self._print(_line(self._progress, now))

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the evaluation's metrics."""
        with self._lock:
            self._progress.evaluation = (step, dict(metrics))
        if self._live is None:
            self._print(_evaluation(step, metrics))

    def warn(self, step: int, text: str) -> None:
        """Show the warning."""
        self._print(f"Warning, step {step}: {text}", "yellow")

    def end(self, step: int, reason: str) -> None:
        """Close the display; its last state stays on the screen."""
        self._close()
        spent = _duration(self._progress.seconds(self._clock()))
        self._print(f"Ended after step {step} in {spent}: {reason}")

    def _draw(self) -> RenderableType:
        with self._lock:
            return draw(self._progress, self._clock(), self._console.options)

    def _close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
            atexit.unregister(self._close)

    def _print(self, text: str, style: str = "") -> None:
        """Print a line; on a terminal it stays above the display."""
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def draw(progress: Progress, now: float, options: ConsoleOptions) -> Group:
    """Return the display at one moment, in the width and the characters of a console."""
    width = min(options.max_width, _MOST_COLUMNS)
    parts: list[RenderableType] = [
        Text(_title(progress), "bold", no_wrap=True, overflow="ellipsis"),
        _bar(progress, now, width),
        Text(),
        *_rows(progress, width, curves=not options.ascii_only),
    ]
    shares = _time_shares(progress.latest)
    if shares:
        parts.append(Text.assemble(("time %:  ", "dim"), shares))
    if progress.evaluation is not None:
        parts += [Text(), Text(_evaluation(*progress.evaluation), "bold")]
    return Group(*parts)


def sparkline(values: Sequence[float], width: int, *, share: bool = False) -> str:
    """Return values as a line of at most ``width`` blocks, each the mean of an equal part of them.

    The scale is that from the lowest block to the highest; for a share, from 0 to 1.

    Example:
        >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8), sparkline([0.0, 0.5, 1.0], 8, share=True)
        ('▁▂▃▄▅▆▇█', '▁▅█')
        >>> sparkline([1, 3, 5, 7], 2), sparkline([2, 2, 2], 8)
        ('▁█', '▁▁▁')
    """
    count = min(width, len(values))
    edges = [len(values) * i // count for i in range(count + 1)] if count > 0 else [0]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = (0.0, 1.0) if share or not means else (min(means), max(means))
    is_flat = high - low <= 1e-9 * max(abs(low), abs(high))  # but for rounding
    scale = 0.0 if is_flat else len(_BLOCKS) / (high - low)
    levels = (int((mean - low) * scale) for mean in means)
    return "".join(_BLOCKS[max(0, min(level, len(_BLOCKS) - 1))] for level in levels)


def _rows(progress: Progress, width: int, *, curves: bool) -> list[Text]:
    """Return the rows of numbers, two side by side where there is room."""
    parts = [_Row(f"  {n.partition('/')[2]}", n) for n in reward_parts(progress.latest)]
    task = [_Row("reward", "reward/mean"), *parts, *_TASK]
    left = [row for row in task if row.metric in progress.history]
    right = [row for row in _POLICY if row.metric in progress.history]
    if width < _TWO_COLUMNS:
        return [_cell(row, progress, width, curves) for row in (*left, *right)]
    half = (width - 2) // 2
    lines = []
    for a, b in zip_longest(left, right):
        line = Text(" " * half) if a is None else _cell(a, progress, half, curves)
        if b is not None:
            line.append("  ").append_text(_cell(b, progress, half, curves))
        lines.append(line)
    return lines


def _cell(row: _Row, progress: Progress, width: int, curves: bool) -> Text:
    """Return label, number and sparkline, exactly ``width`` columns wide."""
    latest = progress.latest.get(row.metric)
    number = "-" if latest is None else _number(latest, share=row.share)
    room = max(0, width - _LABEL - _VALUE - 1)
    history = tuple(progress.history[row.metric])
    curve = sparkline(history, room, share=row.share) if curves else ""
    return Text.assemble(
        (f"{row.label[: _LABEL - 1]:<{_LABEL}}", "dim"),
        (f"{number:>{_VALUE}} ", "bold"),
        (f"{curve:<{room}}", "cyan"),
    )


def _bar(progress: Progress, now: float, width: int) -> Table:
    """Return phase, step, bar and seconds left in one line."""
    phase = progress.latest.get("phase")
    head = f"step {progress.step:,}/{progress.total_steps:,}"
    head += f"  phase {phase:.0f}" if phase is not None else ""
    left = progress.seconds_left(now)
    tail = _duration(progress.seconds(now)) + " spent"
    tail += f", {_duration(left)} left" if left is not None else ""
    room = max(4, width - len(head) - len(tail) - 4)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(head, ProgressBar(1.0, progress.fraction(now), width=room), tail)
    return grid


def _time_shares(latest: Mapping[str, float]) -> str:
    """Return the parts of the last step's time in per cent, largest first."""
    total = latest.get("time/step", 0.0)
    spent = {name: latest.get(f"time/{name}", 0.0) for name in _TIMES}
    spent["learn"] += latest.get("time/score", 0.0)
    if total <= 0 or not any(spent.values()):
        return ""
    spent["other"] = max(0.0, total - sum(spent.values()))
    largest = sorted(spent.items(), key=lambda item: -item[1])
    return "  ".join(f"{name} {100 * s / total:.0f}" for name, s in largest if s > 0)


def _title(progress: Progress) -> str:
    return ", ".join(f"{name} {value}" for name, value in progress.description.items())


def _line(progress: Progress, now: float) -> str:
    """Return a step in one line."""
    left = progress.seconds_left(now)
    cells = [f"step {progress.step}/{progress.total_steps}", *_cells(_LINE, progress.latest)]
    return "  ".join([*cells, f"{_duration(left)} left"] if left is not None else cells)


def _evaluation(step: int, metrics: Mapping[str, float]) -> str:
    """Return an evaluation in one line."""
    return f"held out, step {step}: " + "  ".join(_cells(_HELD_OUT, metrics))


def _cells(rows: Sequence[_Row], metrics: Mapping[str, float]) -> list[str]:
    """Return label and number of those that were measured."""
    return [
        f"{row.label} {_number(metrics[row.metric], share=row.share)}"
        for row in rows
        if math.isfinite(metrics.get(row.metric, math.nan))
    ]


def _number(value: float, *, share: bool = False) -> str:
    """Write a number in at most nine characters.

    Example:
        >>> _number(0.41234), _number(0.0031), _number(12345.6), _number(2.1e-6), _number(-3)
        ('0.412', '0.0031', '12,346', '2.1e-06', '-3.00')
        >>> _number(0.9731, share=True)
        '97.3 %'
    """
    if share:
        return f"{100 * value:.1f} %"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.001 or size >= 999_999.5:
        return f"{value:.1e}"
    digits = 4 if size < 0.1 else 3 if size < 1 else 2 if size < 100 else 0
    return f"{value:,.{digits}f}"


def _duration(seconds: float) -> str:
    """Write seconds as a clock does.

    Example:
        >>> _duration(65.7), _duration(3605)
        ('1:05', '1:00:05')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
