"""Pictures of scores: does finding help answering, and do harder questions get more searches?"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search_env.benchmarks.harness.results_file import Results
from search_env.benchmarks.harness.scores import group, score
from search_env.metrics.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*X<>"


def retrieval_figure(results: Mapping[str, Results]) -> Figure | None:
    """Return exact match against retrieval, a point an agent; None where none is measured."""
    measures = {name: score(own.episodes).measures for name, own in results.items()}
    points = {
        name: (recall, own["EM"])
        for name, own in measures.items()
        if (recall := own["all supports"] or own["answer recall"]) and own["EM"]
    }
    if not points:
        return None
    supports = next(iter(measures.values()))["all supports"] is not None
    label = "all supporting passages found" if supports else "a gold answer stands in a passage"
    figure, (axes,) = _figure(1)
    for (name, (x, y)), marker in zip(points.items(), _MARKERS * 9, strict=False):
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=_whiskers(x),
            yerr=_whiskers(y),
            fmt=marker,
            label=_label(name),
            capsize=2,
        )
    axes.set(xlabel=f"share of questions: {label}", ylabel="exact match")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    _legend(axes)
    return figure


def hops_figure(results: Mapping[str, Results]) -> Figure | None:
    """Return exact match and searches against hops; None where all questions have as many."""
    grouped = {
        name: group(own.episodes, lambda record: record.hops) for name, own in results.items()
    }
    if max((len(groups) for groups in grouped.values()), default=0) < 2:
        return None
    figure, axes = _figure(2)
    for (name, groups), marker in zip(grouped.items(), _MARKERS * 9, strict=False):
        scores = {int(hops): score(episodes).measures for hops, episodes in groups.items()}
        for axis, measure in zip(axes, ("EM", "searches"), strict=True):
            values = {hops: value for hops, own in scores.items() if (value := own[measure])}
            whiskers = np.array([_whiskers(value) for value in values.values()])[..., 0].T
            means = [value.mean for value in values.values()]
            axis.errorbar(
                list(values), means, yerr=whiskers, marker=marker, label=_label(name), capsize=2
            )
    axes[0].set(xlabel="hops", ylabel="exact match", ylim=(-0.03, 1.03))
    axes[1].set(xlabel="hops", ylabel="searches an episode")
    _legend(axes[0])
    return figure


def _legend(axes: Any) -> None:
    """Show the names of agents as they are: a dollar sign starts no formula."""
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)


def _label(name: str) -> str:
    """Return a name that a legend shows; it hides those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def as_png(figure: Figure) -> bytes:
    """Return a picture as the bytes of a PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # names may have letters that the font lacks: boxes do
        warnings.filterwarnings("ignore", r"Glyph .* missing from|Matplotlib currently does not")
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _figure(count: int) -> tuple[Figure, Sequence[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * count, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, count, place + 1) for place in range(count)]
    for axis in axes:
        axis.grid(alpha=0.25)
    return figure, axes


def _whiskers(value: Interval) -> list[list[float]]:
    return [[value.mean - value.low], [value.high - value.mean]]
