"""BM25 over a corpus of passages: indexed by bm25s, searched by this package's NumPy top-k.

The scores are those of bm25s (method "lucene"). Its own search is not used because the NumPy back
end scores every document for every query and the numba one compiles for ten seconds in every
process.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from search_env.errors import ConfigurationError, IndexFormatError
from search_env.retrieval.bm25.postings import Postings, build_postings
from search_env.retrieval.bm25.terms import EnglishTerms
from search_env.retrieval.bm25.topk import Scores, top_k
from search_env.retrieval.digests import digest
from search_env.retrieval.storage.array_folder import (
    Array,
    check_ends,
    map_array,
    map_table,
    read_manifest,
    rejected,
    write_index,
)
from search_env.retrieval.storage.array_folder import verify as verify_files
from search_env.retrieval.storage.passages import Passages
from search_env.retrieval.storage.string_table import StringTable
from search_env.types import Document
from search_env.validation import check_count, check_queries

T = TypeVar("T")

_PACKAGES = ("search-env", "bm25s", "PyStemmer", "numpy")
_PROGRESS_DELAY = 2.0  # seconds until a progress bar appears
_CLOCK_INTERVAL = 256  # items between readings of the clock


class BM25Retriever:
    """Finds passages by BM25 (Lucene's variant, exact document lengths).

    Title and text are indexed together: lower case, words of two or more characters, English
    stopwords removed, English stems, in documents and queries alike. Use :meth:`build` or
    :meth:`load`.

    * A word that is repeated in the query counts each time, as in bm25s.
    * Ties go to the earlier passage of the corpus.
    * A query without a word of the index (empty, stopwords only) returns no passages.

    Safe to use from several threads: each concurrent search takes a score buffer of 4 bytes a
    passage from a pool that grows to the largest number of concurrent searches.

    **Size.** A 100-word passage has about 60 postings of 8 bytes (int32 passage, float32 impact),
    0.6 kB of text and 24 bytes of offsets. Loaded, everything is memory-mapped: resident are the
    pages that queries touch, plus the score buffers. Measured on two cores of an AMD EPYC
    (``benchmarks/results/speed_retrieval.md``) unless marked as an estimate.

    ================  ==========  =========  ===================  ================
    passages          postings    texts      buffer per search    one search (k=5)
    ================  ==========  =========  ===================  ================
    100,000           47 MB       0.06 GB    0.4 MB               0.2 ms
    1,000,000         0.46 GB     0.6 GB     4 MB                 0.4 ms
    21M (wiki-18)     10 GB       13 GB      84 MB                10-20 ms, estimate
    29M (KILT 2019)   14 GB       18 GB      116 MB               15-30 ms, estimate
    ================  ==========  =========  ===================  ================

    The estimates assume time proportional to the corpus (terms keep their share of the passages),
    the score buffer outside the cache and pages in memory; a first access adds the disk's time.
    Building needs some 50 bytes a posting at its peak (bm25s sorts the matrix): 3 GB for 1M, an
    estimated 60 GB for 21M; loading does not.

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
        # Queries repeat words, and a look-up in the mapped file takes 10 us.
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
            documents: Passages in the order that breaks ties; may be empty.
            k1: Term-frequency saturation, >= 0; this default and that of ``b`` are Pyserini's.
            b: Length normalisation, 0 to 1.
            progress: Show progress bars on the terminal.

        Raises:
            ConfigurationError: ``k1`` or ``b`` is out of range.
            DataFormatError: An id occurs twice, or an item is not a document.
        """
        if not (math.isfinite(k1) and k1 >= 0 and 0 <= b <= 1):
            raise ConfigurationError(
                f"Expected k1 >= 0 and 0 <= b <= 1, got k1={k1!r}, b={b!r}. "
                "The defaults are k1=0.9, b=0.4."
            )
        terms = EnglishTerms()
        passages = Passages.from_documents(_track(documents, "Reading passages", progress))
        texts = (f"{document.title} {document.text}" for document in passages)
        vocabulary, postings = build_postings(
            _track(texts, "Indexing passages", progress, len(passages)), terms, k1=k1, b=b
        )
        return cls(passages, vocabulary, postings, k1=k1, b=b, stopwords=terms.stopwords)

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = False) -> BM25Retriever:
        """Open a saved index. Only the manifest and the ends of the arrays are read.

        Args:
            path: The folder.
            verify: Compare the content of all files with the checksums stored by :meth:`save`,
                which reads the whole index. Without it, bits that flipped in a file give wrong
                results, or an error when a search comes upon them.

        Raises:
            IndexFormatError: The index is missing, damaged, or of another format version; with
                ``verify``, also if it was written without checksums.
        """
        path = Path(path).expanduser().absolute()
        manifest = read_manifest(path)
        if verify:
            verify_files(path, manifest)
        passages, vocabulary, postings = _map_parts(path, manifest)
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
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise rejected(path, f"a format.json with a bad {error}") from error
        retriever._path = path
        return retriever

    def save(self, path: str | Path) -> None:
        """Write the index to a folder atomically; an existing index is replaced.

        Raises:
            ConfigurationError: The path is not an index.
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
        check_queries(queries)
        k = check_count("k", k, least=1)
        # Groups of rollouts often send equal queries in the same step.
        results = {query: self._search(query, k) for query in dict.fromkeys(queries)}
        return [list(results[query]) for query in queries]

    def _search(self, query: str, k: int) -> list[Document]:
        """Return the best passages for one query."""
        try:
            return self._best(query, k)
        except (IndexError, ValueError) as error:  # a pointer to nowhere, bytes that are no text
            if self._path is None:
                raise
            raise rejected(self._path, f"damaged contents ({error})") from error

    def _best(self, query: str, k: int) -> list[Document]:
        counts = Counter(self._terms(query))
        weights = ((self._find_term(term), count) for term, count in counts.items())
        lists = self._postings.lists({term: n for term, n in weights if term is not None})
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
        """Return a passage by its id. The first call indexes the ids: 0.5 s and 0.1 GB a million.

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
        """Parameters and corpus, on which the results depend; the backend's name in cassettes."""
        return f"bm25(k1={self.k1:g}, b={self.b:g}, corpus={self.digest[:12]})"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path of a saved index, which is opened again, or the arrays of another one."""
        if self._path is not None:
            return _reopen, (self._path, self.digest)
        assemble = partial(
            type(self), k1=self.k1, b=self.b, stopwords=sorted(self._terms.stopwords)
        )
        # New Passages: the index by id, if there is one, stays behind.
        return assemble, (Passages(self._passages.table), self._vocabulary, self._postings)


def _reopen(path: Path, expected: str) -> BM25Retriever:
    """Unpickle a saved index, which must still have the same corpus."""
    retriever = BM25Retriever.load(path)
    if retriever.digest != expected:
        raise IndexFormatError(
            f"Expected the corpus {expected[:12]} in {path}, got {retriever.digest[:12]}. "
            "The index was replaced after the retriever was pickled: load it again."
        )
    return retriever


def _map_parts(path: Path, manifest: Mapping[str, Any]) -> tuple[Passages, StringTable, Postings]:
    """Map the arrays of an index and check that their lengths and ends agree."""
    passages = map_table(path, "passages")
    vocabulary = map_table(path, "vocabulary")
    postings = Postings(
        starts=map_array(path, "postings.starts", np.int64),
        documents=map_array(path, "postings.documents", np.int32),
        impacts=map_array(path, "postings.impacts", np.float32),
        bounds=map_array(path, "postings.bounds", np.float32),
    )
    consistent = (
        len(passages) % 3 == 0
        and len(vocabulary) == len(postings.bounds) == len(postings.starts) - 1
        and len(postings.documents) == len(postings.impacts)
    )
    if not consistent:
        raise rejected(path, "arrays whose lengths disagree")
    check_ends(path, "postings.starts", postings.starts, len(postings.documents))
    counts = {
        "passages": len(passages) // 3,
        "terms": len(vocabulary),
        "postings": len(postings.documents),
    }
    if manifest.get("counts") != counts:
        raise rejected(path, f"{counts} in its arrays, {manifest.get('counts')} in format.json")
    return Passages(passages), vocabulary, postings


def _track(items: Iterable[T], task: str, progress: bool, total: int | None = None) -> Iterator[T]:
    """Yield the items, with a progress bar if ``progress`` and if it takes long."""
    if not progress:
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    start = time.monotonic()
    with ExitStack() as stack:
        bar: Progress | None = None
        for number, item in enumerate(items):
            if number % _CLOCK_INTERVAL == 0:
                if bar is None and time.monotonic() - start >= _PROGRESS_DELAY:
                    bar = Progress(console=Console(stderr=True))  # standard output is for results
                    stack.enter_context(bar).add_task(task, total=total)
                if bar is not None:
                    bar.update(bar.task_ids[0], completed=number)
            yield item
        if bar is not None:
            bar.update(bar.task_ids[0], completed=total)
