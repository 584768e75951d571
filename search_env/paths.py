"""Data and cache folders, cache keys of files, and atomic writes.

``$SEARCH_ENV_DATA`` is read only. ``$SEARCH_ENV_CACHE`` (default ``~/.cache/search-env``) holds
indexes and tables that can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

FileKey: TypeAlias = tuple[tuple[str, tuple[int, ...], bytes], ...]

_HASHED_UP_TO = 1 << 20  # bytes; a millisecond's work

if sys.platform != "win32":
    import fcntl

DATA_VARIABLE = "SEARCH_ENV_DATA"
CACHE_VARIABLE = "SEARCH_ENV_CACHE"


def data_dir() -> Path | None:
    """Return the user's data folder, or None where ``$SEARCH_ENV_DATA`` is not set."""
    value = os.environ.get(DATA_VARIABLE)
    return Path(value).expanduser() if value else None


def cache_dir() -> Path:
    """Return the cache folder. It may not exist yet."""
    value = os.environ.get(CACHE_VARIABLE)
    if value:
        return Path(value).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "search-env"


def file_key(*paths: Path) -> FileKey:
    """Return a cache key that changes whenever one of the files does.

    It holds the resolved paths, so it does not depend on the spelling of a path or on the working
    directory. Two writes within one tick of the file system's clock leave the same times, so for
    files of up to 1 MiB the content counts too; a larger one takes longer than a tick to write.
    Files need not exist; for a folder, the files directly inside it count.
    """
    return tuple(entry for path in paths for entry in _entries(path.expanduser().resolve()))


def _entries(path: Path) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    try:
        if path.is_dir():
            for inner in sorted(path.iterdir()):
                if not inner.is_dir():
                    yield from _entries(inner)
            return
        stat = path.stat()
        small = stat.st_size <= _HASHED_UP_TO
        content = hashlib.sha256(path.read_bytes()).digest() if small else b""
    except OSError:
        yield str(path), (), b""
        return
    times = (stat.st_mtime_ns, stat.st_ctime_ns)
    yield str(path), (stat.st_dev, stat.st_ino, stat.st_size, *times), content


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it on success; remove it on failure.

    Readers therefore see the old file or the complete new one, even after Ctrl-C.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(_permissions(path))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` on success and is removed on failure.

    An existing folder is replaced by two renames. After an error or Ctrl-C, the old or the new
    folder is in place. A process killed between the renames leaves the old folder beside ``path``;
    the next call restores it, and removes what killed processes left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    new, old = scratch / "new", scratch / "old"
    with _locked(scratch):
        try:
            new.mkdir()
            yield new
            if path.exists():
                os.replace(path, old)
            os.replace(new, path)
        finally:
            if old.exists() and not path.exists():
                os.replace(old, path)  # if this fails too, the old folder stays in scratch
            shutil.rmtree(scratch)


def _clear_leftovers(path: Path) -> None:
    """Restore a folder that a killed process had moved away, and remove what it wrote."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[^.]+\.tmp")
    for scratch in [entry for entry in path.parent.iterdir() if name.fullmatch(entry.name)]:
        if not scratch.is_dir():
            continue  # a file of atomic_path
        with _locked(scratch) as is_free:
            if not is_free:
                continue  # another process is writing this folder now
            if (scratch / "old").exists() and not path.exists():
                os.replace(scratch / "old", path)
            shutil.rmtree(scratch)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder, at most until the process ends; yield whether the lock was free."""
    if sys.platform == "win32":  # no such locks: leftovers stay
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _permissions(path: Path) -> int:
    """Return the permissions of a file made by ``open``; temporary files are private."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
