"""HippoRAG's layouts, which many retrieval papers took over.

Questions are one JSON list whose rows keep the shape of the dataset they came from, told row by
row: ``supporting_facts`` is HotpotQA's, with ``evidences`` 2WikiMultiHopQA's, ``paragraphs``
MuSiQue's (with ``text`` or ``paragraph_text``; ids may be missing and are then digests of the
question). A corpus is one JSON list of ``{title, text}``, or the HotpotQA form: one JSON object
from title to sentences, each with its own leading space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from search_env.datasets.loaders import hotpotqa, musique, twowiki
from search_env.datasets.rows import (
    Row,
    is_text,
    make_document,
    unique_documents,
    unique_questions,
)
from search_env.datasets.streaming import is_mapping, iter_json_mapping, iter_rows
from search_env.errors import DataFormatError
from search_env.types import Document, Question


def read_questions(path: str | Path) -> Iterator[Question]:
    """Yield the questions of a HippoRAG file; rows in MuSiQue's shape name no dataset.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad, an id comes twice, or the file is damaged.
    """
    return unique_questions(iter_rows(Path(path)), _question)


def read_documents(path: str | Path) -> Iterator[Document]:
    """Yield the passages of a HippoRAG corpus, or those inside a question file, each once.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad or the file is damaged.
    """
    path = Path(path)
    return unique_documents(_mapping(path) if is_mapping(path) else _rows(path))


def _question(record: Row) -> Question:
    if "evidences" in record.data:
        return twowiki.parse_question(record)
    if "supporting_facts" in record.data:
        return hotpotqa.parse_question(record)
    if "paragraphs" not in record.data:
        raise record.fault("paragraphs", "paragraphs (or supporting_facts and context)")
    return musique.parse_question(record, _id(record), dataset="")


def _id(record: Row) -> str:
    if "id" in record.data:
        return record.identifier("id")
    digest = hashlib.sha1(record.text("question").encode(), usedforsecurity=False)
    return digest.hexdigest()[:12]


def _rows(path: Path) -> Iterator[Document]:
    for record in iter_rows(path):
        if "evidences" in record.data:
            yield from twowiki.read_context(record)
        elif "context" in record.data:
            yield from hotpotqa.read_context(record)
        elif "paragraphs" in record.data:
            yield from musique.read_paragraphs(record).values()
        else:
            yield make_document(record.optional_text("title"), record.text("text"))


def _mapping(path: Path) -> Iterator[Document]:
    for number, title, sentences in iter_json_mapping(path):
        if not isinstance(sentences, list) or not all(map(is_text, sentences)):
            raise DataFormatError.at(path, number, title, "a list of sentences", sentences)
        yield make_document(title, "".join(sentences))
