"""Reports: scores, learning curves and episodes as one page that opens from a file, or Markdown.

A protocol's agents share a table, and no two protocols do. Beside the means stand comparisons of
each agent with the first, question by question, and the groups that the question set falls into.
"""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from search_env.benchmarks.harness.results_file import Results
from search_env.benchmarks.harness.scores import MEASURES, Scores, question_scores, score
from search_env.benchmarks.question_sets.registry import all_benchmarks
from search_env.benchmarks.reports.figures import as_png, hops_figure, retrieval_figure
from search_env.benchmarks.reports.measurement_page import table as markdown_table
from search_env.benchmarks.reports.tables import (
    GROUPED,
    agent_label,
    breakdowns,
    endings_line,
    judge_line,
    sample_line,
    score_markdown,
    score_rows,
)
from search_env.errors import ConfigurationError
from search_env.metrics.statistics import compare_paired
from search_env.viewer.page import Tab


def by_protocol(results: Iterable[Results]) -> dict[str, dict[str, Results]]:
    """Return results by protocol id and digests, then by agent; agents of one name are numbered."""
    protocols: dict[str, dict[str, Results]] = {}
    digests: dict[str, object] = {}
    for own in results:
        id = str(own.header["protocol"])
        if digests.setdefault(id, own.header["digests"]) != own.header["digests"]:
            id += f" (corpus {own.header['digests']['corpus'][:12]})"
        agents = protocols.setdefault(id, {})
        label = agent_label(own.header)
        number, name = 2, label
        while name in agents:
            number, name = number + 1, f"{label} ({number})"
        agents[name] = own
    return protocols


def score_tab(results: Mapping[str, Mapping[str, Results]]) -> Tab:
    """Return the tab of scores.

    Args:
        results: From :func:`by_protocol`.
    """
    parts = [f'<p class="note">{html.escape(_LEGEND)}</p>']
    for id, agents in results.items():
        parts.append(f"<h2>{html.escape(id)}</h2>{_note(id)}")
        scores = {name: score(own.episodes) for name, own in agents.items()}
        parts.append(_score_table("agent", scores, list(MEASURES)))
        parts += [_line(name, own) for name, own in agents.items()]
        if len(agents) > 1:
            parts.append(_html(comparison_rows(agents), "Question by question"))
        parts += [_image(picture) for picture in _pictures(agents)]
        for name, own in agents.items():
            for title, grouped in breakdowns(own).items():
                parts.append(_score_table(title, grouped, GROUPED, f"{name}, by {title}"))
        commands = "\n".join(str(own.header.get("command", "")) for own in agents.values())
        parts.append(f"<pre>{html.escape(commands)}</pre>")
    return Tab("Scores", "\n".join(parts))


def training_tab(folders: Sequence[Path]) -> Tab:
    """Return the tab of learning curves.

    Args:
        folders: Folders of ``search-env train``, each with its ``metrics.jsonl``.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    parts = []
    for folder in folders:
        parts.append(f"<h2>{html.escape(folder.name)}</h2>")
        parts.append(_image(_training_png(folder / "metrics.jsonl")))
    return Tab("Training", "\n".join(parts))


def report_markdown(results: Mapping[str, Mapping[str, Results]]) -> str:
    """Return the same scores as Markdown."""
    parts = [f"{_LEGEND}\n"]
    for id, agents in results.items():
        scores = {name: score(own.episodes) for name, own in agents.items()}
        parts.append(f"## {id}\n")
        parts.append(score_markdown(scores, "agent", list(MEASURES)))
        if len(agents) > 1:
            head, *rows = comparison_rows(agents)
            parts.append(markdown_table(head, rows) + "\n")
        for name, own in agents.items():
            for title, grouped in breakdowns(own).items():
                parts.append(f"{name}, by {title}:\n")
                parts.append(score_markdown(grouped, title, GROUPED))
    return "\n".join(parts)


def comparison_rows(agents: Mapping[str, Results]) -> list[list[str]]:
    """Return how each agent differs from the first, on the questions that both answered."""
    (first, base), *others = agents.items()
    rows = [[f"against {first}", "questions", "measure", "difference", "better", "worse", "p"]]
    for name, own in others:
        for measure in ("EM", "F1"):
            mine = question_scores(own.episodes, MEASURES[measure])
            theirs = question_scores(base.episodes, MEASURES[measure])
            shared = sorted(mine.keys() & theirs.keys())
            if not shared:
                continue
            made = compare_paired([mine[i] for i in shared], [theirs[i] for i in shared])
            gap = f"{made.difference.mean:+.3f} [{made.difference.low:+.3f}, "
            gap += f"{made.difference.high:+.3f}]"
            counts = [f"{made.first_only:,}", f"{made.second_only:,}", f"{made.p_value:.2g}"]
            rows.append([name, f"{len(shared):,}", measure, gap, *counts])
    return rows


_LEGEND = (
    "Means over questions with 95 % bootstrap intervals. Scores of different protocols are not to "
    "be compared. Closed-book scores are those of the agents closed-book and no-documents."
)


def _score_table(
    first: str, scores: Mapping[str, Scores], measures: Sequence[str], caption: str = ""
) -> str:
    head, rows = score_rows(scores, first, measures)
    return _html([head, *rows], caption)


def _html(rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return a table; the interval of a cell goes on a line of its own."""
    head, *body = rows
    lines = [f"<tr>{''.join(f'<th>{html.escape(c)}</th>' for c in head)}</tr>"]
    for row in body:
        cells = "".join(f"<td>{_interval(html.escape(text))}</td>" for text in row)
        lines.append(f"<tr>{cells}</tr>")
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}{"".join(lines)}</table></div>'


def _interval(text: str) -> str:
    mean, bracket, rest = text.partition(" [")
    return f"{mean}<small>{rest.removesuffix(']')}</small>" if bracket else text


def _note(id: str) -> str:
    protocol = all_benchmarks().get(id.partition("@")[0])
    return f'<p class="note">{html.escape(protocol.note)}</p>' if protocol else ""


def _line(name: str, results: Results) -> str:
    parts = [endings_line(results), sample_line(results), judge_line(results) + "."]
    text = html.escape(f"{name}: {'  '.join(part for part in parts if part)}")
    return f'<p class="note">{text}</p>'


def _pictures(agents: Mapping[str, Results]) -> list[bytes]:
    try:
        figures = [retrieval_figure(agents), hops_figure(agents)]
    except ImportError:  # tables do without pictures
        return []
    return [as_png(figure) for figure in figures if figure is not None]


def _image(png: bytes) -> str:
    return f'<img class="plot" alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _training_png(log: Path) -> bytes:
    try:
        from search_env.agents.reporting.plots import training_figure
    except ImportError as error:
        raise ConfigurationError(
            f"Expected matplotlib for the curves of {log.parent}, got none. Run "
            '`pip install "search-env[agents]"`.'
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.png"
        training_figure([log], path)
        return path.read_bytes()
