"""Many queries in one call: each text once, and a failure charged only to the queries that fail."""

from __future__ import annotations

from collections.abc import Sequence

from search_env.errors import RetrievalError
from search_env.retrieval.base import Retriever, retrieve
from search_env.types import Document


def retrieve_each(
    retriever: Retriever, queries: Sequence[str], k: int
) -> list[list[Document] | RetrievalError]:
    """Return the documents of each query, or the error that it met.

    Equal queries are asked once. Where a call with several queries fails, they are asked again one
    by one, so that a query that cannot be answered does not take the others with it.

    Args:
        retriever: Where to search.
        queries: Plain text.
        k: Largest number of documents for one query.

    Example:
        >>> from search_env.retrieval.base import FakeRetriever
        >>> fake = FakeRetriever({"Ulm": [Document("1", "Ulm", "A city.")]})
        >>> [len(found) for found in retrieve_each(fake, ["Ulm", "Bonn", "Ulm"], k=3)]
        [1, 0, 1]
        >>> fake.calls
        [['Ulm', 'Bonn']]
    """
    distinct = list(dict.fromkeys(queries))
    found: dict[str, list[Document] | RetrievalError] = {}
    try:
        found.update(zip(distinct, retrieve(retriever, distinct, k), strict=True))
    except RetrievalError as error:
        if len(distinct) == 1:
            found[distinct[0]] = error
        else:
            for query in distinct:
                found[query] = retrieve_each(retriever, [query], k)[0]
    answers = [found[query] for query in queries]
    return [list(a) if isinstance(a, list) else a for a in answers]  # equal queries share nothing
