"""A cursor over a JSON text of any length, of which one value at a time is in memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TextIO

from search_env.errors import DataFormatError

CHUNK = 1 << 16
LONGEST_ROW = 1 << 27
"""Bytes (characters in one JSON list) of the longest row that is read."""

_LONGEST_LITERAL = 16
"""A truncated "-Infinity" or escape starts at most this far from the end of the buffer."""
_NUMBER_TAIL = re.compile(r"[-+.eE0-9]*")
"""Characters that may continue a number at the end of the buffer."""
_SPACE = re.compile(r"[ \t\r\n]*")
_TRUNCATED = "Download the file again; it was truncated or edited by hand."


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of some pairs; JSON's own reader keeps the last of equal names silently.

    Raises:
        ValueError: Two of the pairs have the same name.
    """
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} occurs twice in one object")
    return result


DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


class JsonStream:
    """A cursor over a JSON text that is read in chunks; ``number`` counts the records."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.number = 0
        self._buffer, self._at = "", 0

    @property
    def place(self) -> str:
        """Where the cursor is, for messages."""
        return f"record {self.number}"

    def peek(self) -> str:
        """Return the next character that is not white space, unconsumed; "" at the end."""
        while True:
            space = _SPACE.match(self._buffer, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._buffer) or not self._grow():
                return self._buffer[self._at : self._at + 1]

    def take(self, character: str) -> None:
        """Consume one expected character."""
        actual = self.peek()
        if actual != character:
            got = repr(actual) if actual else "the end of the file"
            raise DataFormatError(
                f"{self.path}: expected {character!r} at row {self.number}, got {got}. {_TRUNCATED}"
            )
        self._at += 1

    def take_comma(self) -> None:
        """Consume the comma before another element."""
        self.take(",")
        if self.peek() in ("]", "}"):
            raise DataFormatError.at(
                self.path,
                f"record {self.number + 1}",
                "",
                "a value after the comma",
                self.peek(),
                "Remove the comma before it; JSON allows none there.",
            )

    def end(self) -> None:
        """Check that nothing follows."""
        if extra := self.peek():
            raise DataFormatError(
                f"{self.path}: expected one JSON value, got {extra!r} after it. Remove what "
                "follows, or write one JSON value a line (.jsonl)."
            )

    def key(self) -> str:
        """Consume a key and its colon."""
        key = self.value()
        if not isinstance(key, str):
            raise DataFormatError.at(self.path, self.place, "", "a name in quotes", key)
        self.take(":")
        return key

    def value(self) -> Any:
        """Consume one JSON value, reading more while it is incomplete."""
        self.peek()
        while True:
            try:
                value, at = DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if not self._is_truncated(error) or not self._grow():
                    raise self._fault(error, error.pos) from error
                continue
            except (ValueError, RecursionError) as error:
                raise self._fault(error, self._at) from error
            # "12" at the end of the buffer may be the start of "123", and "12e" that of "12e9".
            may_continue = self._buffer[at - 1] not in '"}]' and _NUMBER_TAIL.fullmatch(
                self._buffer, at
            )
            if not may_continue or not self._grow():
                self._at = at
                return value

    def _is_truncated(self, error: json.JSONDecodeError) -> bool:
        """Return whether more text could resolve the error, so that others are raised at once."""
        return (
            error.msg.startswith("Unterminated string")
            or error.pos >= len(self._buffer) - _LONGEST_LITERAL
        )

    def _grow(self) -> bool:
        """Read more, at least doubling the pending text so that long values cost linear time."""
        self._buffer = self._buffer[self._at :]
        self._at = 0
        if len(self._buffer) > LONGEST_ROW:
            raise too_long(self.path, self.place, self._buffer)
        chunk = self.file.read(max(CHUNK, len(self._buffer)))
        self._buffer += chunk
        return bool(chunk)

    def _fault(self, error: Exception, at: int) -> DataFormatError:
        near = self._buffer[max(0, at - 20) : at + 40]
        return DataFormatError.at(self.path, self.place, "", f"valid JSON ({reason(error)})", near)


def reason(error: Exception) -> str:
    """Return why a text is no JSON, without the position that its reader counts from 1."""
    if isinstance(error, RecursionError):
        return "lists or objects nested too deeply"
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def too_long(path: Path, place: int | str, beginning: str | bytes) -> DataFormatError:
    """Return the error for a row that would not fit into memory with others."""
    expected = f"a row of at most {LONGEST_ROW >> 20} MiB"
    remedy = "Split it, or see whether its lines end as they should."
    return DataFormatError.at(path, place, "", expected, beginning[:100], remedy)
