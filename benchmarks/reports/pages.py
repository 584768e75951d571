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

from benchmarks.harness.results_file import Results
from benchmarks.harness.scores import MEASURES, Scores, question_scores, score
from benchmarks.question_sets.registry import protocols
from benchmarks.reports.figures import as_png, hops_figure, retrieval_figure
from benchmarks.reports.leaderboard import Entry
from benchmarks.reports.measurement_page import table as markdown_table
from benchmarks.reports.published_scores import PUBLISHED, Published
from benchmarks.reports.tables import (
    GROUPED,
    breakdowns,
    cell,
    endings_line,
    sample_line,
    score_rows,
)
from benchmarks.reports.tables import score_markdown as scores_as_markdown
from search_env.errors import ConfigurationError
from search_env.rendering.page import Tab
from search_env.statistics import compare_paired

Named = Mapping[str, Results]
"""Results by the agents' names, all under one protocol."""


def by_protocol(results: Iterable[Results]) -> dict[str, dict[str, Results]]:
    """Return results by protocol id and digests, then by agent; agents of one name are numbered."""
    found: dict[str, dict[str, Results]] = {}
    digests: dict[str, object] = {}
    for held in results:
        id = str(held.header["protocol"])
        if digests.setdefault(id, held.header["digests"]) != held.header["digests"]:
            id += f" (corpus {held.header['digests']['corpus'][:12]})"
        agents = found.setdefault(id, {})
        name = label(held.header)
        number, free = 2, name
        while free in agents:
            number, free = number + 1, f"{name} ({number})"
        agents[free] = held
    return found


def label(header: Mapping[str, object]) -> str:
    """Return what a run is called in a table."""
    agent = header["agent"]
    name = str(agent["name"]) if isinstance(agent, dict) else str(agent)
    return f"{name}, {header['control']}" if header.get("control") else name


def score_tab(results: Mapping[str, Named]) -> Tab:
    """Return the tab of scores.

    Args:
        results: From :func:`by_protocol`.
    """
    parts = [f'<p class="note">{html.escape(_LEGEND)}</p>']
    for id, agents in results.items():
        parts.append(f"<h2>{html.escape(id)}</h2>{_note(id)}")
        scores = {name: score(held.episodes) for name, held in agents.items()}
        parts.append(_score_table("agent", scores, list(MEASURES)))
        parts += [_line(name, held) for name, held in agents.items()]
        if len(agents) > 1:
            parts.append(_html(comparison_rows(agents), "Question by question"))
        parts += [_image(figure) for figure in _figures(agents)]
        for name, held in agents.items():
            for title, groups in breakdowns(held).items():
                grouped = {group: score(episodes) for group, episodes in groups.items()}
                parts.append(_score_table(title, grouped, GROUPED, f"{name}, by {title}"))
        commands = "\n".join(str(held.header.get("command", "")) for held in agents.values())
        parts.append(f"<pre>{html.escape(commands)}</pre>")
    return Tab("Scores", "\n".join(parts))


def training_tab(folders: Sequence[Path]) -> Tab:
    """Return the tab of learning curves.

    Args:
        folders: Of ``search-env train``, each with its ``metrics.jsonl``.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    parts = []
    for folder in folders:
        parts.append(f"<h2>{html.escape(folder.name)}</h2>")
        parts.append(_image(_training_png(folder / "metrics.jsonl")))
    return Tab("Training", "\n".join(parts))


def score_markdown(results: Mapping[str, Named]) -> str:
    """Return the same scores as Markdown."""
    parts = [f"{_LEGEND}\n"]
    for id, agents in results.items():
        scores = {name: score(held.episodes) for name, held in agents.items()}
        parts.append(f"## {id}\n")
        parts.append(scores_as_markdown(scores, "agent", list(MEASURES)) + "\n")
        if len(agents) > 1:
            head, *rows = comparison_rows(agents)
            parts.append(markdown_table(head, rows) + "\n")
        for name, held in agents.items():
            for title, groups in breakdowns(held).items():
                grouped = {group: score(episodes) for group, episodes in groups.items()}
                parts.append(f"{name}, by {title}:\n")
                parts.append(scores_as_markdown(grouped, title, GROUPED) + "\n")
    return "\n".join(parts)


def comparison_rows(agents: Named) -> list[list[str]]:
    """Return how each agent differs from the first, on the questions that both answered."""
    (first, base), *others = agents.items()
    rows = [[f"against {first}", "questions", "measure", "difference", "better", "worse", "p"]]
    for name, held in others:
        for measure in ("EM", "F1"):
            mine = question_scores(held.episodes, MEASURES[measure])
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


def leaderboard(entries: Sequence[Entry], published: Sequence[Published] = PUBLISHED) -> str:
    """Return the leaderboard as Markdown: our scores by protocol, and what others report apart.

    Args:
        entries: Of the store.
        published: What others report.
    """
    parts = []
    for id in dict.fromkeys(entry.header["protocol"] for entry in entries):
        held = [entry for entry in entries if entry.header["protocol"] == id]
        held.sort(key=lambda entry: -(em.mean if (em := entry.measures["EM"]) else 0.0))
        columns = [name for name in MEASURES if any(entry.measures[name] for entry in held)]
        rows = [
            [
                entry.agent,
                f"{entry.questions:,}",
                *(cell(entry.measures[name], name) for name in columns),
                str(entry.header["date"])[:10],
            ]
            for entry in held
        ]
        parts.append(f"## {id}\n")
        parts.append(markdown_table(["agent", "questions", *columns, "date"], rows) + "\n")
        parts.append("```\n" + "\n".join(str(e.header["command"]) for e in held) + "\n```\n")
    head = ["system", "metric", "setting", "MuSiQue", "Bamboogle", "source"]
    reported = [
        [
            row.system,
            row.metric,
            row.setting,
            _given(row.musique),
            _given(row.bamboogle),
            row.source,
        ]
        for row in published
    ]
    parts.append(f"## {PUBLISHED_TITLE}\n\n{markdown_table(head, reported)}\n")
    return "\n".join(parts)


PUBLISHED_TITLE = "Reported elsewhere, under other protocols: not to be compared with the above"
_LEGEND = (
    "Means over questions with 95 % bootstrap intervals. Scores of different protocols are not to "
    "be compared. Closed-book scores are those of the agents closed-book and no-documents."
)


def _given(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


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
    said = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{said}{"".join(lines)}</table></div>'


def _interval(text: str) -> str:
    mean, bracket, rest = text.partition(" [")
    return f"{mean}<small>{rest.removesuffix(']')}</small>" if bracket else text


def _note(id: str) -> str:
    known = protocols().get(id.partition("@")[0])
    return f'<p class="note">{html.escape(known.note)}</p>' if known and known.note else ""


def _line(name: str, held: Results) -> str:
    judge = held.header.get("judge")
    parts = [endings_line(held), sample_line(held)]
    parts.append(f"Judge: {judge['model'] if judge else 'not run'}.")
    text = html.escape(f"{name}: {'  '.join(part for part in parts if part)}")
    return f'<p class="note">{text}</p>'


def _figures(agents: Named) -> list[bytes]:
    try:
        made = [retrieval_figure(agents), hops_figure(agents)]
    except ImportError:  # tables do without pictures
        return []
    return [as_png(figure) for figure in made if figure is not None]


def _image(png: bytes) -> str:
    return f'<img class="plot" alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _training_png(log: Path) -> bytes:
    try:
        from agents.plots import training_figure
    except ImportError as error:
        raise ConfigurationError(
            f"Expected matplotlib for the curves of {log.parent}, got none. Run "
            '`pip install "search-env[agents]"`.'
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.png"
        training_figure([log], path)
        return path.read_bytes()
