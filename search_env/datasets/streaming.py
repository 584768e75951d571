"""Streaming readers: the bytes and text of a file, JSON lines, JSON lists and JSON mappings.

Files are plain, gzip, xz or bzip2, which is detected from the first bytes. Only the current row and
a buffer of its size are in memory, so that a 14 GB corpus reads in constant memory, even as one
JSON list. Damage (a truncated archive, bytes that are not UTF-8, invalid JSON, an empty file), a
file of another kind, one that unpacks to hundreds of times its size, and one that changes while
it is read raise :class:`~search_env.errors.DataFormatError`, a missing file ``DataNotFoundError``.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from search_env.datasets import json_stream
from search_env.datasets.json_stream import CHUNK, DECODER, JsonStream, reason, too_long
from search_env.datasets.rows import Row
from search_env.errors import DataFormatError, DataNotFoundError

_GZIP, _XZ, _BZIP2 = b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh"
PARQUET = b"PAR1"
"""The first bytes of a Parquet file."""

_FOREIGN = (
    (b"\xff\xfe", "UTF-16 text", "Save the file as UTF-8 (iconv -f UTF-16 -t UTF-8)."),
    (b"\xfe\xff", "UTF-16 text", "Save the file as UTF-8 (iconv -f UTF-16 -t UTF-8)."),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet", "Unpack it, or save it as CSV."),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "Unpack it with `zstd -d`."),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it."),
    (b"ARROW1", "an Arrow file", "Write it as Parquet (to_parquet of the datasets library)."),
    (b"SQLite format 3", "an SQLite database", "Export the table as CSV or JSON lines."),
    (b"\x89HDF", "an HDF5 file", "Write it as JSON lines."),
    (b"\x93NUMPY", "a NumPy array", "Write it as JSON lines."),
    (b"\x80\x04\x95", "a pickle", "Write it as JSON lines; pickles are never loaded."),
    (b"\x80\x05\x95", "a pickle", "Write it as JSON lines; pickles are never loaded."),
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the content with `git lfs pull`."),
    (b"<", "a web page or other markup", "Download the file itself, not the page that shows it."),
)
"""First bytes of files of other kinds, what they are, and what to do about it."""

_EXPANSION, _EXPANDED_FREELY = 250, 1 << 26
"""Packed text grows by 3 to 30 times; a small file that fills a disk grows by a thousand."""


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a plain, gzip, xz or bzip2 file to read its bytes; damage is raised while reading."""
    with _open_regular(path) as raw:
        before = os.fstat(raw.fileno())
        try:
            yield _unpacked(path, raw)
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise file_fault(
                path, "an intact archive", f"a damaged one ({error})", "Download the file again."
            ) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise file_fault(  # bz2 says it in this way
                path, "an intact archive", f"a damaged one ({error})", "Download the file again."
            ) from error
        after = os.fstat(raw.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise file_fault(
            path,
            "a file that stays as it is while it is read",
            f"a change from {before.st_size} to {after.st_size} bytes",
            "Read it when its writer is done.",
        )


def _open_regular(path: Path) -> io.BufferedReader:
    """Open a file; a pipe or a device would block, or never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder" if path.is_dir() else "a pipe, socket or device"
            raise DataNotFoundError(
                f"Expected a readable file at {path}, got {kind}. Check the path."
            )
        return open(path, "rb")
    except OSError as error:
        if isinstance(error, DataNotFoundError):
            raise
        raise DataNotFoundError(
            f"Expected a readable file at {path}, got: {error.strerror}. Check the path."
        ) from error
    except ValueError as error:  # a NUL in the path
        raise DataNotFoundError(
            f"Expected the path of a readable file, got {str(path)!r}: {error}. Check the path."
        ) from error


def _unpacked(path: Path, raw: io.BufferedReader) -> BinaryIO:
    """Return the file of the bytes that a file holds, packed or not."""
    head = raw.peek(len(_XZ))
    packed: Any
    if head.startswith(_GZIP):
        packed = gzip.GzipFile(fileobj=raw)
    elif head.startswith(_XZ):
        packed = lzma.LZMAFile(raw)  # noqa: SIM115 - open_binary closes what is below
    elif head.startswith(_BZIP2):
        packed = bz2.BZ2File(raw)
    else:
        return raw
    return cast(BinaryIO, io.BufferedReader(_Unpacked(path, raw, packed), CHUNK))


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of an archive, which may not grow without bounds."""

    def __init__(self, path: Path, raw: BinaryIO, packed: BinaryIO) -> None:
        super().__init__()
        self._path, self._raw, self._packed = path, raw, packed
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._packed.readinto(buffer)  # type: ignore[attr-defined]
        self._size += size
        if self._size > _EXPANDED_FREELY and self._size > _EXPANSION * self._raw.tell():
            raise file_fault(
                self._path,
                f"an archive that grows by less than {_EXPANSION} times",
                f"{self._raw.tell()} bytes that unpack to more than {self._size}",
                "Unpack it yourself if you trust it.",
            )
        return int(size)


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a file as :func:`open_binary` does to read UTF-8 text, with or without a mark."""
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
    """Return the first character (the first byte as one) that is not white space.

    Raises:
        DataFormatError: The file is empty or of another kind, such as an archive of files.
    """
    with open_binary(path) as file:
        skipped = codecs.BOM_UTF8 + b" \t\r\n"
        while chunk := file.read(CHUNK):
            for start, kind, remedy in _FOREIGN:
                if chunk.startswith(start):
                    raise file_fault(path, "rows of text or Parquet", kind, remedy)
            if chunk[257:262] == b"ustar":
                raise file_fault(path, "one file of rows", "a tar archive", "Unpack it.")
            if text := chunk.lstrip(skipped):
                return chr(text[0])
    raise file_fault(path, "at least one row", "an empty file", "Download the file again.")


def iter_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a file of JSON: lines, one list, or values one after another."""
    first = first_character(path)
    if first not in "[{":
        raise file_fault(
            path,
            "JSON lines or a JSON list",
            f"text that starts with {first!r}",
            "Convert it; tables are recognised by a name that ends in .csv or .tsv.",
        )
    if first == "[":
        yield from iter_json_list(path)
    elif _is_indented(path):
        yield from _iter_json_values(path)
    else:
        yield from iter_json_lines(path)


def iter_json_lines(path: Path) -> Iterator[Row]:
    """Yield one row for each line that is not blank; only a newline ends a line."""
    number, is_empty = 0, True
    with open_binary(path) as file:
        for number, raw in enumerate(_lines(path, file), start=1):
            if raw.isspace():
                continue
            is_empty = False
            yield Row.of(path, number, _decode_line(path, number, raw))
    if is_empty:
        raise file_fault(path, "at least one row", f"{number} lines", "Download the file again.")


def _lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file, of which none may fill the memory."""
    number = 0
    while raw := file.readline(json_stream.LONGEST_ROW + 1):
        number += 1
        if len(raw) > json_stream.LONGEST_ROW:
            raise too_long(path, number, raw)
        yield raw


def _decode_line(path: Path, number: int, raw: bytes) -> Any:
    """Decode one JSON line; the first may start with a byte order mark."""
    try:
        return DECODER.decode(
            raw.decode("utf-8-sig" if raw.startswith(codecs.BOM_UTF8) else "utf-8")
        )
    except UnicodeDecodeError as error:
        bad = error.object[error.start : error.start + 8]
        raise DataFormatError.at(path, number, "", "UTF-8 text", bad) from error
    except (ValueError, RecursionError) as error:
        raise DataFormatError.at(
            path, number, "", f"JSON on one line ({reason(error)})", raw.strip().decode()
        ) from error


def _is_indented(path: Path) -> bool:
    """Return whether the first line of a file only begins an object that further ones end."""
    with open_binary(path) as file:
        first = next((line for line in _lines(path, file) if not line.isspace()), b"")
    return first.rstrip().endswith((b"{", b"[", b","))


def _iter_json_values(path: Path) -> Iterator[Row]:
    """Yield the objects of a file whose values take several lines each."""
    with open_text(path) as file:
        stream = JsonStream(path, file)
        while stream.peek():
            stream.number += 1
            yield Row.of(path, stream.number, stream.value(), place=stream.place)


def iter_json_list(path: Path) -> Iterator[Row]:
    """Yield the objects of one JSON list, decoding one at a time."""
    for stream in _elements(path, "[]"):
        yield Row.of(path, stream.number, stream.value(), place=stream.place)


def iter_json_mapping(path: Path) -> Iterator[Row]:
    """Yield a row of ``title`` and ``sentences`` for each pair of one JSON object."""
    for stream in _elements(path, "{}"):
        title = stream.key()
        fields = {"title": title, "sentences": stream.value()}
        yield Row(path, stream.number, fields, prefix=f"{title}.", place=stream.place)


def iter_json_objects(path: Path) -> Iterator[Row]:
    """Yield the objects of one JSON object from ids to objects, the id filled in."""
    for stream in _elements(path, "{}"):
        key = stream.key()
        row = Row.of(path, stream.number, stream.value(), f"{key}.", stream.place)
        yield replace(row, data={"id": key} | row.data)


def iter_json_member(path: Path, member: str) -> Iterator[Row]:
    """Yield the objects of the list that is one member of a JSON object, and skip the others."""
    for stream in _elements(path, "{}"):
        if stream.key() != member:
            stream.value()
            continue
        stream.take("[")
        stream.number = 0
        while stream.peek() != "]":
            if stream.number:
                stream.take_comma()
            stream.number += 1
            yield Row.of(path, stream.number, stream.value(), place=stream.place)
        stream.take("]")
        stream.number = 1  # of the members again; only whether it is the first one counts


def _elements(path: Path, brackets: str) -> Iterator[JsonStream]:
    """Yield a cursor at each element of one JSON list or object, which the caller consumes."""
    with open_text(path) as file:
        stream = JsonStream(path, file)
        stream.take(brackets[0])
        while stream.peek() != brackets[1]:
            if stream.number:
                stream.take_comma()
            stream.number += 1
            yield stream
        stream.take(brackets[1])
        stream.end()
    if not stream.number:
        raise file_fault(path, "at least one row", brackets, "Download the file again.")


def plain_name(path: Path) -> str:
    """Return the name of a file without the ending of its compression, in lower case."""
    name = path.name.lower()
    return name.removesuffix(".gz").removesuffix(".xz").removesuffix(".bz2")
