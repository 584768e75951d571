"""MuSiQue-Ans: questions composed of two to four single-hop steps (Trivedi et al., 2022).

JSON lines as published (``musique_ans_v1.0_dev.jsonl``), or one JSON list of the same rows: ``id``,
``paragraphs`` (``idx``, ``title``, ``paragraph_text``, ``is_supporting``), ``question``,
``question_decomposition``, ``answer``, ``answer_aliases``, ``answerable``.

A step's question may refer to earlier answers (``#1``) and may be a relation (``Foo >> capital``);
:func:`resolve_hops` turns it into plain text for a search engine. MuSiQue-Full, which pairs each
question with an unanswerable one, is rejected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from search_env.datasets.rows import Row, make_document, one_line
from search_env.types import Document, Hop, Question

_REFERENCE = re.compile(r"#(\d+)")


def parse_question(row: Row) -> Question:
    """Return the question of a row, evidence in the order of the hops."""
    if row.data.get("answerable", True) is not True:
        raise row.fault("answerable", "true (a file of MuSiQue-Ans, not of MuSiQue-Full)")
    if not row.rows("paragraphs"):
        raise row.fault("paragraphs", "a list with at least one paragraph")
    return build_question(row, row.identifier("id"), dataset="musique")


def parse_documents(row: Row) -> Iterable[Document]:
    """Return the paragraphs of a row, in file order."""
    return _paragraphs(row).values()


def resolve_hops(
    steps: Sequence[tuple[str, str]], document_ids: Sequence[str] | None = None
) -> tuple[Hop, ...]:
    """Return the hops of ``(question, answer)`` steps with references filled in.

    ``#k`` becomes the answer of step k; where there is no earlier step k it stays, since titles
    contain such signs too. ``Foo >> relation`` becomes ``Foo relation``.
    """
    ids = document_ids or [""] * len(steps)
    answers = [answer for _, answer in steps]
    hops = []
    for number, ((question, answer), document_id) in enumerate(zip(steps, ids, strict=True)):
        query = _fill_in(one_line(question.replace(">>", " ")), answers[:number])
        hops.append(Hop(query, answer, document_id))
    return tuple(hops)


def _fill_in(question: str, answers: Sequence[str]) -> str:
    """Replace ``#k`` by answer k, in one pass so that signs in an answer stay."""
    by_number = {str(k): answer for k, answer in enumerate(answers, start=1)}
    return _REFERENCE.sub(lambda match: by_number.get(match[1], match[0]), question)


def _paragraphs(row: Row) -> dict[int, Document]:
    """Return a row's paragraphs by ``idx`` (by position where there is none), in file order."""
    documents: dict[int, Document] = {}
    for position, paragraph in enumerate(row.rows("paragraphs")):
        index = paragraph.data.get("idx", position)
        if not isinstance(index, int) or index in documents:
            raise paragraph.fault("idx", "a whole number that no earlier paragraph has")
        text = paragraph.body("paragraph_text" if "paragraph_text" in paragraph.data else "text")
        documents[index] = make_document(paragraph.optional_text("title"), text)
    return documents


def build_question(row: Row, question_id: str, dataset: str) -> Question:
    """Return a row's question; without ``is_supporting`` (HippoRAG) a paragraph is evidence."""
    documents = _paragraphs(row)
    marked = [
        document.id
        for document, paragraph in zip(documents.values(), row.rows("paragraphs"), strict=True)
        if paragraph.data.get("is_supporting", True) is True
    ]
    steps = row.rows("question_decomposition")
    evidence = [_evidence(step, documents) for step in steps]
    in_hop_order = (document_id for document_id in evidence if document_id in marked)
    return Question(
        id=question_id,
        text=row.text("question"),
        answers=tuple(dict.fromkeys((*row.answers("answer"), *row.golds("answer_aliases")))),
        dataset=dataset,
        kind=question_id.partition("__")[0] if "__" in question_id else "",
        supporting=tuple(dict.fromkeys((*in_hop_order, *marked))),
        hops=resolve_hops([(s.text("question"), s.text("answer")) for s in steps], evidence),
    )


def _evidence(step: Row, documents: dict[int, Document]) -> str:
    """Return the id of the paragraph that supports a step, "" where none is named."""
    index = step.data.get("paragraph_support_idx")
    if index is None:
        return ""
    if not isinstance(index, int) or index not in documents:
        raise step.fault("paragraph_support_idx", "the idx of a paragraph")
    return documents[index].id
