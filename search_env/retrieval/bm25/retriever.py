"""BM25 over a corpus of passages: built with bm25s, searched by our own NumPy top-k.

The scores are those of bm25s (method "lucene"); only finding the best of them is done here, because
its NumPy back end looks at every document of the corpus for every query and its numba one compiles
for ten seconds in every process. There is no numba, no compilation and no pickle in this module.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np

from search_env.errors import ConfigurationError, IndexFormatError
from search_env.retrieval.bm25.array_folder import (
    Array,
    map_array,
    read_manifest,
    rejected,
    write_index,
)
from search_env.retrieval.bm25.passages import Passages
from search_env.retrieval.bm25.postings import Postings, build_postings
from search_env.retrieval.bm25.string_table import StringTable
from search_env.retrieval.bm25.terms import EnglishTerms
from search_env.retrieval.bm25.topk import Scores, top_k
from search_env.retrieval.digests import digest
from search_env.types import Document

T = TypeVar("T")

_PACKAGES = ("search-env", "bm25s", "PyStemmer", "numpy")
_PATIENCE = 2.0  # seconds without a progress bar
_LOOK_EVERY = 256  # items between looks at the clock


class BM25Retriever:
    """Finds passages by BM25 (Lucene's variant, exact document lengths).

    Title and text are indexed together: lower case, words of two or more characters, English
    stopwords removed, English stems, in documents and queries alike. Make one with :meth:`build`
    or :meth:`load`.

    * A word repeated in the query counts as often as it stands there, as in bm25s.
    * Ties go to the passage that came first in the corpus.
    * A query without a known word (empty, stopwords only) finds nothing.

    Safe to use from several threads: each concurrent search takes a score buffer of 4 bytes a
    passage from a pool that grows to the largest number of concurrent searches.

    **Size.** A 100-word passage has about 60 postings of 8 bytes (int32 passage, float32 impact),
    0.6 kB of text and 24 bytes of offsets. Loaded, everything is memory-mapped: resident are the
    pages that queries touch, plus the score buffers. Measured on two cores of an AMD EPYC
    (``benchmarks/results/speed_retrieval.md``), estimated where it says so.

    ================  ==========  =========  ===================  ================
    passages          postings    texts      buffer per search    one search (k=5)
    ================  ==========  =========  ===================  ================
    100,000           47 MB       0.06 GB    0.4 MB               0.2 ms
    1,000,000         0.46 GB     0.6 GB     4 MB                 0.4 ms
    21M (wiki-18)     10 GB       13 GB      84 MB                10-20 ms, estimate
    29M (KILT 2019)   14 GB       18 GB      116 MB               15-30 ms, estimate
    ================  ==========  =========  ===================  ================

    The estimate takes time as proportional to the corpus (terms keep their share of the passages)
    with the score buffer outside the cache, and pages in memory; a first touch adds the disk's
    time. Building needs some 50 bytes a posting at its peak (bm25s sorts the matrix): 3 GB for
    1M, an estimated 60 GB for 21M; loading then needs none of it.

    Example:
        >>> retriever = BM25Retriever.build([
        ...     Document("1", "Ulm", "Ulm is a city on the Danube."),
        ...     Document("2", "Paris", "Paris is the capital of France."),
        ... ])
        >>> [(d.id, round(d.score, 3)) for d in retriever.search(["cities on the danube"], k=5)[0]]
        [('1', 0.73)]
    """

    def __init__(
        self,
        passages: Passages,
        vocabulary: StringTable,
        postings: Postings,
        *,
        k1: float,
        b: float,
        stopwords: Iterable[str],
    ) -> None:
        self._passages = passages
        self._vocabulary = vocabulary
        self._postings = postings
        self._terms = EnglishTerms(stopwords)
        # Policies keep asking about the same words; a look-up in the mapped file takes 10 us.
        self._find_term = lru_cache(maxsize=2**16)(vocabulary.find)
        self._buffers: list[Scores] = []
        self._path: Path | None = None
        self.k1 = k1
        self.b = b

    @classmethod
    def build(
        cls,
        documents: Iterable[Document],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        progress: bool = False,
    ) -> BM25Retriever:
        """Index documents. They are read once, one at a time; ids must be unique.

        Args:
            documents: In the order that decides ties. May be empty.
            k1: Term-frequency saturation, >= 0. The default is Pyserini's.
            b: Length normalisation, 0 to 1. The default is Pyserini's.
            progress: Show progress bars on the terminal.

        Raises:
            ConfigurationError: ``k1`` or ``b`` is out of range.
            DataFormatError: An id occurs twice, or something else than a document came.
        """
        if not (math.isfinite(k1) and k1 >= 0 and 0 <= b <= 1):
            raise ConfigurationError(
                f"Expected k1 >= 0 and 0 <= b <= 1, got k1={k1!r}, b={b!r}. "
                "Use k1=0.9, b=0.4 where in doubt."
            )
        terms = EnglishTerms()
        passages = Passages.from_documents(_track(documents, "Reading passages", progress))
        texts = (f"{document.title} {document.text}" for document in passages)
        vocabulary, postings = build_postings(
            _track(texts, "Indexing passages", progress, len(passages)), terms, k1=k1, b=b
        )
        return cls(passages, vocabulary, postings, k1=k1, b=b, stopwords=terms.stopwords)

    @classmethod
    def load(cls, path: str | Path) -> BM25Retriever:
        """Open a saved index. Nothing is read but what the files say about themselves.

        Raises:
            IndexFormatError: There is no index, a damaged one, or one of another format version.
        """
        path = Path(path).absolute()
        manifest = read_manifest(path)
        passages, vocabulary, postings = _map_parts(path)
        try:
            parameters = manifest["parameters"]
            retriever = cls(
                passages,
                vocabulary,
                postings,
                k1=float(parameters["k1"]),
                b=float(parameters["b"]),
                stopwords=[str(word) for word in parameters["stopwords"]],
            )
            retriever.digest = str(manifest["digest"])
        except (KeyError, TypeError, ValueError) as error:
            raise rejected(path, f"a format.json with a bad {error}") from error
        retriever._path = path
        return retriever

    def save(self, path: str | Path) -> None:
        """Write the index to a folder, whole or not at all; an index that is there is replaced.

        Raises:
            ConfigurationError: The path holds something else.
        """
        path = Path(path).absolute()
        postings, vocabulary, passages = self._postings, self._vocabulary, self._passages.table
        arrays: dict[str, Array] = {
            "passages.blob": passages.blob,
            "passages.offsets": passages.offsets,
            "vocabulary.blob": vocabulary.blob,
            "vocabulary.offsets": vocabulary.offsets,
            "postings.starts": postings.starts,
            "postings.documents": postings.documents,
            "postings.impacts": postings.impacts,
            "postings.bounds": postings.bounds,
        }
        manifest: dict[str, object] = {
            "packages": {name: version(name) for name in _PACKAGES},
            "parameters": {
                "method": "lucene",
                "k1": self.k1,
                "b": self.b,
                "stemmer": "english",
                "stopwords": sorted(self._terms.stopwords),
            },
            "counts": {
                "passages": len(self),
                "terms": len(vocabulary),
                "postings": len(postings.documents),
            },
            "digest": self.digest,
        }
        write_index(path, arrays, manifest)
        self._path = path

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return the up to ``k`` best passages for each query; see the class and ``Retriever``.

        Raises:
            ConfigurationError: ``k`` is below 1, or ``queries`` is not a list of strings.
        """
        if isinstance(queries, str) or not all(isinstance(query, str) for query in queries):
            raise ConfigurationError(
                f"Expected a list of query strings, got {queries!r:.80}. Pass [query] for one."
            )
        if k < 1:
            raise ConfigurationError(f"Expected k of at least 1, got {k!r}. Ask for one document.")
        # Groups of rollouts often ask the same thing in the same step.
        found = {query: self._search(query, k) for query in dict.fromkeys(queries)}
        return [list(found[query]) for query in queries]

    def _search(self, query: str, k: int) -> list[Document]:
        """Return the best passages for one query."""
        counts = Counter(self._terms(query))
        known = ((self._find_term(term), count) for term, count in counts.items())
        lists = self._postings.lists({term: n for term, n in known if term is not None})
        if not lists:
            return []
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = np.zeros(len(self), np.float32)
        passages, scores = top_k(lists, k, buffer)
        self._buffers.append(buffer)
        return [
            self._passages.document(index, score)
            for index, score in zip(passages.tolist(), scores.tolist(), strict=True)
        ]

    def __len__(self) -> int:
        return len(self._passages)

    def document(self, document_id: str) -> Document:
        """Return a passage by its id. The first call lists the ids: 0.5 s and 0.1 GB a million.

        Raises:
            ConfigurationError: No passage has this id.
        """
        return self._passages[self._passages.index(document_id)]

    def documents(self) -> Iterator[Document]:
        """Iterate over the passages in the order of the corpus."""
        return iter(self._passages)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the corpus: :func:`search_env.retrieval.digests.digest` of all passages."""
        return digest(self._passages)

    @property
    def name(self) -> str:
        """What decides the results: parameters and corpus. Cassettes file recordings by it."""
        return f"bm25(k1={self.k1:g}, b={self.b:g}, corpus={self.digest[:12]})"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path of a saved index, which is opened again; the arrays of an unsaved one."""
        if self._path is not None:
            return _reopen, (self._path, self.digest)
        return _assemble, (
            self._passages.table,
            self._vocabulary,
            self._postings,
            self.k1,
            self.b,
            sorted(self._terms.stopwords),
        )


def _assemble(
    passages: StringTable,
    vocabulary: StringTable,
    postings: Postings,
    k1: float,
    b: float,
    stopwords: list[str],
) -> BM25Retriever:
    """Unpickle an index that was never saved."""
    return BM25Retriever(Passages(passages), vocabulary, postings, k1=k1, b=b, stopwords=stopwords)


def _reopen(path: Path, expected: str) -> BM25Retriever:
    """Unpickle a saved index, which must still hold the same corpus."""
    retriever = BM25Retriever.load(path)
    if retriever.digest != expected:
        raise IndexFormatError(
            f"Expected the corpus {expected[:12]} in {path}, got {retriever.digest[:12]}. "
            "The index was replaced since the retriever was pickled: load it anew."
        )
    return retriever


def _map_parts(path: Path) -> tuple[Passages, StringTable, Postings]:
    """Map the arrays of an index and check that their lengths belong together."""
    passages = _map_table(path, "passages")
    vocabulary = _map_table(path, "vocabulary")
    postings = Postings(
        starts=map_array(path, "postings.starts", np.int64),
        documents=map_array(path, "postings.documents", np.int32),
        impacts=map_array(path, "postings.impacts", np.float32),
        bounds=map_array(path, "postings.bounds", np.float32),
    )
    consistent = (
        len(passages) % 3 == 0
        and len(vocabulary) == len(postings.bounds) == len(postings.starts) - 1
        and len(postings.documents) == len(postings.impacts) == postings.starts[-1]
    )
    if not consistent:
        raise rejected(path, "arrays whose lengths contradict each other")
    return Passages(passages), vocabulary, postings


def _map_table(path: Path, name: str) -> StringTable:
    """Map one table of strings."""
    blob = map_array(path, f"{name}.blob", np.uint8)
    offsets = map_array(path, f"{name}.offsets", np.int64)
    if len(offsets) == 0 or offsets[-1] != len(blob):
        raise rejected(path, f"{name}.offsets.npy that do not fit {name}.blob.npy")
    return StringTable(blob, offsets)


def _track(items: Iterable[T], task: str, progress: bool, total: int | None = None) -> Iterable[T]:
    """Return the items, behind a progress bar where one is wanted and the user has to wait."""
    return _behind_bar(items, task, total) if progress else items


def _behind_bar(items: Iterable[T], task: str, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import Progress

    bar: Progress | None = None
    start = time.monotonic()
    try:
        for number, item in enumerate(items):
            if number % _LOOK_EVERY == 0:
                if bar is None and time.monotonic() - start >= _PATIENCE:
                    bar = Progress(console=Console(stderr=True))  # standard output is for results
                    bar.start()
                    bar.add_task(task, total=total)
                if bar is not None:
                    bar.update(bar.task_ids[0], completed=number)
            yield item
        if bar is not None:
            bar.update(bar.task_ids[0], completed=total)
    finally:
        if bar is not None:
            bar.stop()
