"""Entries by name: one place that registers, looks up and suggests names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from search_env.errors import ConfigurationError
from search_env.validation import check_choice

T = TypeVar("T")


def search_here() -> None:
    """Let modules in the working directory be imported, after all others; scripts do not."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def import_module(name: str) -> None:
    """Import a module that registers names, also one in the working directory.

    Raises:
        ConfigurationError: There is no such module.
    """
    search_here()
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # no such package around it, or a name like "a..b"
        found = None
    if found is None:
        raise ConfigurationError(
            f"Expected --import (imports) to name a module, got {name!r}. Run in the module's "
            "folder, or set PYTHONPATH."
        )
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"Expected --import (imports) to name a module that can be imported, got {name!r}: "
            f"{error}. Correct the module."
        ) from error


class Registry(Mapping[str, T]):
    """Entries of one kind by name, in order of registration.

    It reads as a mapping; only :meth:`add` writes to it. A taken name raises ``error``, and so does
    an unknown one (except in ``in`` and :meth:`get`), with the names, the nearest and ``advice``.

    Example:
        >>> colours = Registry("colour", "Register your own with add().", {"red": 0xFF0000})
        >>> colours.add("blue", 0x0000FF)
        >>> colours["red"], "green" in colours, list(colours)
        (16711680, False, ['red', 'blue'])
        >>> colours["rd"]
        Traceback (most recent call last):
        ...
        search_env.errors.ConfigurationError: Expected colour among ['red', 'blue'], got 'rd'. Did \
you mean 'red'? Register your own with add().
    """

    def __init__(
        self,
        kind: str,
        advice: str,
        entries: Mapping[str, T] | None = None,
        *,
        error: type[ConfigurationError] = ConfigurationError,
    ) -> None:
        self._kind, self._advice, self._error = kind, advice, error
        self._entries = dict(entries or {})

    def add(self, name: str, entry: T, *, replace: bool = False) -> None:
        """Register an entry under a name, which is taken only where ``replace`` is True."""
        if name in self._entries and not replace:
            raise self._error(
                f"Expected a new {self._kind} name, got {name!r}, which is registered. Choose "
                "another name, or pass replace=True."
            )
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        check_choice(self._kind, name, self, self._advice, self._error)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the entry of a name, or a default."""
        return self._entries.get(name, default)
