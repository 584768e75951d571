"""Data and cache folders, cache keys of files, and atomic writes.

``$SEARCH_ENV_DATA`` is read only. ``$SEARCH_ENV_CACHE`` (default ``~/.cache/search-env``) holds
indexes and tables that can be deleted at any time.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias

from search_env.errors import ConfigurationError, SearchEnvError, StorageError

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


def why_not_writable(folder: Path) -> str:
    """Return what keeps a folder from being made or written; "" where nothing does."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        return f"{existing} is a file"
    return "" if os.access(existing, os.W_OK) else f"{existing} is not writable"


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

    Readers therefore see the old file or the complete new one, whenever the process or the machine
    stops. What killed processes left is removed by the next call.

    Raises:
        StorageError: The file cannot be written.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path)
        with _temporary(path, _make_file) as temporary:
            try:
                yield temporary
                temporary.chmod(_permissions(path))
                sync(temporary)
                os.replace(temporary, path)
                sync(path.parent)
            finally:
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` on success and is removed on failure.

    Whenever the process or the machine stops, the old or the new folder is in place, and the next
    call removes what killed processes left. Where the system cannot swap two folders (Linux can, on
    most file systems), an existing one is replaced by two renames; a process that is killed between
    them leaves the old folder beside ``path``, and the next call restores it.

    Raises:
        StorageError: The folder cannot be written.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path)
        with _temporary(path, _make_folder) as scratch:
            new, old = scratch / "new", scratch / "old"
            try:
                new.mkdir()
                yield new
                for entry in (*new.rglob("*"), new):
                    if entry.is_file():  # safetensors makes private ones
                        entry.chmod(_usual_permissions())
                    sync(entry)
                _put_in_place(new, path, old)
                sync(path.parent)
            finally:
                if old.exists() and not path.exists():
                    os.replace(old, path)  # if this fails too, the old folder stays in scratch
                shutil.rmtree(scratch)


def _put_in_place(new: Path, path: Path, old: Path) -> None:
    """Move a folder to ``path``; one that is there already goes to ``old`` or takes its place."""
    if not path.exists():
        try:
            os.replace(new, path)
        except OSError:
            if not path.exists():
                raise
            # another process has made it meanwhile
        else:
            return
    if not _swap(new, path):
        os.replace(path, old)
        os.replace(new, path)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is never found half removed, whenever the process stops."""
    clear_leftovers(path)
    with _temporary(path, _make_folder) as scratch:
        os.replace(path, scratch / "removed")
        shutil.rmtree(scratch)


def append(path: Path, data: bytes) -> None:
    """Append bytes to a file in a single write: all of them or, after an error, none.

    Raises:
        StorageError: They cannot be written.
    """
    with storage_errors(path), path.open("ab", buffering=0) as file:
        append_to(file, data)


def append_to(file: BinaryIO, data: bytes) -> None:
    """Append bytes to a file that is open without a buffer, all of them or none."""
    start = file.seek(0, os.SEEK_END)
    try:
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except BaseException:
        file.truncate(start)
        raise


def lock(file: BinaryIO | int) -> bool:
    """Lock an open file until it is closed; return False if another process has, where it shows."""
    if sys.platform == "win32":  # no such locks
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def busy(path: Path) -> str:
    """Return what to tell the user where :func:`lock` found a file locked."""
    return (
        f"Expected {path} to be free, got a file that another process writes to. Wait for it, or "
        "choose another file."
    )


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise the system's refusals to write ``path``, or beside it, as errors that name it."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SearchEnvError) or not _is_refusal(error, path.parent):
            raise
        raise StorageError(
            f"Expected to write {path}, got: {error.strerror or error}. What was there before is "
            "unchanged. Free some space or set the permissions right, or choose another place."
        ) from error


_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def _is_refusal(error: OSError, folder: Path) -> bool:
    """Return whether an error is of writing below a folder: a block may raise others, too."""
    if error.filename is not None:
        return Path(os.fsdecode(error.filename)).is_relative_to(folder)
    return error.errno in _REFUSALS or str(error).endswith(" written")  # the latter is NumPy's


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    if sys.platform == "win32" and path.is_dir():  # cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two folders in one system call; return whether the system could."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <linux/fs.h>
    try:
        failed = library.renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange)
    except AttributeError:  # an old C library
        return False
    return not failed


def _make_file(path: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    return Path(name)


def _make_folder(path: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))


@contextmanager
def _temporary(path: Path, make: Callable[[Path], Path]) -> Iterator[Path]:
    """Yield a new temporary file or folder, locked so that no other process clears it away."""
    while True:
        temporary = make(path)
        with _locked(temporary) as is_ours:
            # Another process may have taken it for a leftover before it was locked.
            if sys.platform == "win32" or (is_ours and temporary.exists()):
                yield temporary
                return


def clear_leftovers(path: Path) -> None:
    """Restore a folder that a killed process had moved away, and remove what it wrote.

    The functions above do so by themselves before they write ``path``.
    """
    if not path.parent.is_dir():
        return
    name = re.compile(rf"\.{re.escape(path.name)}\.[^.]+\.tmp")
    for leftover in [entry for entry in path.parent.iterdir() if name.fullmatch(entry.name)]:
        with _locked(leftover) as is_free:
            if not is_free:
                continue  # another process is writing it now
            if (leftover / "old").exists() and not path.exists():
                os.replace(leftover / "old", path)
            with suppress(OSError):  # a leftover does no harm
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


@contextmanager
def used_alone(folder: Path) -> Iterator[None]:
    """Make a folder if it is missing, and hold it against other processes of this machine.

    Raises:
        ConfigurationError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":  # no such locks
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not lock(handle):
            raise ConfigurationError(
                f"Expected a folder that no other process writes, got {folder}, where a run is "
                "under way. Wait until it has ended, or choose another folder."
            )
        yield
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a file or folder, at most until the process ends; yield whether it was free."""
    if sys.platform == "win32":  # no such locks: leftovers stay
        yield False
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # it is gone, or another user's
        yield False
        return
    try:
        try:
            is_free = lock(handle)
        except OSError:  # the file system has no locks
            is_free = False
        yield is_free
    finally:
        os.close(handle)


def _permissions(path: Path) -> int:
    """Return the permissions of a file, made or not: temporary ones are private."""
    return path.stat().st_mode & 0o777 if path.exists() else _usual_permissions()


def _usual_permissions() -> int:
    """Return the permissions of a file made by ``open``."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
