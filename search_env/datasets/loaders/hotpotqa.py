"""HotpotQA: two-hop questions over Wikipedia introductions (Yang et al., 2018).

Two layouts hold the same fields ``question``, ``answer``, ``type``, ``supporting_facts`` and
``context``; both are read, as one JSON list or as JSON lines:

* its own JSON: ``_id``, facts as ``[title, sentence number]``, context as ``[title, [sentences]]``;
* the hub's rows: ``id``, facts ``{title: [...], sent_id: [...]}``, context ``{title, sentences}``.

Sentences carry their own leading space, so a passage is their plain concatenation. HotpotQA says
which passages hold the evidence and not which step needs which, so there are no hops. Where a
supporting title is missing from the context (the full-wiki files), ``supporting`` is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from search_env.datasets.rows import (
    Row,
    is_text,
    make_document,
    one_line,
    unique_documents,
    unique_questions,
)
from search_env.datasets.streaming import iter_rows
from search_env.types import Document, Question


def read_questions(path: str | Path) -> Iterator[Question]:
    """Yield the questions of a HotpotQA file, evidence in the order of the supporting facts.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad, an id comes twice, or the file is damaged.
    """
    return unique_questions(iter_rows(Path(path)), parse_question)


def read_documents(path: str | Path) -> Iterator[Document]:
    """Yield every context passage of a HotpotQA file once.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad or the file is damaged.
    """
    return unique_documents(
        document for record in iter_rows(Path(path)) for document in read_context(record)
    )


def parse_question(record: Row) -> Question:
    """Return the question of a row."""
    return Question(
        id=record.identifier("_id" if "_id" in record.data else "id"),
        text=record.text("question"),
        answers=(record.text("answer"),),
        dataset="hotpotqa",
        kind=record.optional_text("type"),
        supporting=supporting_ids(record, read_context(record)),
    )


def read_context(record: Row, glue: str = "") -> list[Document]:
    """Return a row's context passages; ``glue`` joins their sentences."""
    pairs = _pairs(record, "context", ("sentences", "content"))
    if not all(isinstance(found, list) and all(map(is_text, found)) for _, found in pairs):
        raise record.fault("context", "a list of sentences for each title")
    return [make_document(title, glue.join(sentences)) for title, sentences in pairs]


def supporting_ids(record: Row, context: list[Document]) -> tuple[str, ...]:
    """Return the ids of the passages named by a row's facts; () where one is not in the context."""
    facts = _pairs(record, "supporting_facts", ("sent_id",))
    titles = dict.fromkeys(one_line(title) for title, _ in facts)
    # Reversed, so that of two passages with one title the first counts.
    by_title = {document.title: document.id for document in reversed(context)}
    if not all(title in by_title for title in titles):
        return ()
    return tuple(dict.fromkeys(by_title[title] for title in titles))


def _pairs(record: Row, field: str, names: tuple[str, ...]) -> list[tuple[str, Any]]:
    """Return a field as pairs that start with a title, from pairs or from the hub's columns.

    Args:
        record: The row.
        field: The field.
        names: What the column beside ``title`` may be called.
    """
    value = record.data.get(field)
    if isinstance(value, dict):
        titles = value.get("title")
        others = next((value[name] for name in names if name in value), None)
        if not isinstance(titles, list) or not isinstance(others, list):
            raise record.fault(field, f"lists called title and {' or '.join(names)}")
        if len(titles) != len(others):
            raise record.fault(field, "two lists of one length")
        value = [list(pair) for pair in zip(titles, others, strict=True)]
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and is_text(pair[0]) for pair in value
    ):
        raise record.fault(field, "a list of pairs that start with a title")
    return [(title, other) for title, other in value]
