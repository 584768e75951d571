"""Streaming readers: JSON lines, JSON lists, JSON mappings and CSV; plain, gzip or xz.

Compression is detected from the file's first bytes. Only the current row and a buffer of its size
are in memory, so that a 14 GB corpus reads in constant memory, even as one JSON list. Damage (a
truncated archive, bytes that are not UTF-8, invalid JSON, an empty file) raises
:class:`~search_env.errors.DataFormatError`, a missing file ``DataNotFoundError``.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from search_env.datasets.rows import Row
from search_env.errors import DataFormatError, DataNotFoundError

_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
_CHUNK = 1 << 16
_LONGEST_LITERAL = 16
"""A truncated "-Infinity" or escape starts at most this far from the end of the buffer."""
_NUMBER_TAIL = re.compile(r"[-+.eE0-9]*")
"""Characters that may continue a number at the end of the buffer."""


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a plain, gzip or xz file to read its bytes; damage is raised while reading."""
    try:
        raw = open(path, "rb")  # noqa: SIM115 - closed by the with below
    except OSError as error:
        raise DataNotFoundError(
            f"Expected a readable file at {path}, got: {error.strerror}. Check the path."
        ) from error
    with raw:
        head = raw.peek(len(_XZ))
        try:
            if head.startswith(_GZIP):
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield cast(BinaryIO, unpacked)
            elif head.startswith(_XZ):
                with lzma.LZMAFile(raw) as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                yield raw
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise file_fault(
                path, "an intact archive", f"a damaged one ({error})", "Download the file again."
            ) from error


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a plain, gzip or xz file to read it as UTF-8 text, with or without a byte order mark."""
    with open_binary(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
        try:
            yield text
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise file_fault(
                path, "UTF-8 text", f"the byte 0x{byte:02x}", "Save the file as UTF-8."
            ) from error


def file_fault(path: Path, expected: str, got: str, remedy: str) -> DataFormatError:
    """Return the error about a whole file; ``remedy`` is a sentence with the next step."""
    return DataFormatError(f"{path}: expected {expected}, got {got}. {remedy}")


def first_character(path: Path) -> str:
    """Return the first character (the first byte as one) that is not white space."""
    with open_binary(path) as file:
        skipped = codecs.BOM_UTF8 + b" \t\r\n"
        while chunk := file.read(_CHUNK):
            if text := chunk.lstrip(skipped):
                return chr(text[0])
    raise file_fault(path, "at least one row", "an empty file", "Download the file again.")


def iter_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a file of JSON lines or of one JSON list, by its first character."""
    first = first_character(path)
    if first not in "[{":
        raise file_fault(
            path, "JSON lines or a JSON list", f"text that starts with {first!r}", "Convert it."
        )
    yield from iter_json_list(path) if first == "[" else iter_json_lines(path)


def iter_json_lines(path: Path) -> Iterator[Row]:
    """Yield one row for each line that is not blank; only a newline ends a line."""
    number, is_empty = 0, True
    with open_binary(path) as file:
        for number, raw in enumerate(file, start=1):
            if raw.isspace():
                continue
            is_empty = False
            yield Row.of(path, number, _decode_line(path, number, raw))
    if is_empty:
        raise file_fault(path, "at least one row", f"{number} lines", "Download the file again.")


def _decode_line(path: Path, number: int, raw: bytes) -> Any:
    """Decode one JSON line; the first may start with a byte order mark."""
    try:
        return json.loads(raw.decode("utf-8-sig" if raw.startswith(codecs.BOM_UTF8) else "utf-8"))
    except UnicodeDecodeError as error:
        bad = error.object[error.start : error.start + 8]
        raise DataFormatError.at(path, number, "", "UTF-8 text", bad) from error
    except (ValueError, RecursionError) as error:
        raise DataFormatError.at(
            path, number, "", f"JSON on one line ({error})", raw.strip().decode()
        ) from error


def iter_json_list(path: Path) -> Iterator[Row]:
    """Yield the objects of one JSON list, decoding one at a time."""
    for stream in _elements(path, "[]"):
        yield Row.of(path, stream.number, stream.value())


def is_mapping(path: Path) -> bool:
    """Return whether a ``.json`` file is one object from names to lists; a row is none."""
    if not _plain_name(path).endswith(".json") or first_character(path) != "{":
        return False
    with open_text(path) as file:
        stream = _JsonStream(path, file)
        stream.take("{")
        stream.number = 1
        return stream.peek() == '"' and bool(stream.key()) and stream.peek() == "["


def iter_json_mapping(path: Path) -> Iterator[Row]:
    """Yield a row of ``title`` and ``sentences`` for each pair of one JSON object."""
    for stream in _elements(path, "{}"):
        title = stream.key()
        fields = {"title": title, "sentences": stream.value()}
        yield Row(path, stream.number, fields, prefix=f"{title}.")


def _elements(path: Path, brackets: str) -> Iterator[_JsonStream]:
    """Yield a cursor at each element of one JSON list or object, which the caller consumes."""
    with open_text(path) as file:
        stream = _JsonStream(path, file)
        stream.take(brackets[0])
        while stream.peek() != brackets[1]:
            if stream.number:
                stream.take(",")
            stream.number += 1
            yield stream
        stream.take(brackets[1])
        stream.end()
    if not stream.number:
        raise file_fault(path, "at least one row", brackets, "Download the file again.")


class _JsonStream:
    """A cursor over a JSON text that is read in chunks; ``number`` counts the rows."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.number = 0
        self._decoder = json.JSONDecoder()
        self._buffer, self._at = "", 0

    def peek(self) -> str:
        """Return the next character that is not white space, unconsumed; "" at the end."""
        while True:
            size = len(self._buffer)
            while self._at < size and self._buffer[self._at] in " \t\r\n":
                self._at += 1
            if self._at < size or not self._grow():
                return self._buffer[self._at : self._at + 1]

    def take(self, character: str) -> None:
        """Consume one expected character."""
        actual = self.peek()
        if actual != character:
            expected = f"{character!r} at row {self.number}"
            got = repr(actual) if actual else "the end of the file"
            remedy = "Download the file again; it was truncated or edited by hand."
            raise file_fault(self.path, expected, got, remedy)
        self._at += 1

    def end(self) -> None:
        """Check that nothing follows."""
        if extra := self.peek():
            raise file_fault(
                self.path, "one JSON value", f"{extra!r} after it", "Remove what follows."
            )

    def key(self) -> str:
        """Consume a key and its colon."""
        key = self.value()
        if not isinstance(key, str):
            raise DataFormatError.at(self.path, self.number, "", "a name in quotes", key)
        self.take(":")
        return key

    def value(self) -> Any:
        """Consume one JSON value, reading more while it is incomplete."""
        self.peek()
        while True:
            try:
                value, at = self._decoder.raw_decode(self._buffer, self._at)
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
        chunk = self.file.read(max(_CHUNK, len(self._buffer)))
        self._buffer += chunk
        return bool(chunk)

    def _fault(self, error: Exception, at: int) -> DataFormatError:
        near = self._buffer[max(0, at - 20) : at + 40]
        return DataFormatError.at(self.path, self.number, "", f"valid JSON ({error})", near)


def is_csv(path: Path) -> bool:
    """Return whether a file is CSV by its name, compressed or not."""
    return _plain_name(path).endswith(".csv")


def _plain_name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".xz")


def iter_csv(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header; ``line`` is the last line of a row."""
    with open_text(path, newline="") as file:
        reader = csv.DictReader(file, strict=True)
        is_empty = True
        try:
            for row in reader:
                is_empty = False
                if None in row or None in row.values():
                    columns = f"{len(reader.fieldnames or ())} columns"
                    raise DataFormatError.at(path, reader.line_num, "", columns, list(row.values()))
                yield Row(path, reader.line_num, cast("dict[str, Any]", row))
        except csv.Error as error:
            line = reader.reader.line_num  # DictReader's own count lags behind after an error
            raise DataFormatError.at(path, line, "", "a CSV row", str(error)) from error
    if is_empty:
        raise file_fault(path, "a header and rows", "none", "Download the file again.")
