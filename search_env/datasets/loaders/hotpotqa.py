"""HotpotQA: two-hop questions over Wikipedia introductions (Yang et al., 2018).

Two layouts have the same fields ``question``, ``answer``, ``type``, ``supporting_facts`` and
``context``; both are read, as one JSON list or as JSON lines:

* its own JSON: ``_id``, facts as ``[title, sentence number]``, context as ``[title, [sentences]]``;
* the hub's rows: ``id``, facts ``{title: [...], sent_id: [...]}``, context ``{title, sentences}``.

Sentences carry their own leading space, so a passage is their plain concatenation. HotpotQA
names the passages of the evidence but not the step of each, so there are no hops. Where a
supporting title is missing from the context (the full-wiki files), ``supporting`` is empty.
"""

from __future__ import annotations

from typing import Any

from search_env.datasets.rows import Row, is_text, make_document, one_line
from search_env.types import Document, Question


def parse_question(row: Row) -> Question:
    """Return the question of a row, evidence in the order of the supporting facts."""
    return Question(
        id=row.identifier("_id" if "_id" in row.data else "id"),
        text=row.text("question"),
        answers=row.answers("answer"),
        dataset="hotpotqa",
        kind=row.optional_text("type"),
        supporting=supporting_ids(row, parse_documents(row)),
    )


def parse_documents(row: Row, separator: str = "") -> list[Document]:
    """Return a row's context passages, their sentences joined by ``separator``."""
    pairs = _pairs(row, "context", ("sentences", "content"))
    if not all(isinstance(texts, list) and all(map(is_text, texts)) for _, texts in pairs):
        raise row.fault("context", "a list of sentences for each title")
    return [make_document(title, separator.join(sentences)) for title, sentences in pairs]


def supporting_ids(row: Row, context: list[Document]) -> tuple[str, ...]:
    """Return the ids of the passages that a row's facts name; () where one is missing."""
    facts = _pairs(row, "supporting_facts", ("sent_id",))
    titles = dict.fromkeys(one_line(title) for title, _ in facts)
    # Reversed, so that the first of two passages with the same title wins.
    by_title = {document.title: document.id for document in reversed(context)}
    if not all(title in by_title for title in titles):
        return ()
    return tuple(dict.fromkeys(by_title[title] for title in titles))


def _pairs(row: Row, field: str, names: tuple[str, ...]) -> list[tuple[str, Any]]:
    """Return a field as ``(title, content)``; hub columns call the content one of ``names``."""
    value = row.data.get(field)
    if isinstance(value, dict):
        titles = value.get("title")
        values = next((value[name] for name in names if name in value), None)
        if not isinstance(titles, list) or not isinstance(values, list):
            raise row.fault(field, f"lists called title and {' or '.join(names)}")
        if len(titles) != len(values):
            raise row.fault(field, "two lists of equal length")
        value = [list(pair) for pair in zip(titles, values, strict=True)]
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and is_text(pair[0]) for pair in value
    ):
        raise row.fault(field, "a list of pairs that start with a title")
    return [(title, content) for title, content in value]
