"""Rows of data files with typed, checked fields, and the rules for ids that all loaders share.

A :class:`Row` is one JSON object or CSV row together with its position, so that a bad field raises
a :class:`~search_env.errors.DataFormatError` that names file, line and field. Values are checked,
never repaired: a loader yields what the file contains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from search_env.errors import DataFormatError
from search_env.types import Document, Question


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data file; ``prefix`` is its path inside another, as in ``"paragraphs[3]."``.

    ``line`` is 1-based, or the number of the row where the file is one JSON value.
    """

    path: Path
    line: int
    data: dict[str, Any]
    prefix: str = ""

    @classmethod
    def of(cls, path: Path, line: int, value: object, prefix: str = "") -> Row:
        """Return the row of a decoded value, which must be an object."""
        if not isinstance(value, dict):
            raise DataFormatError.at(path, line, prefix.rstrip("."), "a JSON object", value)
        return cls(path, line, value, prefix)

    def fault(self, field: str, expected: str) -> DataFormatError:
        """Return the error that names the expected content of ``field``."""
        got = self.data.get(field)
        return DataFormatError.at(self.path, self.line, self.prefix + field, expected, got)

    def text(self, field: str) -> str:
        """Return a string that is not blank."""
        value = self.data.get(field)
        if not is_text(value) or not value.strip():
            raise self.fault(field, "a non-empty string")
        return value

    def optional_text(self, field: str) -> str:
        """Return a string, blank ones included; "" where the field is missing or null."""
        value = self.data.get(field)
        if value is None:
            return ""
        if not is_text(value):
            raise self.fault(field, "a string")
        return value

    def identifier(self, field: str) -> str:
        """Return an id as a string; whole numbers are accepted, as published files use both."""
        value = self.data.get(field)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not is_text(value) or not value.strip():
            raise self.fault(field, "an id (a non-empty string or a whole number)")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """Return a list of strings, none blank; () where the field is missing or null."""
        value = self.data.get(field)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(is_text(v) and v.strip() for v in value):
            raise self.fault(field, "a list of non-empty strings")
        return tuple(value)

    def answers(self, field: str) -> tuple[str, ...]:
        """Return a list of gold answers without repetitions, in order; at least one."""
        answers = tuple(dict.fromkeys(self.texts(field)))
        if not answers:
            raise self.fault(field, "a list with at least one answer")
        return answers

    def rows(self, field: str) -> list[Row]:
        """Return a list of objects as rows; [] where the field is missing or null."""
        value = self.data.get(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.fault(field, "a list of objects")
        return [
            Row.of(self.path, self.line, row, f"{self.prefix}{field}[{i}].")
            for i, row in enumerate(value)
        ]


def is_text(value: object) -> TypeGuard[str]:
    r"""Return whether a value is a string without the half characters that JSON can contain."""
    if not isinstance(value, str):
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: str) -> str:
    """Return text with every run of white space replaced by one space."""
    return " ".join(text.split())


def document_id(title: str, text: str) -> str:
    r"""Return the id of a passage that has none in its file: 12 hex digits of its content.

    The first 48 bits of SHA-1 over ``title + "\t" + text``, with white space collapsed. The
    same passage has the same id whichever file it came from, so questions of one file find their
    evidence in the corpus of another. 48 bits serve about a million passages (0.2 % chance that
    any two collide); larger corpora carry ids of their own.

    Example:
        >>> document_id("Paris", "Paris is the capital of France.")
        '08b1f8d1e74d'
    """
    content = f"{one_line(title)}\t{one_line(text)}".encode()
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()[:12]


def make_document(title: str, text: str) -> Document:
    """Return the document of a passage without an id: white space collapsed, id by content."""
    return Document(document_id(title, text), one_line(title), one_line(text))


def unique_questions(rows: Iterable[Row], parse: Callable[[Row], Question]) -> Iterator[Question]:
    """Yield each row's question; one without an id gets ``<dataset>_1``, ``_2``, in file order."""
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, start=1):
        question = parse(row)
        if not question.id:
            question = replace(question, id=f"{question.dataset}_{number}")
        key = (question.dataset, question.id)
        if key in seen:
            expected = f"an id that no earlier row has ({question.id!r} occurs twice)"
            raise DataFormatError.at(row.path, row.line, "id", expected, question.id)
        seen.add(key)
        yield question


def unique_documents(documents: Iterable[Document]) -> Iterator[Document]:
    """Yield each document once; question files repeat the passages that questions share."""
    seen: set[str] = set()
    for document in documents:
        if document.id not in seen:
            seen.add(document.id)
            yield document
