"""Dense indexes of four kinds from embeddings, each measured against exact search.

==========  ===========================  =================================================
kind        factory of FAISS             bytes a vector of D numbers
==========  ===========================  =================================================
flat        ``Flat``                     4 D; exact
hnsw        ``HNSW32,Flat``              4 D + 270; a graph; scores are exact
ivf-sq8     ``IVFn,SQ8``                 D + 8; scores are of the rounded vectors
rabitq      ``RRD,IVFn,RaBitQ``          D / 8 + 16 in memory, and the embeddings in a mapped
                                         file, from which 100 candidates are scored exactly
==========  ===========================  =================================================

FAISS builds in memory: a flat index of 21 million passages and 768 dimensions takes 65 GB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ConfigurationError, DataFormatError
from search_env.retrieval.dense.card import EncoderCard, fingerprint
from search_env.retrieval.dense.embeddings import Embeddings, in_blocks
from search_env.retrieval.dense.encoder import Vectors
from search_env.retrieval.dense.index import (
    Model,
    apply_settings,
    read_faiss,
    settings_of,
    write_dense_index,
)
from search_env.retrieval.dense.nearest import Ids, Rows, nearest, rows_of
from search_env.retrieval.storage.passages import Passages
from search_env.types import Document
from search_env.validation import check_choice, check_count

KINDS = ("flat", "hnsw", "ivf-sq8", "rabitq")
RECALL_AT = 10
TARGET = 0.95
"""Recall at which no more lists or nodes are visited."""

_SAMPLE = 500  # passages that are queries where none are given
_TRAINED_ON = 64  # vectors a list
_LEAST = 39  # vectors a list, below which FAISS's k-means complains
_EXTRA = 32  # of the exact neighbours, for ties
_TIE = 1e-5

Progress = Callable[[str], object]


class _Blocks:
    """The vectors of all passages, in blocks or by number, each checked against its passages."""

    def __init__(self, embeddings: Embeddings, passages: Passages) -> None:
        self.size = embeddings.card.block
        self._arrays = [
            embeddings.vectors(number, documents)
            for number, documents in enumerate(in_blocks(passages, self.size))
        ]
        if not self._arrays:
            raise ConfigurationError("Expected passages to index, got none. Name another corpus.")

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter(self._arrays)

    def rows(self, ids: Ids) -> NDArray[Any]:
        """Return vectors by passage number, ``(n, D)``."""
        return np.stack([self._arrays[i // self.size][i % self.size] for i in ids.tolist()])


class Queries(NamedTuple):
    """Queries to measure recall with: vectors ``(Q, D)``, and what they are."""

    vectors: Vectors
    source: str
    ids: Ids | None = None  # of the passages that they are, which do not count as found


def factory_of(kind: str, count: int, dimension: int, lists: int | None = None) -> str:
    """Return FAISS's factory string of a kind for so many vectors.

    ``lists`` is the number of inverted lists, by default the power of two nearest to
    ``4 * sqrt(count)``, but with at least 39 vectors a list.

    Example:
        >>> factory_of("rabitq", 81_405, 384), factory_of("ivf-sq8", 100, 384)
        ('RR384,IVF1024,RaBitQ', 'IVF2,SQ8')
    """
    check_choice("kind", kind, KINDS)
    if lists is None:
        lists = 2 ** round(math.log2(4 * math.sqrt(count)))
        lists = max(1, min(lists, count // _LEAST))
    check_count("lists", lists, 1)
    if lists > count:
        raise ConfigurationError(
            f"Expected at most {count:,} lists for as many passages, got {lists:,}. Omit lists."
        )
    factories = {
        "flat": "Flat",
        "hnsw": "HNSW32,Flat",
        "ivf-sq8": f"IVF{lists},SQ8",
        "rabitq": f"RR{dimension},IVF{lists},RaBitQ",
    }
    return factories[kind]


def build_dense_index(
    documents: Iterable[Document],
    embeddings: Embeddings,
    out: str | Path,
    *,
    kind: str = "flat",
    lists: int | None = None,
    queries: Vectors | None = None,
    source: str = "queries",
    progress: Progress = lambda step: None,
) -> dict[str, Any]:
    """Build an index, measure its recall and write it; return what was measured.

    The recall is that of :data:`RECALL_AT` documents against exact search in the embeddings. Of
    the numbers of lists or nodes to visit, powers of two, the smallest that gives :data:`TARGET`
    is stored as the index's setting, with all that were measured on the way.

    Args:
        documents: The passages that were embedded, in the same order.
        embeddings: Their vectors, complete.
        out: Folder to write to; an index there is replaced.
        kind: One of :data:`KINDS`.
        lists: See :func:`factory_of`.
        queries: Vectors of queries, ``(Q, D)``, to measure with. By default up to 500 of the
            passages, evenly spread, which are easier than questions; itself does not count.
        source: What the queries are, for the card.
        progress: Called with the name of each step.

    Raises:
        DataError: The embeddings are incomplete, damaged, or of another corpus.
        ConfigurationError: An argument is wrong, or the folder is something else.
    """
    card = embeddings.card
    progress("reading passages")
    passages = Passages.from_documents(documents)
    blocks = _Blocks(embeddings, passages)
    sample = _queries(blocks, len(passages), queries, source)
    factory = factory_of(kind, len(passages), card.dimension, lists)
    progress("building")
    index = _filled(factory, blocks, len(passages), card.dimension)
    is_coarse = kind == "rabitq"
    rows = blocks.rows if is_coarse else rows_of(index)
    progress("measuring recall")
    recall = _measured(index, rows, blocks, sample)
    progress("writing")
    write_dense_index(
        Path(out).absolute(),
        passages,
        index,
        Model(card.encoder, card.model, card.fingerprint),
        kind=kind,
        factory=factory,
        recall=recall,
        vectors=blocks if is_coarse else None,
    )
    return recall


def _queries(blocks: _Blocks, count: int, vectors: Vectors | None, source: str) -> Queries:
    if vectors is not None:
        return Queries(np.ascontiguousarray(vectors, np.float32), source)
    ids = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
    return Queries(blocks.rows(ids).astype(np.float32), "passages of the index", ids)


def _filled(factory: str, blocks: _Blocks, count: int, dimension: int) -> Any:
    """Return an index of FAISS, trained on evenly spread vectors, with all of them added."""
    import faiss

    index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        lists = int(faiss.extract_index_ivf(index).nlist)
        size = min(count, max(_TRAINED_ON * lists, 10_000))
        ids = np.unique(np.linspace(0, count - 1, size).astype(np.int64))
        index.train(blocks.rows(ids).astype(np.float32))
    for block in blocks:
        index.add(block.astype(np.float32))
    return index


def _measured(index: Any, rows: Rows | None, blocks: _Blocks, queries: Queries) -> dict[str, Any]:
    """Set the fewest lists or nodes that give the target recall; return what was measured."""
    neighbours = _exact(blocks, queries)
    measured: dict[str, float] = {}
    (name, values) = _values(index)
    for value in values:
        if name:
            apply_settings(index, {name: value})
        recall = _recall(index, rows, queries, neighbours)
        measured[f"{name}={value}" if name else "all"] = round(recall, 4)
        if recall >= TARGET:
            break
    return {
        "k": RECALL_AT,
        "recall": round(recall, 4),
        "queries": len(queries.vectors),
        "source": queries.source,
        "measured": measured,
    }


def _values(index: Any) -> tuple[str, list[int]]:
    """Return the setting of an index that trades recall for time, and the values to try."""
    (name,) = settings_of(index) or ("",)
    if name == "nprobe":
        import faiss

        lists = int(faiss.extract_index_ivf(index).nlist)
        return name, sorted({min(lists, 2**i) for i in range(9)})
    return (name, [128, 256, 512]) if name else ("", [0])


def _exact(blocks: _Blocks, queries: Queries) -> list[Ids]:
    """Return the nearest passages of each query, all that tie with the last one included."""
    count = RECALL_AT + 1 + _EXTRA
    scores: NDArray[Any] = np.zeros((len(queries.vectors), 0), np.float32)  # (Q, up to count)
    ids: NDArray[Any] = np.zeros((len(queries.vectors), 0), np.int64)
    start = 0
    for block in blocks:
        products = queries.vectors @ block.astype(np.float32).T  # (Q, block)
        numbers = np.broadcast_to(np.arange(start, start + len(block)), products.shape)
        scores = np.concatenate([scores, products], axis=1)
        ids = np.concatenate([ids, numbers], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        scores = np.take_along_axis(scores, best, axis=1)
        ids = np.take_along_axis(ids, best, axis=1)
        start += len(block)
    found = []
    for query in range(len(ids)):
        keep = (
            np.ones(ids.shape[1], bool) if queries.ids is None else ids[query] != queries.ids[query]
        )
        own, values = ids[query][keep], scores[query][keep]
        last = values[:RECALL_AT][-1] if len(values) else 0.0
        found.append(own[values >= last - _TIE])
    return found


def _recall(index: Any, rows: Rows | None, queries: Queries, neighbours: list[Ids]) -> float:
    """Return the mean share of the nearest passages that an index finds."""
    shares = []
    results = nearest(index, queries.vectors, RECALL_AT + 1, rows)
    for query, (hits, expected) in enumerate(zip(results, neighbours, strict=True)):
        ids = hits.ids if queries.ids is None else hits.ids[hits.ids != queries.ids[query]]
        count = min(RECALL_AT, len(expected))
        if count:
            shares.append(min(count, len(np.intersect1d(ids[:RECALL_AT], expected))) / count)
    return float(np.mean(shares)) if shares else 1.0


def adopt_faiss_file(
    documents: Iterable[Document],
    file: str | Path,
    out: str | Path,
    *,
    model: str | Path,
    card: EncoderCard,
    dimension: int,
    settings: Mapping[str, int] | None = None,
) -> None:
    """Make an index folder of a file of FAISS that somebody else has built.

    Its recall is not known, so none is stored. The file gets a second name where the file system
    allows it, and is copied otherwise.

    Args:
        documents: The passages; vector number ``i`` is that of passage ``i``.
        file: What ``faiss.read_index`` reads.
        out: Folder to write to.
        model: Folder of the encoder that the vectors were made with.
        card: How that encodes.
        dimension: Numbers in its vectors.
        settings: ``nprobe`` or ``ef`` in place of the file's own.

    Raises:
        DataError: The file is damaged, or does not fit the passages or the model.
    """
    file = Path(file).expanduser()
    index = read_faiss(file)
    if index.d != dimension:
        raise DataFormatError(
            f"{file}: expected vectors of {dimension} numbers, as {model} makes them, got "
            f"{index.d}. Name the model that the index was made with."
        )
    passages = Passages.from_documents(documents)
    if index.ntotal != len(passages):
        raise DataFormatError(
            f"{file}: expected a vector for each of {len(passages):,} passages, got "
            f"{index.ntotal:,}. Name the corpus that the index was made of."
        )
    own = settings_of(index)
    for name in settings or {}:
        check_choice(f"settings of {file}", name, own, "Leave it out.")
    folder = Path(model).expanduser().absolute()
    apply_settings(index, settings or {})
    write_dense_index(
        Path(out).absolute(),
        passages,
        index,
        Model(card, str(folder), fingerprint(folder)),
        kind="adopted",
        factory="",
        recall=None,
        file=file,
    )
