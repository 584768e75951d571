"""MuSiQue-Ans: questions composed of two to four single-hop steps (Trivedi et al., 2022).

JSON lines as published (``musique_ans_v1.0_dev.jsonl``), or one JSON list of the same rows: ``id``,
``paragraphs`` (``idx``, ``title``, ``paragraph_text``, ``is_supporting``), ``question``,
``question_decomposition``, ``answer``, ``answer_aliases``, ``answerable``.

A step's question may refer to earlier answers (``#1``) and may be a relation (``Foo >> capital``);
:func:`resolve_hops` makes it text that a search engine takes. MuSiQue-Full, which pairs each
question with one that its paragraphs cannot answer, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from search_env.datasets.rows import (
    Row,
    make_document,
    one_line,
    unique_documents,
    unique_questions,
)
from search_env.datasets.streaming import iter_rows
from search_env.types import Document, Hop, Question

_REFERENCE = re.compile(r"#(\d+)")


def read_questions(path: str | Path) -> Iterator[Question]:
    """Yield the questions of a MuSiQue-Ans file, evidence in the order of the hops.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad, an id comes twice, or the file is damaged.
    """
    return unique_questions(iter_rows(Path(path)), _question)


def read_documents(path: str | Path) -> Iterator[Document]:
    """Yield every paragraph of a MuSiQue file once.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad or the file is damaged.
    """
    return unique_documents(
        document
        for record in iter_rows(Path(path))
        for document in read_paragraphs(record).values()
    )


def resolve_hops(
    steps: Sequence[tuple[str, str]], document_ids: Sequence[str] | None = None
) -> tuple[Hop, ...]:
    """Return the hops of a decomposition with references filled in.

    ``#k`` becomes the answer of step k; where it names no earlier step it stays as written, for
    titles hold such signs too. ``Foo >> relation`` becomes ``Foo relation``.

    Args:
        steps: ``(question, answer)`` in order.
        document_ids: One id for each step; none known by default.

    Example:
        >>> steps = [("Van Hook >> county", "Mountrail"), ("#1 >> capital", "Stanley")]
        >>> [hop.query for hop in resolve_hops(steps)]
        ['Van Hook county', 'Mountrail capital']
    """
    ids = document_ids or [""] * len(steps)
    answers = [answer for _, answer in steps]
    hops = []
    for number, ((question, answer), document_id) in enumerate(zip(steps, ids, strict=True)):
        query = _fill_in(one_line(question.replace(">>", " ")), answers[:number])
        hops.append(Hop(query, answer, document_id))
    return tuple(hops)


def _fill_in(question: str, answers: Sequence[str]) -> str:
    """Replace ``#k`` by answer k, in one pass so that an answer's own signs stay."""
    known = {str(k): answer for k, answer in enumerate(answers, start=1)}
    return _REFERENCE.sub(lambda match: known.get(match[1], match[0]), question)


def read_paragraphs(record: Row) -> dict[int, Document]:
    """Return a row's paragraphs by ``idx`` (by position where there is none), in file order."""
    documents: dict[int, Document] = {}
    for position, row in enumerate(record.rows("paragraphs")):
        index = row.data.get("idx", position)
        if not isinstance(index, int) or index in documents:
            raise row.fault("idx", "a whole number that no earlier paragraph has")
        text = row.text("paragraph_text" if "paragraph_text" in row.data else "text")
        documents[index] = make_document(row.optional_text("title"), text)
    return documents


def parse_question(record: Row, question_id: str, dataset: str = "musique") -> Question:
    """Return the question of a row in MuSiQue's shape under the given id.

    A paragraph without ``is_supporting`` counts as evidence, as in HippoRAG's copies.
    """
    documents = read_paragraphs(record)
    marked = [
        document.id
        for document, row in zip(documents.values(), record.rows("paragraphs"), strict=True)
        if row.data.get("is_supporting", True) is True
    ]
    steps = record.rows("question_decomposition")
    evidence = [_evidence(step, documents) for step in steps]
    in_hop_order = (document_id for document_id in evidence if document_id in marked)
    return Question(
        id=question_id,
        text=record.text("question"),
        answers=tuple(dict.fromkeys((record.text("answer"), *record.texts("answer_aliases")))),
        dataset=dataset,
        kind=question_id.partition("__")[0] if "__" in question_id else "",
        supporting=tuple(dict.fromkeys((*in_hop_order, *marked))),
        hops=resolve_hops([(s.text("question"), s.text("answer")) for s in steps], evidence),
    )


def _evidence(step: Row, documents: dict[int, Document]) -> str:
    """Return the id of the paragraph that a step rests on, "" where none is named."""
    index = step.data.get("paragraph_support_idx")
    if index is None:
        return ""
    if not isinstance(index, int) or index not in documents:
        raise step.fault("paragraph_support_idx", "the idx of a paragraph")
    return documents[index].id


def _question(record: Row) -> Question:
    if record.data.get("answerable", True) is not True:
        raise record.fault("answerable", "true (a file of MuSiQue-Ans, not of MuSiQue-Full)")
    if not record.rows("paragraphs"):
        raise record.fault("paragraphs", "a list with at least one paragraph")
    return parse_question(record, record.identifier("id"))
