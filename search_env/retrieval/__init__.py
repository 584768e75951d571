"""Search backends behind one method, ``search(queries, k)``.

* :class:`Retriever`: the protocol; :func:`retrieve` calls one and checks its answer.
* :class:`BM25Retriever`: a local index, built with bm25s, memory-mapped from disk.
* :class:`Cassette`: records what another retriever returned and replays it.
* :class:`RetryingRetriever`: time limit, retries and backoff around another retriever.
* :class:`FakeRetriever`: answers from a mapping, for tests.
* :func:`digest`: fingerprint of documents.

Importing this package loads NumPy only; bm25s is imported when an index is built, the stemmer when
one is built or opened.
"""

from search_env.retrieval.base import FakeRetriever, Retriever, retrieve
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.retrieval.cassette import Cassette
from search_env.retrieval.digests import digest
from search_env.retrieval.retrying import RetryingRetriever

__all__ = [
    "BM25Retriever",
    "Cassette",
    "FakeRetriever",
    "Retriever",
    "RetryingRetriever",
    "digest",
    "retrieve",
]
