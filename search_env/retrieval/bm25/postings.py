"""From texts to posting lists: the passages of each term and its score in them.

bm25s computes the scores in advance, one float a posting ("eager" BM25), in a sparse matrix with a
column for each term; this module streams the token ids to it and keeps the arrays.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_env.retrieval.bm25.terms import EnglishTerms
from search_env.retrieval.bm25.topk import PostingList
from search_env.retrieval.storage.string_table import StringTable


@dataclass(frozen=True, eq=False)
class Postings:
    """The score matrix by columns: a row is a passage, a column a term."""

    starts: NDArray[np.int64]  # (V + 1,); term t has the postings starts[t]:starts[t + 1]
    documents: NDArray[np.int32]  # (P,), ascending within a term
    impacts: NDArray[np.float32]  # (P,), the term's part of the document's score
    bounds: NDArray[np.float32]  # (V,), the largest impact of each term

    def lists(self, weights: Mapping[int, int]) -> list[PostingList]:
        """Return the posting lists of some terms, impacts times the term's weight."""
        lists = []
        for term, weight in weights.items():
            start, end = self.starts[term], self.starts[term + 1]
            impacts, bound = self.impacts[start:end], float(self.bounds[term])
            if weight != 1:
                impacts, bound = impacts * np.float32(weight), bound * weight
            lists.append(PostingList(self.documents[start:end], impacts, bound))
        return lists


def build_postings(
    texts: Iterable[str], terms: EnglishTerms, *, k1: float, b: float
) -> tuple[StringTable, Postings]:
    """Return the sorted vocabulary and the postings of texts, read once, one at a time."""
    ids = _TermIds(terms)
    tokens, ends = array("i"), array("q", [0])
    for text in texts:
        tokens.extend(map(ids.__getitem__, terms.words(text)))
        ends.append(len(tokens))
    vocabulary = sorted(ids.by_term)
    # Ids are ranks, so that a term is found by bisection in the mapped file.
    rank = np.empty(len(vocabulary), np.int32)
    rank[[ids.by_term[term] for term in vocabulary]] = np.arange(len(vocabulary), dtype=np.int32)
    passages = _TokenLists(rank[np.frombuffer(tokens, np.int32)], np.frombuffer(ends, np.int64))
    return StringTable.from_strings(vocabulary), _score(passages, len(vocabulary), k1, b)


def _score(passages: _TokenLists, num_terms: int, k1: float, b: float) -> Postings:
    """Compute the score matrix with bm25s."""
    if num_terms == 0:  # bm25s would divide by a mean length of 0
        empty = np.empty(0, np.float32)
        return Postings(np.zeros(1, np.int64), np.empty(0, np.int32), empty, empty)
    import bm25s

    scorer = bm25s.BM25(k1=k1, b=b, method="lucene", dtype="float32", int_dtype="int32")
    columns = scorer.build_index_from_ids(range(num_terms), passages, show_progress=False)
    starts, impacts = columns["indptr"], columns["data"]
    return Postings(
        starts=starts,
        documents=columns["indices"],
        impacts=impacts,
        bounds=np.maximum.reduceat(impacts, starts[:-1]),
    )


class _TermIds(dict[str, int]):
    """Term ids by word: the first look-up of a word stems it and numbers a new stem."""

    def __init__(self, terms: EnglishTerms) -> None:
        super().__init__()
        self._terms = terms
        self.by_term: dict[str, int] = {}

    def __missing__(self, word: str) -> int:
        (term,) = self._terms.stem([word])
        self[word] = self.by_term.setdefault(term, len(self.by_term))
        return self[word]


class _TokenLists:
    """Token ids of each passage, as lists for bm25s; stored at 4 bytes a token."""

    def __init__(self, tokens: NDArray[np.int32], ends: NDArray[np.int64]) -> None:
        self._tokens = tokens
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        for end in self._ends[1:].tolist():
            yield self._tokens[start:end].tolist()
            start = end
