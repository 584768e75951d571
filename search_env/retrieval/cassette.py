"""Record and replay a retriever's results: tests and papers without the index or server.

A cassette is a file of JSON lines, one recording each, that is only appended to::

    {"backend": "...", "query": "...", "k": 3, "documents": [{"id": "...", "title": "...", ...}]}

The key of a recording is its backend's name, the exact query (no normalisation: a retriever may
be case-sensitive) and ``k``. Of two recordings with the same key the first counts. Failures are
not recorded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from search_env.errors import (
    CassetteMissError,
    ConfigurationError,
    DataFormatError,
    DataNotFoundError,
    nearest,
)
from search_env.redaction import redacted
from search_env.retrieval.base import Retriever, backend_name, retrieve
from search_env.types import Document
from search_env.validation import check_count, is_finite

_ROW = {"backend": str, "query": str, "k": int, "documents": list}
_DOCUMENT = {"id": str, "title": str, "text": str, "score": (float, int)}
_TYPE_NAMES = {str: "a string", int: "an integer", list: "a list", (float, int): "a finite number"}
_NEAREST_AMONG = 10_000  # comparing a missed query with more recordings would take seconds


class Cassette:
    """A retriever that replays recordings and, with an inner retriever, records the missing ones.

    Each recording is appended in one write. A last line without a newline means that the writer
    was stopped: an incomplete one is dropped (and removed before the next recording is appended);
    any other invalid line is an error. Several processes may record to one file; each sees the
    recordings of the others when it opens the file again.

    Args:
        path: The file, created on the first recording; None keeps recordings in memory only.
        inner: Retriever for the missing queries; None replays only.
        backend: Name of the backend in the recordings. Default: the inner retriever's ``name`` or
            else the name of its class; without an inner one, the only backend in the file.

    Raises:
        DataNotFoundError: Replay only, and the file does not exist.
        DataFormatError: A line is not a recording.
        ConfigurationError: Replay only, several backends are recorded, and none was chosen.

    Example:
        >>> from search_env.retrieval.base import FakeRetriever
        >>> inner = FakeRetriever({"Ulm": [Document("1", "Ulm", "A city.")]})
        >>> cassette = Cassette(None, inner)
        >>> cassette.search(["Ulm"], k=1) == cassette.search(["Ulm"], k=1)
        True
        >>> inner.calls
        [['Ulm']]
    """

    def __init__(
        self, path: str | Path | None, inner: Retriever | None = None, *, backend: str | None = None
    ) -> None:
        self.path = Path(path).absolute() if path is not None else None
        self.inner = inner
        recordings = _read(self.path, must_exist=inner is None)
        name = backend or _backend(inner, recordings)
        if not isinstance(name, str):
            raise ConfigurationError(
                f"Expected backend to be the name of a backend, got {backend!r}. Pass a string, or "
                "omit it."
            )
        self.name = redacted(name)
        self._results = recordings.get(self.name, {})

    @classmethod
    def from_recordings(
        cls, recordings: Mapping[str, Sequence[Document]], *, k: int, backend: str = "recordings"
    ) -> Cassette:
        """Return an in-memory cassette that replays documents by query, for this ``k`` only.

        Example:
            >>> Cassette.from_recordings({"Ulm": []}, k=3).search(["Ulm"], k=3)
            [[]]
        """
        cassette = cls(None, backend=backend)
        cassette._results = {(query, k): list(item) for query, item in recordings.items()}
        return cassette

    def __len__(self) -> int:
        """The number of recordings of this backend."""
        return len(self._results)

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Replay each query, after recording the missing ones in one call of the inner retriever.

        Raises:
            CassetteMissError: Replay only, and a query is not recorded with this ``k``.
            RetrievalError: The inner retriever failed; nothing of the call is recorded.
            ConfigurationError: A query is not a string, or ``k`` is not an integer.
        """
        k = check_count("k", k, 1)  # NumPy's, which JSON cannot hold, become plain ones
        for query in queries:
            if not isinstance(query, str):
                raise ConfigurationError(
                    f"Expected queries to be strings, got {query!r}. Convert them."
                )
        missing = [query for query in dict.fromkeys(queries) if (query, k) not in self._results]
        if missing:
            self._record(missing, k)
        return [list(self._results[query, k]) for query in queries]

    def _record(self, queries: Sequence[str], k: int) -> None:
        """Search with the inner retriever and keep the results."""
        if self.inner is None:
            raise self._miss(queries[0], k)
        results = retrieve(self.inner, queries, k)
        for query, documents in zip(queries, results, strict=True):
            row = {"backend": self.name, "query": query, "k": k}
            if self.path is not None:
                items = [{name: getattr(item, name) for name in _DOCUMENT} for item in documents]
                _append(self.path, row | {"documents": items})
            # Another thread may have recorded it first; the file's first recording counts.
            self._results.setdefault((query, k), documents)

    def _miss(self, query: str, k: int) -> CassetteMissError:
        """Return the error for a query that was not recorded."""
        other_k = sorted({size for recorded, size in self._results if recorded == query})
        candidates = islice((recorded for recorded, _ in self._results), _NEAREST_AMONG)
        hint = f"It is recorded with k={other_k[0]}. " if other_k else nearest(query, candidates)
        return CassetteMissError(
            f"Expected a recording of {query!r} with k={k} by {self.name!r} in "
            f"{self.path or 'memory'}, got none among {len(self)}. {hint}"
            "Record it: Cassette(path, inner=retriever)."
        )


def _backend(inner: Retriever | None, recordings: Mapping[str, object]) -> str:
    """Return the backend's name in the recordings; see the class."""
    if inner is not None:
        return backend_name(inner)
    if len(recordings) > 1:
        raise ConfigurationError(
            f"Expected recordings of one backend, got {sorted(recordings)}. "
            "Choose one with Cassette(path, backend=...)."
        )
    return next(iter(recordings), "")


_Recordings = dict[str, dict[tuple[str, int], list[Document]]]


def _read(path: Path | None, *, must_exist: bool) -> _Recordings:
    """Return the recordings of a file by backend."""
    recordings: _Recordings = {}
    if path is None or not (must_exist or path.exists()):
        return recordings
    if not path.exists():
        raise DataNotFoundError(
            f"Expected a cassette at {path}, got no such file. "
            "Record one first: Cassette(path, inner=retriever)."
        )
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not _is_json(line):
            break
        backend, query, k, documents = _parse(path, number, line)
        recordings.setdefault(backend, {}).setdefault((query, k), documents)
    return recordings


def _is_json(line: bytes) -> bool:
    """Whether a last line without a newline is a complete JSON value."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(path: Path, number: int, line: bytes) -> tuple[str, str, int, list[Document]]:
    """Return backend, query, k and documents of one line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise DataFormatError.at(path, number, "", "a JSON object", line) from None
    _check(path, number, "", row, _ROW)
    for i, fields in enumerate(row["documents"]):
        _check(path, number, f"documents.{i}", fields, _DOCUMENT)
    documents = [Document(**fields) for fields in row["documents"]]
    return row["backend"], row["query"], row["k"], documents


def _check(path: Path, number: int, place: str, value: Any, kinds: Mapping[str, Any]) -> None:
    """Raise unless a value is an object with exactly these fields, of these types."""
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        fields = ", ".join(kinds)
        raise DataFormatError.at(path, number, place, f"an object with the fields {fields}", value)
    for name, kind in kinds.items():
        fits = isinstance(value[name], kind) and not isinstance(value[name], bool)
        if not fits or (name == "score" and not is_finite(value[name])):
            field = f"{place}.{name}".lstrip(".")
            raise DataFormatError.at(path, number, field, _TYPE_NAMES[kind], value[name])


def _append(path: Path, row: Mapping[str, object]) -> None:
    """Append one line in a single write, after repairing the end that a crash left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row).encode("ascii") + b"\n"
    with open(path, "a+b", buffering=0) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            tail = file.read().rpartition(b"\n")[2]
            if _is_json(tail):
                line = b"\n" + line
            else:
                file.truncate(file.tell() - len(tail))
        file.write(line)
