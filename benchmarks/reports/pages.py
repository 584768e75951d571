"""Reports: scores, learning curves and episodes as one page that opens from a file, or Markdown.

A protocol's agents share a table, and no two protocols do. Beside the means stand comparisons of
each agent with the first, question by question, and the groups that the question set falls into.
"""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from search_env.benchmarks.harness.results_file import Results
from search_env.benchmarks.harness.scores import MEASURES, question_scores, score
from search_env.benchmarks.reports.figures import as_png, hops_figure, retrieval_figure
from search_env.benchmarks.reports.measurement_page import code_block, plain
from search_env.benchmarks.reports.measurement_page import table as markdown_table
from search_env.benchmarks.reports.tables import (
    GROUPED,
    agent_label,
    breakdowns,
    digests_line,
    endings_line,
    judge_line,
    protocol_note,
    rows_of,
    sample_line,
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
    """Return the tab of scores of results from :func:`by_protocol`."""
    parts = [f'<p class="note">{html.escape(LEGEND)}</p>']
    for id, agents in results.items():
        parts.append(f"<h2>{html.escape(id)}</h2>")
        parts.append(f'<p class="note">{html.escape(_note(agents))}</p>')
        parts += [_line(name, own) for name, own in agents.items()]
        parts += [html_table(rows, caption) for caption, rows in _tables(agents)]
        parts += [html_image(picture) for picture in _pictures(agents)]
        parts.append(f"<pre>{html.escape(_commands(agents))}</pre>")
    return Tab("Scores", "\n".join(parts))


def training_tab(folders: Sequence[Path]) -> Tab:
    """Return the tab of learning curves of folders of ``search-env train``."""
    parts = []
    for folder in folders:
        parts.append(f"<h2>{html.escape(folder.name)}</h2>")
        parts.append(html_image(_training_png(folder / "metrics.jsonl")))
    return Tab("Training", "\n".join(parts))


def report_markdown(results: Mapping[str, Mapping[str, Results]]) -> str:
    """Return the same scores as Markdown, without the legend."""
    parts = []
    for id, agents in results.items():
        parts.append(f"## {plain(id)}\n\n{_note(agents)}\n")
        for caption, rows in _tables(agents):
            head, *body = [[plain(first), *rest] for first, *rest in rows]
            parts.append(f"{plain(caption)}:\n\n{markdown_table(head, body)}\n")
        parts.append(code_block(_commands(agents)))
    return "\n".join(parts)


def _tables(agents: Mapping[str, Results]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield caption, and header with rows, of all tables of one protocol."""
    scores = {name: score(own.episodes) for name, own in agents.items()}
    yield "All questions", score_rows(rows_of(scores), "agent", list(MEASURES))
    if len(agents) > 1:
        yield "Question by question", comparison_rows(agents)
    for name, own in agents.items():
        for title, grouped in breakdowns(own).items():
            yield f"{name}, by {title}", score_rows(rows_of(grouped), title, GROUPED)


def _note(agents: Mapping[str, Results]) -> str:
    """Return what a reader must know of the protocol, and what was played."""
    header = next(iter(agents.values())).header
    return f"{protocol_note(header)} {digests_line(header)}".strip()


def _commands(agents: Mapping[str, Results]) -> str:
    return "\n".join(str(own.header.get("command", "")) for own in agents.values())


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


LEGEND = (
    "Means over questions with 95 % bootstrap intervals. Scores of different protocols are not to "
    "be compared. Closed-book scores are those of the agents closed-book and no-documents."
)


def html_table(rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return a table as HTML; the interval of a cell goes on a line of its own."""
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


def html_image(png: bytes) -> str:
    """Return a picture as HTML that needs no other file."""
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
