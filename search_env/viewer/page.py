"""Episodes as one HTML file: a list to filter and the tokens of each episode, without a server.

The page contains an index of all episodes, which is read at once, and a deflated block of each
episode's ids, documents and signals, which is unpacked when the episode is opened, so that
thousands of long episodes open in seconds. It loads nothing from the network.
"""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from search_env.evaluation.evaluate import measure_episode
from search_env.metrics.golds_in_text import gold_spans, marked_parts
from search_env.paths import atomic_path
from search_env.recording.record import RecordedEpisode
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Document, FormatFault, TagWritten, Transcript, pairs_by_tag


@dataclass(frozen=True, slots=True)
class Tab:
    """A section of the page beside the viewer."""

    title: str
    body: str  # HTML, in which untrusted text is already escaped


@dataclass(frozen=True, slots=True)
class PageEntry:
    """An episode of the page, and the name of its run."""

    run: str
    episode: RecordedEpisode


def write_page(
    path: Path,
    title: str,
    episodes: Iterable[PageEntry],
    tabs: Sequence[Tab] = (),
    *,
    refresh: float | None = None,
) -> int:
    """Write a page atomically and return its number of episodes, which keep their order.

    The tabs come before the viewer; the first one is open. With ``refresh``, an open page loads
    itself again after so many seconds, and keeps its place: for pages that are written repeatedly.

    Raises:
        TokenizerError: The tokenizer of an episode is missing or has changed.
    """
    index = _Index(refresh)
    with tempfile.TemporaryFile("w+", encoding="ascii") as blocks:
        for entry in episodes:
            blocks.write(f"{index.add(entry)}\n")
        blocks.seek(0)
        with (
            atomic_path(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="replace") as file,
        ):
            _write(file, title, index, blocks, tabs)
    return len(index.rows)


class _Index:
    """The rows of the list, and the bytes of the ids that occur."""

    def __init__(self, refresh: float | None) -> None:
        self._refresh = refresh
        self.rows: list[dict[str, Any]] = []
        self._ranges: dict[str, tuple[float, float]] = {}  # of signals, over all episodes
        self._vocabularies: dict[str, tuple[Tokenizer, set[int]]] = {}

    def add(self, entry: PageEntry) -> str:
        """Add an episode; return its block."""
        episode = entry.episode
        transcript = episode.transcript
        tokenizer = episode.tokenizer.load()
        _, used = self._vocabularies.setdefault(tokenizer.digest, (tokenizer, set()))
        used.update(np.unique(transcript.tokens).tolist())
        vocabulary = list(self._vocabularies).index(tokenizer.digest)
        self.rows.append(_row(entry, vocabulary))
        for name, values in episode.signals.items():
            low, high = self._ranges.get(name, (0.0, 0.0))
            self._ranges[name] = float(values.min(initial=low)), float(values.max(initial=high))
        return _packed(_block(transcript, tokenizer, episode.signals))

    def content(self) -> dict[str, Any]:
        words = [
            {str(i): base64.b64encode(tokenizer.token_bytes[i]).decode() for i in sorted(used)}
            for tokenizer, used in self._vocabularies.values()
        ]
        return {
            "episodes": self.rows,
            "vocabularies": words,
            "ranges": self._ranges,
            "refresh": self._refresh,
        }


def _row(entry: PageEntry, vocabulary: int) -> dict[str, Any]:
    episode = entry.episode
    record = measure_episode(episode.transcript, episode.score.total)
    texts = [record.question, record.answer or "", *record.golds, *record.queries]
    return {
        "run": entry.run,
        "id": record.question_id,
        "question": record.question,
        "golds": list(record.golds),
        "answer": record.answer,
        "em": record.exact_match,
        "f1": round(record.f1, 4),
        "stop": record.stop_reason,
        "valid": record.valid,
        "searches": record.searches,
        "policy": record.policy_tokens,
        "faults": list(record.format_faults),
        "parts": {name: round(value, 4) for name, value in episode.score.parts.items()},
        "phase": episode.reward,
        "reward": round(episode.score.total, 4),
        "group": None if episode.group is None else episode.group.id,
        "advantage": _mean(episode.signals.get("advantage")),
        "seed": episode.seed,
        "vocabulary": vocabulary,
        "text": "\n".join(texts).lower(),
    }


def _mean(values: NDArray[np.float32] | None) -> float | None:
    return None if values is None or not len(values) else round(float(values.mean()), 4)


def _block(
    transcript: Transcript, tokenizer: Tokenizer, signals: Mapping[str, Any]
) -> dict[str, Any]:
    golds, supporting = transcript.question.answers, frozenset(transcript.question.supporting)
    return {
        "tokens": transcript.tokens.tolist(),
        "sources": transcript.sources.tolist(),
        "signals": {name: values.round(4).tolist() for name, values in signals.items()},
        "searches": [
            {
                "query": search.query,
                "start": search.start,
                "end": search.end,
                "documents": [
                    [*_marked(document, golds), document.id in supporting]
                    for document in search.documents
                ],
            }
            for search in transcript.searches
        ],
        "faults": [e.position for e in transcript.events if isinstance(e, FormatFault)],
        "tags": _tags(transcript, tokenizer),
    }


def _marked(document: Document, golds: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return title and text in pieces, every second a gold answer, as answer recall reads them."""
    cut = len(document.title)
    spans = gold_spans(f"{document.title} {document.text}", golds)
    title = [(start, min(end, cut)) for start, end in spans if start < cut]
    text = [(max(start - cut - 1, 0), end - cut - 1) for start, end in spans if end > cut + 1]
    return marked_parts(document.title, title), marked_parts(document.text, text)


def _tags(transcript: Transcript, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Return the first and last token of each tag that the policy wrote."""
    if transcript.markup is None:
        return []
    pairs = pairs_by_tag(transcript.markup.tags)
    lengths = [len(tokenizer.token_bytes[token]) for token in transcript.tokens.tolist()]
    spans = []
    for event in transcript.events:
        if isinstance(event, TagWritten):
            start, missing = event.position, len(pairs[event.tag].text(event.tag.side).encode())
            while (missing := missing - lengths[start]) > 0 and start > 0:
                start -= 1
            spans.append((start, event.position))
    return spans


def _packed(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 6)).decode()


def _write(file: TextIO, title: str, index: _Index, blocks: TextIO, tabs: Sequence[Tab]) -> None:
    sections = [(f"tab-{n}", tab.title) for n, tab in enumerate(tabs)]
    sections += [("viewer", "Episodes")] if index.rows else []
    buttons = (
        ""
        if len(sections) < 2
        else "".join(
            f'<button role="tab" data-tab="{name}" aria-selected="{str(not n).lower()}">'
            f"{html.escape(text)}</button>"
            for n, (name, text) in enumerate(sections)
        )
    )
    content = json.dumps(index.content(), ensure_ascii=False, separators=(",", ":"))
    file.write(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_asset('page.css')}</style></head><body>\n"
        f'<header class="top"><h1>{html.escape(title)}</h1>'
        f'<nav role="tablist">{buttons}</nav><span class="spacer"></span>'
        '<nav><button id="live" aria-pressed="true" hidden>Live</button>'
        '<button id="keys">Keys</button><button id="theme">Light or dark</button></nav></header>\n'
    )
    for n, tab in enumerate(tabs):
        hidden = " hidden" if n else ""
        file.write(f'<section class="tab" id="tab-{n}"{hidden}>{tab.body}</section>\n')
    file.write(_VIEWER.replace("HIDDEN", "hidden" if tabs or not index.rows else ""))
    # Without any "<": a text could otherwise end the script or open a comment in it.
    safe = content.encode("utf-8", "replace").decode().replace("<", "\\u003c")
    file.write(f'<script type="application/json" id="index">{safe}</script>\n')
    file.write(f"<script>{_asset('page.js')}{_asset('places.js')}</script>\n")
    file.write('<script type="text/plain" id="blocks">\n')
    shutil.copyfileobj(blocks, file)
    file.write("</script>\n</body></html>\n")


def _asset(name: str) -> str:
    return (importlib.resources.files("search_env.viewer") / name).read_text("utf-8")


_VIEWER = """<section class="tab" id="viewer" HIDDEN>
<div id="side"><div id="filters">
<input id="f-text" type="search" placeholder="Search questions, answers, queries  ( / )"
 aria-label="Search questions, answers and queries">
<select id="f-outcome" aria-label="Outcome"></select>
<select id="f-stop" aria-label="Ending"></select>
<select id="f-searches" aria-label="Number of searches"></select>
<select id="f-run" aria-label="Run"></select>
<select id="f-phase" aria-label="Phase, by its reward"></select></div>
<div id="count" role="status"></div>
<div id="list" role="listbox" tabindex="0" aria-label="Episodes"></div></div>
<div id="panes"><p class="pane note">Choose an episode. <kbd>?</kbd> shows the keys.</p></div>
</section>
<div id="tip" hidden></div>
<dialog id="help"><form method="dialog"><dl>
<dt><kbd>j</kbd> <kbd>k</kbd></dt><dd>next, previous episode</dd>
<dt><kbd>]</kbd> <kbd>[</kbd></dt><dd>next, previous turn</dd>
<dt><kbd>/</kbd></dt><dd>search questions, answers, queries</dd>
<dt><kbd>c</kbd></dt><dd>colour tokens by the next signal</dd>
<dt><kbd>e</kbd></dt><dd>whole documents; a click opens one</dd>
<dt><kbd>g</kbd></dt><dd>group: all rollouts of the question</dd>
<dt><kbd>s</kbd></dt><dd>the same question by another policy, beside</dd>
<dt><kbd>p</kbd></dt><dd>pin, to see any two side by side</dd>
<dt><kbd>r</kbd></dt><dd>raw: the exact text and ids</dd>
<dt><kbd>x</kbd></dt><dd>export the episode as a JSON line</dd>
<dt><kbd>Esc</kbd></dt><dd>back to the list on a small screen</dd></dl>
<p class="note">A click on a token puts it into the address, which can be sent to others.</p>
<button>Close</button></form></dialog>
"""
