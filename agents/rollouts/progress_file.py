"""Progress beside a file of results, so that a command that was killed goes on where it was.

``NAME`` holds results, nothing else. ``NAME.progress`` beside it holds the settings in its first
line, then a line for each item that is done. Such a line also says how long ``NAME`` is with the
item's results, which are written first: what a run that was killed between the two left after that
is removed, and the item is done again. So the same command loses or doubles nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from search_env.errors import ConfigurationError, DataFormatError, StorageError
from search_env.paths import append, atomic_path, busy, lock, storage_errors

Item = TypeVar("Item")


class ProgressFile(AbstractContextManager["ProgressFile"]):
    """Opens the progress of a file of results and holds it against other processes.

    Args:
        path: File of results; the progress lies beside it.
        kind: Name and version of the progress, its first field.
        settings: All that decides what the results are, as JSON.

    Attributes:
        rows: Lines that were there, each with its number: what is done.

    Raises:
        ConfigurationError: The file was begun with other settings.
        DataFormatError: The first line is none of this kind.
        StorageError: The files cannot be written, or another process writes them.
    """

    def __init__(self, path: Path, kind: tuple[str, int], settings: Mapping[str, Any]) -> None:
        self.path, self.progress_path = path, path.with_name(f"{path.name}.progress")
        self._kind = kind
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.rows: list[tuple[int, bytes]] = []
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.progress_path.open("a+b", buffering=0)
        try:
            if not lock(self._file):
                raise StorageError(busy(path))
            self._read()
        except BaseException:
            self.close()
            raise

    def items(self, parse: Callable[[Path, int, bytes], Item]) -> Iterator[Item]:
        """Yield what the lines say; ``parse`` gets the file, the line's number and the line."""
        return (parse(self.progress_path, number, line) for number, line in self.rows)

    def append(self, row: Mapping[str, Any], *, is_first: bool) -> None:
        """Append the line of an item, after the settings if it is the first one.

        Raises:
            StorageError: It cannot be written.
        """
        append(self.progress_path, self._lines([row], with_settings=is_first))

    def rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace all lines, in one move, and close the file.

        Raises:
            StorageError: It cannot be written; it is as before.
        """
        self._file.close()
        with atomic_path(self.progress_path) as temporary:
            temporary.write_bytes(self._lines(rows, with_settings=True))

    def remove_unfinished(self, end: int, is_unfinished: Callable[[int], bool]) -> None:
        """Remove what follows the results that are done, ``end`` bytes of them.

        Args:
            end: Size of the results that are done.
            is_unfinished: Whether all that follows a byte is of one item that is not done.

        Raises:
            ConfigurationError: The results are shorter, or something else follows.
        """
        size = size_of(self.path)
        if size < end:
            raise ConfigurationError(
                f"Expected {self.path} to hold the {end} bytes of episodes that "
                f"{self.progress_path.name} tells of, got {size}. Restore it, or remove both to "
                "begin anew."
            )
        if size == end:
            return
        if not is_unfinished(end):
            raise ConfigurationError(
                f"Expected a new file or one that was begun with {self.progress_path.name} beside "
                f"it, got {self.path} with other content after byte {end}. Choose another file."
            )
        with storage_errors(self.path):
            os.truncate(self.path, end)
            if not end:
                self.path.unlink()

    def close(self) -> None:
        """Close the file; a progress without an item is removed."""
        self._file.close()
        if not size_of(self.progress_path):
            self.progress_path.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        """Read what is done; cut off an incomplete last line."""
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        begun = self._parse_settings(lines[0]) if lines else {}
        if len(lines) > 1:
            self._check_settings(begun)
        else:  # settings without an item commit to nothing
            whole = b""
        with storage_errors(self.progress_path):
            self._file.truncate(len(whole))
        self.rows = list(enumerate(lines[1:], 2))

    def _lines(self, rows: Iterable[Mapping[str, Any]], *, with_settings: bool) -> bytes:
        name, version = self._kind
        header = [{name: version, **self._settings}] if with_settings else []
        return b"".join(json.dumps(row).encode() + b"\n" for row in (*header, *rows))

    def _check_settings(self, begun: Mapping[str, Any]) -> None:
        for name, before, now in _differences(begun, self._settings):
            raise ConfigurationError(
                f"Expected to go on with {self.path} as it was begun, with {name} "
                f"{json.dumps(before)}, got {json.dumps(now)}. Set it back, or choose another file."
            )

    def _parse_settings(self, line: bytes) -> dict[str, Any]:
        name, version = self._kind
        try:
            begun = json.loads(line)
        except (ValueError, RecursionError):
            begun = None
        if not isinstance(begun, dict) or begun.pop(name, None) != version:
            what = name.removeprefix("search_env_")
            expected = f"the settings of a {what} of version {version}"
            remedy = "Choose another file for the episodes, or remove both."
            raise DataFormatError.at(self.progress_path, 1, "", expected, line, remedy)
        return begun


def size_of(path: Path) -> int:
    """Return the size of a file in bytes, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _differences(
    begun: Mapping[str, Any], settings: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted name and both values of each setting that differs."""
    for name in {**begun, **settings}:
        before, now = begun.get(name), settings.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{prefix}{name}.")
        elif before != now:
            yield f"{prefix}{name}", before, now
