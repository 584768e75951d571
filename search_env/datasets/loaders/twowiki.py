"""2WikiMultiHopQA: questions built from Wikidata paths and Wikipedia passages (Ho et al., 2020).

HotpotQA's layouts with ``evidences``: triples ``[subject, relation, object]`` in the order of the
reasoning, which give the hops. Sentences carry no leading space, so a passage joins them with one.
Copies for table formats have nested fields as strings of JSON, which are decoded. ``answer_id`` and
the ``qa_pairs`` of some copies are ignored: the first needs a separate alias file, the second
answers in sentences and in another order than the evidence.

A hop's document is the supporting passage whose title is the triple's subject, with or without a
final parenthesis (``Get Low`` in ``Get Low (Dillon Francis and DJ Snake song)``), or "" if none is.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from search_env.datasets.loaders import hotpotqa
from search_env.datasets.rows import Row, is_text
from search_env.types import Document, Hop, Question

_NESTED = ("context", "supporting_facts", "evidences")
_PARENTHESIS = re.compile(r" \([^()]*\)$")


def parse_question(row: Row) -> Question:
    """Return the question of a row, with hops from the evidence triples."""
    row = _decoded(row)
    context = hotpotqa.parse_documents(row, separator=" ")
    supporting = hotpotqa.supporting_ids(row, context)
    evidence = [document for document in context if document.id in supporting]
    return Question(
        id=row.identifier("_id" if "_id" in row.data else "id"),
        text=row.text("question"),
        answers=row.answers("answer"),
        dataset="2wikimultihopqa",
        kind=row.optional_text("type"),
        supporting=supporting,
        hops=tuple(
            Hop(f"{subject} {relation}", value, _document_about(subject, evidence))
            for subject, relation, value in _triples(row)
        ),
    )


def parse_documents(row: Row) -> list[Document]:
    """Return a row's context passages."""
    return hotpotqa.parse_documents(_decoded(row), separator=" ")


def _decoded(row: Row) -> Row:
    """Return the row with nested fields that are strings of JSON decoded."""
    decoded: dict[str, Any] = {}
    for field in _NESTED:
        value = row.data.get(field)
        if isinstance(value, str):
            try:
                decoded[field] = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise row.fault(field, "a list, or a list as a string of JSON") from error
    return replace(row, data=row.data | decoded) if decoded else row


def _triples(row: Row) -> list[list[str]]:
    value = row.data.get("evidences")
    if value is None:
        return []
    if not isinstance(value, list) or not all(
        isinstance(triple, list) and len(triple) == 3 and all(map(is_text, triple))
        for triple in value
    ):
        raise row.fault("evidences", "[subject, relation, object] triples")
    return value


def _document_about(subject: str, documents: list[Document]) -> str:
    """Return the id of the one document titled by the subject, "" where none or several are."""
    exact = [d.id for d in documents if d.title == subject]
    plain = [d.id for d in documents if _PARENTHESIS.sub("", d.title) == subject]
    matches = list(dict.fromkeys(exact or plain))
    return matches[0] if len(matches) == 1 else ""
