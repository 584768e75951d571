"""Dense retrieval: queries encoded together, nearest passages from a memory-mapped FAISS index."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from search_env.errors import IndexFormatError
from search_env.retrieval.dense.card import EncoderCard
from search_env.retrieval.dense.encoder import Encoder, need_packages
from search_env.retrieval.dense.index import (
    DenseIndex,
    apply_settings,
    find_model,
    open_dense_index,
)
from search_env.retrieval.dense.nearest import Hits, nearest
from search_env.retrieval.storage.array_folder import DENSE, rejected
from search_env.types import Document
from search_env.validation import check_choice, check_count, check_queries


class DenseRetriever:
    """Finds passages whose vectors are nearest to the query's; use :meth:`load`.

    All queries of a call are encoded together and searched together. Documents come by falling
    score, ties in the order of the corpus. A query of nothing but white space has no results; any
    other has ``k``, however far: a vector has no words that could be missing.

    In an approximate index (all kinds but ``flat``) a large ``k``, above 25, looks at more
    candidates than a small one and may find better passages.

    The encoder is loaded by the first search, so that opening an index is fast, and shared with
    other indexes of the same model. Safe to use from several threads.
    """

    def __init__(self, index: DenseIndex, path: Path, model: Path, options: dict[str, Any]) -> None:
        self._index, self._path, self._model, self._options = index, path, model, options
        self._lock = threading.Lock()
        self.digest = str(index.manifest["digest"])

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        nprobe: int | None = None,
        ef: int | None = None,
        verify: bool = False,
    ) -> DenseRetriever:
        """Open an index that ``search-env index --dense`` has made.

        Args:
            path: The folder.
            model: The encoder's folder; by default ``encoder`` in the index, or else the place
                where it was when the passages were embedded.
            device: Where queries are encoded: ``"auto"`` or a device of torch.
            dtype: In which type: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
            nprobe: Inverted lists to visit, in place of the number that the card has.
            ef: Nodes of a graph to visit, in place of the card's.
            verify: Compare the content of all files with their checksums.

        Raises:
            IndexFormatError: The index is missing, damaged, of another version or another model.
            DataNotFoundError: There is no encoder.
            ConfigurationError: A package is missing, or an argument does not fit the index.
        """
        need_packages()
        path = Path(path).expanduser().absolute()
        index = open_dense_index(path, verify_all=verify)
        given = {name: value for name, value in (("nprobe", nprobe), ("ef", ef)) if value}
        for name, value in given.items():
            check_choice(f"settings of {path}", name, index.settings, "Leave it out.")
            check_count(name, value, 1)
        apply_settings(index.faiss, given)
        index = index._replace(settings=index.settings | given)
        options = {"model": model, "device": device, "dtype": dtype, **given}
        return cls(index, path, find_model(path, index.model, model), options)

    @functools.cached_property
    def _encoder(self) -> Encoder:
        card, _, fingerprint = self._index.model
        device, dtype = self._options["device"], self._options["dtype"]
        return _encoder_of(self._model, card, device, dtype, fingerprint)

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return the ``k`` nearest passages of each query; see the class and ``Retriever``.

        Raises:
            ConfigurationError: ``k`` is below 1, or ``queries`` is not a list of strings.
            RetrievalError: The encoder returned numbers that are not finite.
        """
        check_queries(queries)
        k = check_count("k", k, least=1)
        distinct = [query for query in dict.fromkeys(queries) if query.strip()]
        with self._lock:  # two first searches must not load two models
            encoder = self._encoder
        vectors = encoder.encode_queries(distinct)
        hits = nearest(self._index.faiss, vectors, k, self._index.rows)
        results = {
            query: self._documents(found) for query, found in zip(distinct, hits, strict=True)
        }
        return [list(results.get(query, [])) for query in queries]

    def _documents(self, hits: Hits) -> list[Document]:
        pairs = zip(hits.ids.tolist(), hits.scores.tolist(), strict=True)
        try:
            return [self._index.passages.document(number, score) for number, score in pairs]
        except (IndexError, ValueError) as error:  # a pointer to nowhere, bytes that are no text
            raise rejected(self._path, f"damaged contents ({error})", DENSE) from error

    def __len__(self) -> int:
        return len(self._index.passages)

    def documents(self) -> Iterator[Document]:
        """Iterate over the passages in the order of the corpus."""
        return iter(self._index.passages)

    @property
    def card(self) -> dict[str, Any]:
        """What the index's ``format.json`` says: encoder, metric, recall and so on."""
        return dict(self._index.manifest)

    @property
    def name(self) -> str:
        """What the results depend on: the backend's name in cassettes."""
        parameters = self._index.manifest["parameters"]
        settings = "".join(f", {name}={value}" for name, value in self._index.settings.items())
        return (
            f"faiss({parameters['kind']}{settings}, model={self._index.model.fingerprint[:12]}, "
            f"corpus={self.digest[:12]})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path of the index, which is opened again."""
        return _reopen, (self._path, self.digest, self._options)


@functools.lru_cache(maxsize=4)
def _encoder_of(
    model: Path, card: EncoderCard, device: str, dtype: str, fingerprint: str
) -> Encoder:
    """Return the encoder that all indexes of a model share, so that it is in memory once."""
    return Encoder(model, card, device=device, dtype=dtype)


def _reopen(path: Path, expected: str, options: dict[str, Any]) -> DenseRetriever:
    """Unpickle a retriever, whose index must still have the same corpus."""
    retriever = DenseRetriever.load(path, **options)
    if retriever.digest != expected:
        raise IndexFormatError(
            f"Expected the corpus {expected[:12]} in {path}, got {retriever.digest[:12]}. "
            "The index was replaced after the retriever was pickled: load it again."
        )
    return retriever
