r"""``r1-searcher``: POST /queries, as R1-Searcher's server.

::

    {"queries": ["..."], "k": 3}
    {"queries": ["..."], "answers": [["17\tTitle   Text", ...]]}

An answer is a line of the corpus: a row number, white space, and the passage, in the KILT corpus
with its title and three spaces before the text. There are no scores. Source: RUCAIBox/R1-Searcher,
train/wiki_corpus_load.py; its client removes digits and white space at the start of a line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from search_env.retrieval.http import fields
from search_env.retrieval.http.dialect import Asked, Dialect, Options, Results, WireRequest
from search_env.types import Document

_DEFAULT_K = 3
_ROW = re.compile(r"([0-9]+)\s+")
_GAP = "   "


def request(queries: Sequence[str], k: int, options: Options) -> WireRequest:
    """Return the request for all queries."""
    return WireRequest("/queries", fields.write_json({"queries": list(queries), "k": k}))


def documents(body: bytes, count: int) -> Results:
    """Return the documents of a reply."""
    answers = fields.member(fields.read_json(body), "answers", list)
    return [
        [_document(line, f"answers[{i}][{j}]") for j, line in enumerate(lines)]
        for i, lines in enumerate(fields.lists(answers, count, "answers"))
    ]


def _document(value: Any, place: str) -> Document:
    line = fields.item(value, str, place)
    row = _ROW.match(line)
    passage = line[row.end() :] if row else line
    title, gap, text = passage.partition(_GAP)
    name = fields.identifier(row[1] if row else None, line, place)
    return Document(name, title, text) if gap else Document(name, "", passage)


def line_of(document: Document) -> str:
    r"""Return a document as a line of such a corpus.

    Ids that are not numbers become numbers that they determine: clients remove the number.

    Example:
        >>> line_of(Document("17", "Ulm", "A city."))
        '17\tUlm   A city.'
    """
    digits = hashlib.sha256(document.id.encode("utf-8", "surrogatepass")).digest()[:8]
    is_number = re.fullmatch("[0-9]+", document.id)
    row = document.id if is_number else str(int.from_bytes(digits, "big"))
    title, text = (" ".join(part.splitlines()) for part in (document.title, document.text))
    return f"{row}\t{title}{_GAP}{text}"


def asked(values: Mapping[str, Any]) -> Asked:
    """Return what a request to our server asks for."""
    queries = fields.asked_queries(values, "queries")

    def reply(results: Sequence[Sequence[Document]]) -> Any:
        return {"queries": queries, "answers": [[line_of(d) for d in found] for found in results]}

    return Asked("r1-searcher", queries, fields.asked_count(values, "k", _DEFAULT_K), reply)


R1_SEARCHER = Dialect("r1-searcher", ("/queries",), request, documents, batched=True)
