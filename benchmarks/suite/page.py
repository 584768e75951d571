"""The suite's page: what an algorithm is good at, beside others. Markdown, and figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from search_env.benchmarks.reports.figures import as_png
from search_env.benchmarks.reports.measurement_page import table
from search_env.benchmarks.reports.pages import html_image, html_table
from search_env.benchmarks.suite.experiments import EXPERIMENTS
from search_env.benchmarks.suite.scores import (
    BINS,
    Difference,
    Run,
    differences,
    of_experiment,
    overall,
)
from search_env.metrics.statistics import Interval
from search_env.viewer.page import Tab

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Runs = Mapping[str, Sequence[Run]]

LEGEND = (
    "Scores are between chance (0) and best (1): the mean of the area under the training curve and "
    "of the return on an unseen world. Intervals are 95 % bootstrap intervals over seeds, each of "
    "which has worlds and a base of its own."
)


def markdown(runs: Runs) -> str:
    """Return all tables as Markdown."""
    parts = [f"{caption}:\n\n{table(rows[0], rows[1:])}" for caption, rows in tables(runs)]
    return "\n\n".join([LEGEND, *parts]) + "\n"


def tab(runs: Runs) -> Tab:
    """Return a tab of figures and tables for a page."""
    parts = [f'<p class="note">{LEGEND}</p>']
    parts += [html_image(as_png(figure)) for figure in (radar(runs), curves(runs))]
    parts += [html_table(rows, caption) for caption, rows in tables(runs)]
    return Tab("Suite", "\n".join(parts))


def tables(runs: Runs) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield caption, and header with rows, of every table."""
    rows = [["all", *(_shown(overall(own)) for own in runs.values())]]
    for name in EXPERIMENTS:
        cells = [of_experiment(own, name) for own in runs.values()]
        if any(cells):
            rows.append([name, *("" if cell is None else _shown(cell) for cell in cells)])
    yield "Scores", [["experiment", *runs], *rows]
    if len(runs) > 1:
        caption = (
            "Differences over the runs that both have; p of a sign-flip permutation test over "
            "runs, corrected by Holm's method"
        )
        yield caption, _differences(differences(runs))
    for caption, cell in (
        ("Area under the training curve, and final return, between chance and best", _halves),
        ("CPU seconds of a training run, on one thread", _seconds),
    ):
        rows = [
            [name, *(cell([run for run in own if run.experiment == name]) for own in runs.values())]
            for name in EXPERIMENTS
        ]
        yield caption, [["experiment", *runs], *(row for row in rows if any(row[1:]))]
    yield "The experiments, with the returns of chance and best", _experiments()


def _shown(value: Interval) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _differences(found: Sequence[Difference]) -> list[list[str]]:
    rows = [
        [
            f"{d.first} less {d.second}",
            f"{d.gain.mean:+.3f} [{d.gain.low:+.3f}, {d.gain.high:+.3f}]",
            f"{d.gain.count}",
            f"{d.p_value:.2g}",
        ]
        for d in found
    ]
    return [["algorithms", "score", "runs", "p"], *rows]


def _halves(runs: Sequence[Run]) -> str:
    if not runs:
        return ""
    return f"{fmean(run.area for run in runs):.2f} / {fmean(run.final for run in runs):.2f}"


def _seconds(runs: Sequence[Run]) -> str:
    return f"{fmean(run.seconds for run in runs):.1f}" if runs else ""


def _experiments() -> list[list[str]]:
    rows = [
        [e.name, f"{e.budget:,}", f"{e.chance:.3f}", f"{e.best:.3f}", e.skill]
        for e in EXPERIMENTS.values()
    ]
    return [["experiment", "policy tokens", "chance", "best", "skill"], *rows]


def radar(runs: Runs) -> Figure:
    """Return the scores of all experiments as one polygon for each algorithm."""
    figure = _figure(7.0, 5.2)
    figure.set_layout_engine("none")
    axis = figure.add_axes((0.13, 0.09, 0.58, 0.78), projection="polar")
    names = list(EXPERIMENTS)
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    for algorithm, own in runs.items():
        values = [of_experiment(own, name) for name in names]
        means = np.array([math.nan if v is None else v.mean for v in values])
        line = axis.plot(np.append(angles, angles[0]), np.append(means, means[0]), marker=".")[0]
        line.set_label(f" {algorithm}")
    axis.set_xticks(angles, [name.replace("-", "\n") for name in names], fontsize=8)
    for label, side in zip(axis.get_xticklabels(), np.cos(angles), strict=True):
        label.set_horizontalalignment(
            "center" if abs(side) < 0.4 else "left" if side > 0 else "right"
        )
    axis.set_ylim(0, 1)
    axis.set_yticks([0.25, 0.5, 0.75, 1.0], ["", ".5", "", "1"], fontsize=7)
    axis.set_title("Score by experiment, 0 chance, 1 best")
    figure.legend(loc="upper right", fontsize=8)
    return figure


def curves(runs: Runs) -> Figure:
    """Return the training curves: mean over seeds, and its 95 % interval for up to four."""
    names = list(EXPERIMENTS)
    columns = 5
    figure = _figure(3.0 * columns, 2.6 * -(-len(names) // columns))
    for place, name in enumerate(names):
        axis = figure.add_subplot(-(-len(names) // columns), columns, place + 1)
        experiment = EXPERIMENTS[name]
        steps = (np.arange(BINS) + 0.5) / BINS * experiment.budget / 1000
        for algorithm, own in runs.items():
            values = np.array([run.curve for run in own if run.experiment == name])
            if len(values):
                _band(axis, steps, values, algorithm, len(runs) <= 4)
        for level in (experiment.chance, experiment.best):
            axis.axhline(level, color="0.5", lw=0.8, ls="--")
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
        if place // columns == -(-len(names) // columns) - 1:
            axis.set_xlabel("thousand policy tokens", fontsize=8)
        if place % columns == 0:
            axis.set_ylabel("return", fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=8, fontsize=8)
    return figure


def _band(axis: Any, steps: Any, values: Any, algorithm: str, with_interval: bool) -> None:
    mean = values.mean(0)
    line = axis.plot(steps, mean, lw=1.4, label=f" {algorithm}")[0]
    if with_interval and len(values) > 1:
        half = 1.96 * values.std(0, ddof=1) / math.sqrt(len(values))
        axis.fill_between(steps, mean - half, mean + half, alpha=0.2, color=line.get_color(), lw=0)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
