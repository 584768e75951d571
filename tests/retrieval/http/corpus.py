"""A few passages, and their search: what all servers of these tests answer from."""

from __future__ import annotations

from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.types import Document
from tests.retrieval.http.peers import Row

PLACES = ("Ulm", "Bonn", "Oslo", "Turin", "Kyoto", "Lima", "Quito", "Accra")
QUERIES = ("river Ulm", "capital Oslo", "city bridge", "tower Kyoto market")


def passages() -> list[Document]:
    """Return passages with words in common, odd titles and odd characters among them."""
    found = [
        Document(str(i), place, f"{place} is a city with a bridge, a tower and market {i}.")
        for i, place in enumerate(PLACES)
    ]
    found.append(Document("8", '"Heroes" (song)', "A song about a wall and a bridge.\nTwo lines."))
    found.append(Document("9", "東京 Ünïcødé", "The tower of the capital, across the river."))
    found.append(Document("10", "1984", "A novel. Oslo   has three spaces here."))
    return found


def retriever() -> BM25Retriever:
    return BM25Retriever.build(passages())


def rows(index: BM25Retriever, queries: list[str], k: int) -> list[list[Row]]:
    found = index.search(queries, k)
    return [[(d.id, d.title, d.text, d.score) for d in documents] for documents in found]
