"""Streaming readers of tables: CSV, TSV and Parquet, one row at a time.

The delimiter of a ``.csv`` or ``.tsv`` file is the one that its first line has, since files of
tabs are called ``.csv`` and spreadsheets of some countries write semicolons. Two layouts without a
header are known: passages of a number, a text and perhaps a title (MS MARCO's and ColBERT's
``collection.tsv``, without quoting), and questions with a list of answers (DPR's ``nq-test.csv``).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from search_env.datasets import json_stream
from search_env.datasets.json_stream import too_long
from search_env.datasets.loaders.native import ANSWERS
from search_env.datasets.rows import Row
from search_env.datasets.streaming import PARQUET, file_fault, open_binary, open_text, plain_name
from search_env.errors import ConfigurationError, DataFormatError

_ENDINGS = (".csv", ".tsv", ".tab")
_DELIMITERS = "\t,;"
"""In the order in which the first line is searched for them: names and numbers hold no tabs."""
_BATCH_BYTES, _BATCH_ROWS = 1 << 24, 1024
_ROW_GROUP_BYTES = 1 << 33


def is_table(path: Path) -> bool:
    """Return whether a file is a table of text by its name, compressed or not."""
    return plain_name(path).endswith(_ENDINGS)


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet by its first bytes."""
    with open_binary(path) as file:
        return file.read(len(PARQUET)) == PARQUET


def iter_table(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file; their places are the record and its last line."""
    with open_text(path, newline="") as file:
        lines = _Lines(path, file)
        first = next((line for line in lines if line.strip()), "")
        if not first:
            raise file_fault(path, "a header and rows", "none", "Download the file again.")
        delimiter = next((d for d in _DELIMITERS if d in first), ",")
        names = _headless(next(csv.reader([first], delimiter=delimiter, quoting=csv.QUOTE_NONE)))
        is_plain = bool(names) and names[0] == "id"
        reader = csv.reader(
            chain([first], lines),
            delimiter=delimiter,
            quoting=csv.QUOTE_NONE if is_plain else csv.QUOTE_MINIMAL,
            strict=not is_plain,
        )
        try:
            yield from _table_rows(path, names or _header(path, next(reader)), reader, lines)
        except csv.Error as error:
            place = f"line {lines.number}"
            raise _csv_fault(path, place, error) from error


def _table_rows(
    path: Path, names: list[str], records: Iterator[list[str]], lines: _Lines
) -> Iterator[Row]:
    """Yield the records as rows, without lines of white space."""
    number = 0
    for cells in records:
        if not "".join(cells).strip() and len(cells) < 2:
            continue
        number += 1
        while len(cells) > len(names) and not cells[-1].strip():
            cells.pop()  # spreadsheets write empty columns behind the last
        place = f"record {number}, line {lines.number}"
        if len(cells) != len(names):
            expected = f"{len(names)} columns ({', '.join(names)})"
            raise DataFormatError.at(path, place, "", expected, cells)
        yield Row(path, lines.number, dict(zip(names, cells, strict=True)), place=place)
    if not number:
        got = f"only a header ({', '.join(names)})"
        raise file_fault(path, "a header and rows", got, "Download the file again.")


class _Lines:
    """The lines of a text file, counted; none may fill the memory."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(json_stream.LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > json_stream.LONGEST_ROW:
            raise too_long(self._path, self.number, line)
        return line


def _headless(cells: list[str]) -> list[str]:
    """Return the column names of a first row that is no header, or []."""
    if len(cells) in (2, 3) and cells[0].isdecimal():
        return ["id", "text", "title"][: len(cells)]
    if len(cells) == 2 and cells[1].strip().startswith(("[", '"[')):
        return ["question", "answers"]
    return []


def _header(path: Path, cells: list[str]) -> list[str]:
    """Return the column names, without the empty columns at the end."""
    names = [name.strip() for name in cells]
    while names and not names[-1]:
        names.pop()
    if len(set(names)) < len(names):
        raise file_fault(path, "different column names", ", ".join(names), "Rename the columns.")
    return names


def _csv_fault(path: Path, place: str, error: csv.Error) -> DataFormatError:
    if "field limit" in str(error):
        expected = f"at most {csv.field_size_limit():,} characters in a field"
        remedy = "If a quotation mark is not missing there, write the file as JSON lines."
        return DataFormatError.at(path, place, "", expected, str(error), remedy)
    expected = "a CSV row (quotation marks inside a quoted field are doubled)"
    return DataFormatError.at(path, place, "", expected, str(error))


def iter_parquet(path: Path) -> Iterator[Row]:
    """Yield the rows of a Parquet file, columns of vectors left out; some MB are in memory.

    Raises:
        ConfigurationError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigurationError(
            f"Expected pyarrow to read {path}, got no such package. Run: "
            'pip install "search-env[parquet]"'
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = [
                f.name
                for f in file.schema_arrow
                if f.name.lower() in ANSWERS or not _is_vector(pyarrow, f.type)
            ]
            for batch in _batches(path, file, columns):
                for data in batch.to_pylist():
                    number += 1
                    yield Row(path, number, data, place=f"record {number}")
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise file_fault(
            path, "an intact Parquet file", f"a damaged one ({error})", "Download the file again."
        ) from error
    if not number:
        raise file_fault(path, "at least one row", "none", "Download the file again.")


def _batches(path: Path, file: Any, columns: list[str]) -> Iterator[Any]:
    """Yield record batches of some megabytes each, however large the row groups are."""
    for group in range(file.num_row_groups):
        metadata = file.metadata.row_group(group)
        size, rows = metadata.total_byte_size, max(metadata.num_rows, 1)
        if size > _ROW_GROUP_BYTES:
            raise file_fault(
                path,
                f"row groups of at most {_ROW_GROUP_BYTES >> 30} GiB",
                f"{size:,} bytes",
                "Write it again with smaller row groups.",
            )
        at_once = max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // max(size, 1)))
        yield from file.iter_batches(at_once, row_groups=[group], columns=columns)


def _is_vector(pyarrow: Any, kind: Any) -> bool:
    types = pyarrow.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and types.is_floating(kind.value_type))
