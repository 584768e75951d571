"""2WikiMultiHopQA: questions built from Wikidata paths and Wikipedia passages (Ho et al., 2020).

HotpotQA's layouts (see :mod:`search_env.datasets.loaders.hotpotqa`) with ``evidences``: triples
``[subject, relation, object]`` in the order of the reasoning, which give the hops. Three decisions:

* Sentences carry no leading space here, so a passage joins them with one.
* Copies made for table formats hold ``context``, ``supporting_facts`` and ``evidences`` as strings
  of JSON; those are decoded. Any other string is an error.
* ``answer_id`` and the ``qa_pairs`` of some copies are ignored: the first needs a separate alias
  file, the second answers in sentences and in another order than the evidence.

A hop's document is the supporting passage whose title is the triple's subject, with or without a
final parenthesis (``Get Low`` in ``Get Low (Dillon Francis and DJ Snake song)``), or "" if none is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from search_env.datasets.loaders import hotpotqa
from search_env.datasets.rows import Row, is_text, unique_documents, unique_questions
from search_env.datasets.streaming import iter_rows
from search_env.types import Document, Hop, Question

_NESTED = ("context", "supporting_facts", "evidences")
_PARENTHESIS = re.compile(r" \([^()]*\)$")


def read_questions(path: str | Path) -> Iterator[Question]:
    """Yield the questions of a 2WikiMultiHopQA file, with hops from the evidence triples.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad, an id comes twice, or the file is damaged.
    """
    return unique_questions(iter_rows(Path(path)), parse_question)


def read_documents(path: str | Path) -> Iterator[Document]:
    """Yield every context passage of a 2WikiMultiHopQA file once.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad or the file is damaged.
    """
    return unique_documents(
        document for record in iter_rows(Path(path)) for document in read_context(record)
    )


def parse_question(record: Row) -> Question:
    """Return the question of a row."""
    record = _decoded(record)
    context = hotpotqa.read_context(record, glue=" ")
    supporting = hotpotqa.supporting_ids(record, context)
    evidence = [document for document in context if document.id in supporting]
    return Question(
        id=record.identifier("_id" if "_id" in record.data else "id"),
        text=record.text("question"),
        answers=(record.text("answer"),),
        dataset="2wikimultihopqa",
        kind=record.optional_text("type"),
        supporting=supporting,
        hops=tuple(
            Hop(f"{subject} {relation}", found, _document_about(subject, evidence))
            for subject, relation, found in _triples(record)
        ),
    )


def read_context(record: Row) -> list[Document]:
    """Return a row's context passages."""
    return hotpotqa.read_context(_decoded(record), glue=" ")


def _decoded(record: Row) -> Row:
    """Return the record with nested fields that are strings of JSON decoded."""
    decoded: dict[str, Any] = {}
    for field in _NESTED:
        value = record.data.get(field)
        if isinstance(value, str):
            try:
                decoded[field] = json.loads(value)
            except ValueError as error:
                raise record.fault(field, "a list, or a list as a string of JSON") from error
    return replace(record, data=record.data | decoded) if decoded else record


def _triples(record: Row) -> list[list[str]]:
    value = record.data.get("evidences")
    if value is None:
        return []
    if not isinstance(value, list) or not all(
        isinstance(row, list) and len(row) == 3 and all(map(is_text, row)) for row in value
    ):
        raise record.fault("evidences", "[subject, relation, object] triples")
    return value


def _document_about(subject: str, documents: list[Document]) -> str:
    """Return the id of the one document titled by the subject, "" where none or several are."""
    exact = [d.id for d in documents if d.title == subject]
    plain = [d.id for d in documents if _PARENTHESIS.sub("", d.title) == subject]
    found = list(dict.fromkeys(exact or plain))
    return found[0] if len(found) == 1 else ""
