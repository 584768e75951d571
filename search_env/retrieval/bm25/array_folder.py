"""A folder of NumPy arrays with a manifest: written atomically, memory-mapped for reading.

``format.json`` names the format, its version, and the length and SHA-256 of each file; its own
checksum covers it. The manifest, the lengths and the headers are checked on every opening, so that
a damaged or foreign folder is rejected there and not in the middle of a run; :func:`verify` reads
the contents too. Folders of earlier versions have no checksums. No file holds pickled objects.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ConfigurationError, IndexFormatError
from search_env.paths import atomic_folder
from search_env.retrieval.digests import file_digest

FORMAT = "search-env bm25 index"
VERSION = 1
_MANIFEST = "format.json"
_MANIFEST_BYTES = 1 << 20
_FIELDS = ("format", "version", "packages", "parameters", "counts", "digest", "files")

Array = NDArray[Any]


def is_index(path: Path) -> bool:
    """Return whether a folder is an index, whole or damaged."""
    return (path / _MANIFEST).is_file() or any(path.glob("postings.*.npy"))


def write_index(path: Path, arrays: Mapping[str, Array], manifest: Mapping[str, object]) -> None:
    """Write arrays and manifest to a new folder, an empty one, or in place of an index.

    It is renamed when whole: a reader finds the old or the new one, open readers keep their arrays.

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
        files = sorted(new.iterdir())
        content = {
            "format": FORMAT,
            "version": VERSION,
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


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of an index, after checking it and the length of every file."""
    file = path / _MANIFEST
    try:
        if file.is_file() and file.stat().st_size > _MANIFEST_BYTES:
            raise rejected(path, f"a format.json of {file.stat().st_size:,} bytes")
        text = file.read_text(encoding="utf-8")
        manifest = json.loads(text)
    except FileNotFoundError:
        raise rejected(path, "no format.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise rejected(path, f"an unreadable format.json ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise rejected(path, "a format.json of something else")
    if manifest.get("version") != VERSION:
        raise rejected(path, f"format version {manifest.get('version')!r}")
    _check_manifest(path, manifest, text)
    for name, size in manifest["files"].items():
        _check_file(path, name, size)
    return manifest


def _check_manifest(path: Path, manifest: dict[str, Any], text: str) -> None:
    """Check the fields of a manifest and, where it has one, its checksum."""
    if not isinstance(manifest.get("files"), dict):
        raise rejected(path, "a format.json without a list of files")
    if has_checksums(manifest):
        others = {name: value for name, value in manifest.items() if name != "checksum"}
        if manifest.get("checksum") != _checksum(others) or text != _as_text(manifest):
            raise rejected(path, "a format.json that was changed after it was written")
    elif not manifest.keys() <= set(_FIELDS):  # a damaged name could hide the checksums
        unknown = sorted(manifest.keys() - set(_FIELDS))
        raise rejected(path, f"a format.json with the unknown fields {', '.join(unknown)}")


def has_checksums(manifest: Mapping[str, Any]) -> bool:
    """Return whether an index was written with checksums."""
    return "checksum" in manifest or "checksums" in manifest


def _check_file(path: Path, name: str, size: object) -> None:
    """Check the length of a file of an index, and that it is inside the folder."""
    file = path / name
    if Path(name).name != name or not file.resolve().is_relative_to(path.resolve()):
        raise rejected(path, f"a file outside it ({file.resolve()}) in place of {name}")
    actual = file.stat().st_size if file.is_file() else None
    if actual != size:
        state = "no such file" if actual is None else f"{actual} bytes"
        raise rejected(path, f"{state} for {name} (written with {size} bytes)")


def verify(path: Path, manifest: Mapping[str, Any]) -> None:
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
            raise rejected(path, f"an unreadable {name} ({error})") from error
        if actual != expected:
            raise rejected(path, f"a {name} that was changed after it was written")


def map_array(path: Path, name: str, dtype: type[np.generic]) -> Array:
    """Return a memory-mapped, read-only one-dimensional array."""
    try:
        array = np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the parser of a damaged header raises whatever it comes upon
        raise rejected(path, f"an unreadable {name}.npy ({error})") from error
    if array.dtype != dtype or array.ndim != 1:
        raise rejected(path, f"{array.dtype} {array.shape} in {name}.npy")
    return np.asarray(array)  # the same mapping, without np.memmap's slower slicing


def rejected(path: Path, reason: str) -> IndexFormatError:
    """Return the error for a folder that is not a usable index."""
    return IndexFormatError(
        f"Expected a BM25 index (format version {VERSION}) in {path}, got {reason}. "
        "Rebuild it with `search-env index`, or pass another path."
    )
