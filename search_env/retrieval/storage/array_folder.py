"""A folder of NumPy arrays with a manifest: written atomically, memory-mapped for reading.

BM25's indexes and the dense ones (:mod:`search_env.retrieval.dense.index`) are such folders.

``format.json`` names the format, its version, and the length and SHA-256 of each file; its own
checksum covers it. The manifest, the lengths and the headers are checked on every opening, so that
a damaged or foreign folder is rejected there and not in the middle of a run; :func:`verify` reads
the contents too. Folders of earlier versions have no checksums. No file holds pickled objects.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ConfigurationError, IndexFormatError
from search_env.paths import atomic_folder
from search_env.retrieval.digests import file_digest
from search_env.retrieval.storage.string_table import StringTable

_MANIFEST = "format.json"
_MANIFEST_BYTES = 1 << 20
_FIELDS = ("format", "version", "packages", "parameters", "counts", "digest", "files")

Array = NDArray[Any]


class IndexKind(NamedTuple):
    """A kind of index: what its manifest calls it, and what an error says of it."""

    format: str
    version: int
    name: str
    remedy: str


BM25 = IndexKind("search-env bm25 index", 1, "BM25 index", "Rebuild it with `search-env index`")
DENSE = IndexKind(
    "search-env dense index", 1, "dense index", "Rebuild it with `search-env index --dense`"
)
_HOW_TO_USE = {
    BM25.format: "a BM25 index, which retriever='bm25' searches as corpus=",
    DENSE.format: "a dense index, which retriever='faiss:FOLDER' searches",
}


def is_index(path: Path) -> bool:
    """Return whether a folder is an index, whole or damaged."""
    return (path / _MANIFEST).is_file() or any(path.glob("postings.*.npy"))


def write_index(
    path: Path,
    arrays: Mapping[str, Array],
    manifest: Mapping[str, object],
    kind: IndexKind = BM25,
    write_more: Callable[[Path], object] | None = None,
) -> None:
    """Write arrays and manifest to a new folder, an empty one, or in place of an index.

    It is renamed when whole: a reader finds the old or the new one, open readers keep their arrays.
    ``write_more`` is called with the folder being written, to add files that are not arrays.

    Raises:
        ConfigurationError: The folder is another one.
        StorageError: The folder cannot be written to, or the disk is full; nothing is left behind.
    """
    if path.exists() and not is_index(path) and (not path.is_dir() or any(path.iterdir())):
        raise ConfigurationError(
            f"Expected a new path, an empty folder or an old index to write to, got {path}. "
            "Choose another path, or move the contents away."
        )
    with atomic_folder(path) as new:
        for name, array in arrays.items():
            np.save(new / f"{name}.npy", array, allow_pickle=False)
        if write_more is not None:
            write_more(new)
        files = sorted(new.iterdir())
        content = {
            "format": kind.format,
            "version": kind.version,
            **manifest,
            "files": {file.name: file.stat().st_size for file in files},
            "checksums": {file.name: file_digest(file) for file in files},
        }
        content["checksum"] = _checksum(content)
        (new / _MANIFEST).write_text(_as_text(content), encoding="utf-8")


def _as_text(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=1) + "\n"


def _checksum(content: Mapping[str, object]) -> str:
    """Return the SHA-256 of a manifest without its own checksum."""
    return hashlib.sha256(_as_text(content).encode()).hexdigest()


def kind_of(path: Path) -> IndexKind | None:
    """Return which kind of index a folder says that it is; None where it says nothing known."""
    try:
        with (path / _MANIFEST).open(encoding="utf-8") as file:
            start = file.read(200)
    except (OSError, ValueError):
        return None
    return next((kind for kind in (BM25, DENSE) if json.dumps(kind.format) in start), None)


def read_manifest(path: Path, kind: IndexKind = BM25) -> dict[str, Any]:
    """Return the manifest of an index, after checking it and the length of every file."""
    file = path / _MANIFEST
    try:
        if file.is_file() and file.stat().st_size > _MANIFEST_BYTES:
            raise rejected(path, f"a format.json of {file.stat().st_size:,} bytes", kind)
        text = file.read_text(encoding="utf-8")
        manifest = json.loads(text)
    except FileNotFoundError:
        raise rejected(path, "no format.json", kind) from None
    except (OSError, ValueError, RecursionError) as error:
        raise rejected(path, f"an unreadable format.json ({error})", kind) from error
    if not isinstance(manifest, dict) or manifest.get("format") != kind.format:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        other = _HOW_TO_USE.get(str(found), "a format.json of something else")
        raise rejected(path, other, kind)
    if manifest.get("version") != kind.version:
        raise rejected(path, f"format version {manifest.get('version')!r}", kind)
    _check_manifest(path, manifest, text, kind)
    for name, size in manifest["files"].items():
        _check_file(path, name, size, kind)
    return manifest


def _check_manifest(path: Path, manifest: dict[str, Any], text: str, kind: IndexKind) -> None:
    """Check the fields of a manifest and, where it has one, its checksum."""
    if not isinstance(manifest.get("files"), dict):
        raise rejected(path, "a format.json without a list of files", kind)
    if has_checksums(manifest):
        others = {name: value for name, value in manifest.items() if name != "checksum"}
        if manifest.get("checksum") != _checksum(others) or text != _as_text(manifest):
            raise rejected(path, "a format.json that was changed after it was written", kind)
    elif not manifest.keys() <= set(_FIELDS):  # a damaged name could hide the checksums
        unknown = sorted(manifest.keys() - set(_FIELDS))
        raise rejected(path, f"a format.json with the unknown fields {', '.join(unknown)}", kind)


def has_checksums(manifest: Mapping[str, Any]) -> bool:
    """Return whether an index was written with checksums."""
    return "checksum" in manifest or "checksums" in manifest


def _check_file(path: Path, name: str, size: object, kind: IndexKind) -> None:
    """Check the length of a file of an index, and that it is inside the folder."""
    file = path / name
    if Path(name).name != name or not file.resolve().is_relative_to(path.resolve()):
        raise rejected(path, f"a file outside it ({file.resolve()}) in place of {name}", kind)
    actual = file.stat().st_size if file.is_file() else None
    if actual != size:
        state = "no such file" if actual is None else f"{actual} bytes"
        raise rejected(path, f"{state} for {name} (written with {size} bytes)", kind)


def verify(path: Path, manifest: Mapping[str, Any], kind: IndexKind = BM25) -> None:
    """Compare the content of every file with its checksum, which reads the whole index.

    Raises:
        IndexFormatError: A file was changed after it was written, or there are no checksums.
    """
    if not has_checksums(manifest):
        raise IndexFormatError(
            f"Expected checksums in {path}, got an index of an earlier version, which has none: "
            "its lengths and headers are right, its contents cannot be verified. Rebuild it with "
            "`search-env index` to have them."
        )
    for name, expected in manifest["checksums"].items():
        try:
            actual = file_digest(path / name)
        except OSError as error:
            raise rejected(path, f"an unreadable {name} ({error})", kind) from error
        if actual != expected:
            raise rejected(path, f"a {name} that was changed after it was written", kind)


def map_array(path: Path, name: str, dtype: type[np.generic], kind: IndexKind = BM25) -> Array:
    """Return a memory-mapped, read-only one-dimensional array."""
    try:
        array = np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the parser of a damaged header raises whatever it comes upon
        raise rejected(path, f"an unreadable {name}.npy ({error})", kind) from error
    if array.dtype != dtype or array.ndim != 1:
        raise rejected(path, f"{array.dtype} {array.shape} in {name}.npy", kind)
    return np.asarray(array)  # the same mapping, without np.memmap's slower slicing


def map_table(path: Path, name: str, kind: IndexKind = BM25) -> StringTable:
    """Map one table of strings."""
    blob = map_array(path, f"{name}.blob", np.uint8, kind)
    offsets = map_array(path, f"{name}.offsets", np.int64, kind)
    check_ends(path, f"{name}.offsets", offsets, len(blob), kind)
    return StringTable(blob, offsets)


def check_ends(path: Path, name: str, pointers: Array, last: int, kind: IndexKind = BM25) -> None:
    """Check pointers at their ends: they rise from 0 to the length of what they point into."""
    first, final = pointers[:2], pointers[-2:]
    rises = len(pointers) and first[0] == 0 and final[-1] == last
    if not (rises and 0 <= first[-1] <= last and 0 <= final[0] <= last):
        raise rejected(path, f"a {name}.npy that does not fit the other arrays", kind)


def rejected(path: Path, reason: str, kind: IndexKind = BM25) -> IndexFormatError:
    """Return the error for a folder that is not a usable index."""
    return IndexFormatError(
        f"Expected a {kind.name} (format version {kind.version}) in {path}, got {reason}. "
        f"{kind.remedy}, or pass another path."
    )
