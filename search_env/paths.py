"""Where this package reads data and keeps what it built: two folders, both set by the environment.

``$SEARCH_ENV_DATA`` is read only. ``$SEARCH_ENV_CACHE`` (default ``~/.cache/search-env``) holds
indexes and tables that can be deleted at any time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it on success and vanishes on failure.

    Readers therefore see the old file or the whole new one, also after Ctrl-C.
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


def _permissions(path: Path) -> int:
    """Return the permissions that a plain ``open`` would leave: a temporary file is its owner's."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
