"""Figures of training runs, drawn from their logs (:mod:`search_env.agents.reporting.logs`).

One run is drawn as its steps, pale, behind their moving mean. Several runs that differ in the seed
alone are drawn as their mean with the 95 % t interval over seeds, both as moving means, up to where
the shortest run ends. Colours are those of Okabe and Ito, which all kinds of colour vision
distinguish; lines that share a panel also differ in their dashes.

Matplotlib is imported when a figure is drawn, and its global state is not changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_env.agents.reporting.logs import RunLog, read_log, reward_parts, tokens_per_second
from search_env.errors import ConfigurationError
from search_env.metrics.statistics import t_quantile
from search_env.paths import atomic_path

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.float64]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Blue, vermilion, green, purple, orange, sky, black (Okabe and Ito 2008)."""

_DASHES = ("-", "--", "-.", ":")
_SMOOTHED = 25  # the width of a moving mean is a 25th of the run
_BANDED = 3  # seeds that a band needs
_GRID = 200  # points at which runs are averaged over minutes
_PARTS = ("decode", "prefill", "environment", "retrieval", "score", "learn")


@dataclass(frozen=True, slots=True)
class Line:
    """A curve of a panel."""

    metric: str  # its name in the log, or "tokens/s"
    label: str  # its name in the legend
    markers: bool = False  # marks each measurement, for metrics that not every step has
    right: bool = False  # has the scale on the right; a panel then has one line on each side


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of a figure."""

    title: str
    unit: str
    lines: tuple[Line, ...]  # those that a log does not have are left out
    share: bool = False  # the scale is that from 0 to 1
    log: bool = False  # the scale is logarithmic, without intervals, which may reach 0


_PANELS = (
    Panel("loss", "nats", (Line("loss", "training"), Line("eval/loss", "held out", markers=True))),
    Panel(
        "accuracy",
        "share of tokens",
        (Line("accuracy", "training"), Line("eval/accuracy", "held out", markers=True)),
        share=True,
    ),
    Panel(
        "searching",
        "mean over episodes",
        (
            Line("search/rate", "episodes that search"),
            Line("eval/search_rate", "the same, held out", markers=True),
            Line("search/mean", "searches an episode"),
        ),
    ),
    Panel(
        "answers",
        "mean over episodes",
        (
            Line("answer/exact_match", "exact match"),
            Line("answer/f1", "F1"),
            Line("eval/exact_match", "exact match, held out", markers=True),
            Line("eval/f1", "F1, held out", markers=True),
        ),
        share=True,
    ),
    Panel(
        "format, budget, groups",
        "share",
        (
            Line("format/well_formed", "episodes that keep the format"),
            Line("stop/truncated", "episodes out of budget"),
            Line("groups/zero_variance", "groups of equal reward"),
        ),
        share=True,
    ),
    Panel(
        "signal",
        "",
        (
            Line("reward/group_std", "std of the reward in a group"),
            Line("policy/grad_norm", "gradient norm", right=True),
        ),
    ),
    Panel(
        "policy",
        "",
        (Line("policy/entropy", "entropy (nats)"), Line("policy/kl", "KL (nats)", right=True)),
    ),
    Panel(
        "log-prob drift, rollout to learner",
        "nats",
        (Line("policy/drift_max", "largest"), Line("policy/drift_mean", "mean")),
        log=True,
    ),
    Panel("speed", "tokens/s", (Line("tokens/s", "all tokens of a step by its time"),)),
)
_COMPARED = ("eval/exact_match", "eval/search_rate", "answer/f1", "policy/entropy")
_NAMES = {
    "eval/exact_match": "exact match, held out",
    "eval/f1": "F1, held out",
    "eval/search_rate": "search rate, held out",
    "answer/exact_match": "exact match, training",
    "answer/f1": "F1, training",
    "search/rate": "search rate, training",
    "reward/mean": "reward",
    "policy/entropy": "entropy (nats)",
    "policy/kl": "KL (nats)",
}


@dataclass(frozen=True, slots=True)
class Band:
    """The mean of a metric over runs, at ``n`` points."""

    x: Values  # (n,): steps or minutes
    mean: Values  # (n,)
    half: Values  # (n,): half the width of the 95 % t interval; 0 for one run


def training_figure(logs: Sequence[str | Path], path: str | Path) -> None:
    """Draw one run, or the runs of several seeds, panel by panel.

    Panels are reward and its parts, searching, answers in training and held out, format, signal,
    entropy and KL, drift, tokens/s and where the time goes; for supervised runs loss and accuracy.
    Metrics that no log has are left out. A grey line marks where a phase begins.

    Args:
        logs: Files of :class:`~search_env.agents.reporting.logs.JsonLinesLog`.
        path: File of the figure, ``.png``, ``.svg`` or ``.pdf``; written atomically.

    Raises:
        ConfigurationError: There is nothing to draw, or matplotlib is not installed.
        DataNotFoundError: A log is not there.
        DataFormatError: A file is no log.
    """
    runs = [read_log(log) for log in logs]
    names = _measured(runs)
    parts = (Line(name, name.removeprefix("reward/")) for name in sorted(reward_parts(names)))
    reward = Panel("reward", "mean over episodes", (Line("reward/mean", "total"), *parts))
    panels = [
        panel for panel in (reward, *_PANELS) if any(line.metric in names for line in panel.lines)
    ]
    has_times = any(f"time/{part}" in names for part in _PARTS)
    if not panels:
        raise ConfigurationError(
            f"Expected logs with at least one step, got none in {len(logs)} of them. Name the "
            "metrics.jsonl of a run that has made a step."
        )
    figure, axes = _canvas(len(panels) + has_times)
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, panel, runs)
    if has_times:
        _draw_times(axes[len(panels)], runs)
    for axis in axes:
        axis.set_xlabel("step", fontsize=8)
    figure.suptitle("; ".join(_notes(axes, runs)), fontsize=9)
    _save(figure, path)


def learning_figure(
    runs: Mapping[str, Sequence[str | Path]],
    path: str | Path,
    *,
    metrics: Sequence[str] = _COMPARED,
    minutes: bool = False,
) -> None:
    """Compare conditions: a panel for each metric, with a line and a band for each condition.

    Two seeds have no band: their interval is nine standard deviations wide on each side and would
    hide the others. ``runs`` has the logs of each condition's seeds by the condition's name; with
    ``minutes``, the x axis is minutes of training instead of steps.

    Raises:
        ConfigurationError: No log has any of the metrics, or matplotlib is not installed.
        DataNotFoundError: A log is not there.
        DataFormatError: A file is no log.
    """
    logs = {name: [read_log(file) for file in files] for name, files in runs.items()}
    names = _measured(log for group in logs.values() for log in group)
    shown = [metric for metric in metrics if metric in names]
    if not shown:
        raise ConfigurationError(
            f"Expected logs that hold one of {', '.join(metrics)}, got {', '.join(sorted(names))}. "
            "Choose other metrics."
        )
    figure, axes = _canvas(len(shown))
    for axis, metric in zip(axes, shown, strict=True):
        markers = metric.startswith("eval/") and not minutes  # interpolated points are no marks
        for number, (name, group) in enumerate(logs.items()):
            band = average(group, metric, minutes=minutes)
            if band is None:
                continue
            if len(group) < _BANDED:
                band = replace(band, half=np.zeros_like(band.half))
            _draw_band(axis, band, number, f"{name} (n = {len(group)})", markers=markers)
        axis.set_title(_NAMES.get(metric, metric), fontsize=10)
        axis.set_xlabel("minutes" if minutes else "step", fontsize=8)
    handles: dict[str, Artist] = {}
    for axis in axes:  # a condition may lack the first panel's metric
        artists, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, artists, strict=True))
    figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=3, fontsize=8)
    _save(figure, path)


def average(runs: Sequence[RunLog], metric: str, *, minutes: bool = False) -> Band | None:
    """Return the mean of a metric over runs that differ in the seed alone, with its interval.

    The band covers the stretch that all runs have in common; None where no run has the metric. Over
    minutes of training, runs are interpolated at equal times.
    """
    curves = [curve for run in runs if len((curve := _curve(run, metric, minutes))[0])]
    if not curves:
        return None
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if len(curves) == 1:
        (grid, _), *_ = curves
    elif minutes:
        grid = np.linspace(low, max(low, high), _GRID)
    else:
        grid = np.unique(np.concatenate([x for x, _ in curves]))
        grid = grid[(low <= grid) & (grid <= high)]
    values = np.array([np.interp(grid, x, y) for x, y in curves])
    spread = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(grid))
    half = t_quantile(len(curves) - 1) * spread / math.sqrt(len(curves))
    return Band(grid, values.mean(axis=0), half)


def _curve(run: RunLog, metric: str, minutes: bool) -> tuple[Values, Values]:
    """Return steps or minutes at which a run measured a metric, and its values."""
    rows = run.evaluations if metric.startswith("eval/") else run.steps
    read = tokens_per_second if metric == "tokens/s" else lambda metrics: metrics.get(metric)
    points = [(row, value) for row in rows if (value := read(row.metrics)) is not None]
    x = [row.elapsed / 60 if minutes else row.step for row, _ in points]
    return np.array(x, np.float64), np.array([value for _, value in points], np.float64)


def _measured(runs: Iterable[RunLog]) -> set[str]:
    """Return the names of all metrics."""
    rows = [row for run in runs for row in (*run.steps, *run.evaluations)]
    names = {name for row in rows for name in row.metrics}
    return names | {"tokens/s"} if {"tokens/total", "time/step"} <= names else names


def _canvas(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure and the axes of its panels, at most three in a row."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            f"Expected matplotlib to be installed, got: {error}. Run `pip install matplotlib`, or "
            "draw no figures."
        ) from error
    columns = min(count, 2 if count == 4 else 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(which="both", labelsize=8)
        axis.margins(x=0.01)
    return figure, axes[:count]


def _save(figure: Figure, path: str | Path) -> None:
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise ConfigurationError(
            f"Expected a figure's path to end in .png, .svg or .pdf, got {path}. Rename it."
        )
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes)]
    for legend in filter(None, legends):  # a dollar sign in a name starts no formula
        for text in legend.get_texts():
            text.set_parse_math(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind)


def _draw_panel(axis: Axes, panel: Panel, runs: Sequence[RunLog]) -> None:
    """Draw a panel's lines; those with a scale of their own have it on the right."""
    lines = [(line, average(runs, line.metric)) for line in panel.lines]
    drawn = [(line, band) for line, band in lines if band is not None]
    twin = axis.twinx() if len({line.right for line, _ in drawn}) == 2 else None
    axis.set_title(panel.title, fontsize=10)
    axis.set_ylabel(panel.unit, fontsize=8)
    if panel.share:
        axis.set_ylim(-0.02, 1.02)
    if panel.log and any((band.mean > 0).any() for _, band in drawn):
        axis.set_yscale("log", nonpositive="mask")
    for number, (line, band) in enumerate(drawn):
        target = twin if twin is not None and line.right else axis
        shown = replace(band, half=np.zeros_like(band.half)) if panel.log else band
        _draw_band(target, shown, number, line.label, markers=line.markers)
        if twin is not None or len(drawn) == 1:
            colour = COLOURS[number] if twin is not None else "black"
            target.set_ylabel(panel.unit or line.label, color=colour, fontsize=8)
    if twin is not None:
        twin.spines["top"].set_visible(False)
        twin.tick_params(labelsize=8)
    elif len(drawn) > 1:
        axis.legend(fontsize=7, framealpha=0.6)


def _draw_band(axis: Axes, band: Band, number: int, label: str, *, markers: bool) -> None:
    """Draw a mean with its interval; of a single run, the values pale behind their moving mean."""
    cycle, place = divmod(number, len(COLOURS))
    colour, dash = COLOURS[place], _DASHES[(place + cycle) % len(_DASHES)]
    mean, half = (band.mean, band.half) if markers else (_smooth(band.mean), _smooth(band.half))
    if half.any():
        low, high = mean - half, mean + half
        axis.fill_between(band.x, low, high, color=colour, alpha=0.18, linewidth=0)
    elif mean is not band.mean:
        axis.plot(band.x, band.mean, color=colour, alpha=0.25, linewidth=0.8)
    marker = "o" if markers else None
    axis.plot(
        band.x, mean, dash, color=colour, label=label, linewidth=1.6, marker=marker, markersize=3
    )


def _smooth(values: Values) -> Values:
    """Return centred moving means, over fewer values at the ends; short curves as they are."""
    reach = len(values) // _SMOOTHED // 2
    if np.ptp(values) <= 1e-9 * np.abs(values).max():
        return np.full_like(values, values[0])  # else the scale would magnify rounding
    if reach < 1:
        return values
    sums = np.concatenate([[0.0], values.cumsum()])
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low), np.float64)


def _draw_times(axis: Axes, runs: Sequence[RunLog]) -> None:
    """Draw the seconds of a step, stacked by its parts."""
    bands = {part: band for part in _PARTS if (band := average(runs, f"time/{part}")) is not None}
    total = average(runs, "time/step")
    x = next(iter(bands.values())).x
    heights = {part: _smooth(np.interp(x, band.x, band.mean)) for part, band in bands.items()}
    if total is not None:
        whole = _smooth(np.interp(x, total.x, total.mean))
        heights["other"] = np.maximum(0.0, whole - np.sum(list(heights.values()), axis=0))
    colours = [*COLOURS[: len(_PARTS)], "#999999"]
    axis.stackplot(x, *heights.values(), labels=list(heights), colors=colours, alpha=0.8)
    axis.set_title("where the time goes", fontsize=10)
    axis.set_ylabel("seconds a step", fontsize=8)
    axis.legend(fontsize=7, framealpha=0.6, ncols=2)


def _notes(axes: Sequence[Axes], runs: Sequence[RunLog]) -> list[str]:
    """Draw a line where each run's phase changes; return the notes for the title."""
    notes = [f"mean of {len(runs)} seeds, 95 % t interval"] if len(runs) > 1 else []
    begun = set()
    for run in runs:
        phases = [(row.step, row.metrics["phase"]) for row in run.steps if "phase" in row.metrics]
        for (_, before), (step, phase) in pairwise(phases):
            if phase != before:
                begun.add(phase)
                for axis in axes:
                    axis.axvline(step, color="0.4", linewidth=0.8, alpha=len(runs) ** -0.5)
    return notes + [f"grey: phase {phase:.0f} begins" for phase in sorted(begun)]
