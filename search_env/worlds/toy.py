"""The toy: the smallest search task, with a vocabulary of two dozen symbols.

A question names two keys. The value of a pair is drawn independently in each split, so a table
learnt on one split is worth a guess on another; what transfers is to copy the two keys into a
query and the value from the document into the answer. The best return is 1; the best without a
search on an unseen split is 1/8 on average.
"""

from __future__ import annotations

import hashlib
import itertools

from search_env.retrieval.base import FakeRetriever
from search_env.types import Document, Hop, Question

KEYS = 8
VALUES = 8


def toy_pairs(split: str) -> list[tuple[str, str]]:
    """Return ``(query, value)`` for each of the 64 pairs of keys, in order.

    Example:
        >>> len(toy_pairs("train")), toy_pairs("train")[9][0]
        (64, 'key1 key1')
    """
    pairs = []
    for a, b in itertools.product(range(KEYS), repeat=2):
        drawn = hashlib.sha256(f"{split}/{a}/{b}".encode()).digest()[0] % VALUES
        pairs.append((f"key{a} key{b}", f"value{drawn}"))
    return pairs


def toy_questions(split: str) -> tuple[Question, ...]:
    """Return the 64 questions of a split."""
    return tuple(
        Question(
            id=f"toy-{split}-{i:02d}",
            text=f"find {query}",
            answers=(value,),
            dataset="toy",
            split=split,
            kind="1hop",
            supporting=(_document_id(split, i),),
            hops=(Hop(query, value, _document_id(split, i)),),
        )
        for i, (query, value) in enumerate(toy_pairs(split))
    )


def toy_retriever(split: str) -> FakeRetriever:
    """Return the retriever that answers exactly the 64 queries of a split."""
    return FakeRetriever(
        {
            query: [Document(_document_id(split, i), "", value)]
            for i, (query, value) in enumerate(toy_pairs(split))
        },
        remember=False,
    )


def _document_id(split: str, i: int) -> str:
    return f"toy-{split}-document-{i:02d}"
