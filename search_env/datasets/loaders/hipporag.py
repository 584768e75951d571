"""HippoRAG's layouts, which many retrieval papers use.

Questions are one JSON list whose rows keep the shape of the dataset they came from:
``supporting_facts`` is HotpotQA's, with ``evidences`` 2WikiMultiHopQA's, ``paragraphs`` MuSiQue's
(ids may be missing and are then digests of the question). A corpus is one JSON list of ``{title,
text}``, or one JSON object from title to sentences, each with its own leading space.
"""

from __future__ import annotations

from collections.abc import Iterable

from search_env.datasets.loaders import hotpotqa, musique, twowiki
from search_env.datasets.rows import Row, is_text, make_document, question_id
from search_env.types import Document, Question


def parse_question(row: Row) -> Question:
    """Return the question of a row; rows in MuSiQue's shape name no dataset."""
    if "evidences" in row.data:
        return twowiki.parse_question(row)
    if "supporting_facts" in row.data:
        return hotpotqa.parse_question(row)
    if "paragraphs" not in row.data:
        raise row.fault("paragraphs", "paragraphs (or supporting_facts and context)")
    return musique.build_question(row, _id(row), dataset="")


def _id(row: Row) -> str:
    if "id" in row.data:
        return row.identifier("id")
    return question_id(row.text("question"))


def parse_documents(row: Row) -> Iterable[Document]:
    """Return the passages of a row: of a corpus, of a question, or of one title's sentences."""
    if "evidences" in row.data:
        return twowiki.parse_documents(row)
    if "context" in row.data:
        return hotpotqa.parse_documents(row)
    if "paragraphs" in row.data:
        return musique.parse_documents(row)
    if "sentences" in row.data and "text" not in row.data:
        sentences = row.data["sentences"]
        if not isinstance(sentences, list) or not all(map(is_text, sentences)):
            raise row.fault("sentences", "a list of sentences")
        return [make_document(row.optional_text("title"), "".join(sentences))]
    return [make_document(row.optional_text("title"), row.body("text"))]
