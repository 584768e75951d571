"""A folder of NumPy arrays with a manifest: written atomically, memory-mapped for reading.

``format.json`` names the format, its version and the length of each file, so that a damaged or
foreign folder is rejected on opening and not in the middle of a run. No file contains pickled
objects. Contents are not verified on opening: flipped bits pass unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ConfigurationError, IndexFormatError
from search_env.paths import atomic_folder

FORMAT = "search-env bm25 index"
VERSION = 1
_MANIFEST = "format.json"

Array = NDArray[Any]


def write_index(path: Path, arrays: Mapping[str, Array], manifest: Mapping[str, object]) -> None:
    """Write arrays and manifest to a new folder, an empty one, or in place of an index.

    It is renamed when whole: a reader finds the old or the new one, open readers keep their arrays.
    """
    is_index = (path / _MANIFEST).is_file()
    if path.exists() and not is_index and (not path.is_dir() or any(path.iterdir())):
        raise ConfigurationError(
            f"Expected a new path, an empty folder or an old index to write to, got {path}. "
            "Choose another path, or move the contents away."
        )
    with atomic_folder(path) as new:
        for name, array in arrays.items():
            np.save(new / f"{name}.npy", array, allow_pickle=False)
        sizes = {file.name: file.stat().st_size for file in sorted(new.iterdir())}
        content = {"format": FORMAT, "version": VERSION, **manifest, "files": sizes}
        (new / _MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of an index, after checking the length of every file."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise rejected(path, "no format.json") from None
    except (OSError, ValueError) as error:
        raise rejected(path, f"an unreadable format.json ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise rejected(path, "a format.json of something else")
    if manifest.get("version") != VERSION:
        raise rejected(path, f"format version {manifest.get('version')!r}")
    sizes = manifest.get("files")
    if not isinstance(sizes, dict):
        raise rejected(path, "a format.json without a list of files")
    for name, size in sizes.items():
        file = path / name
        actual = file.stat().st_size if file.is_file() else None
        if actual != size:
            state = "no such file" if actual is None else f"{actual} bytes"
            raise rejected(path, f"{state} for {name} (written with {size} bytes)")
    return manifest


def map_array(path: Path, name: str, dtype: type[np.generic]) -> Array:
    """Return a memory-mapped, read-only one-dimensional array."""
    try:
        array = np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
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
