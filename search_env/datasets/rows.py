"""Rows of data files with typed, checked fields, and the rules for ids that all loaders share.

A :class:`Row` is one JSON object or row of a table together with its position, so that a bad field
raises a :class:`~search_env.errors.DataFormatError` that names file, place and field. Values are
checked, never repaired: a loader yields what the file contains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from search_env.datasets.golds import gold_texts
from search_env.errors import DataFormatError
from search_env.types import Document, Question


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data file; ``prefix`` is its path inside another, as in ``"paragraphs[3]."``.

    ``line`` is 1-based: a physical line, or the number of the record where records are no lines;
    ``place`` then says what it is.
    """

    path: Path
    line: int
    data: dict[str, Any]
    prefix: str = ""
    place: str = ""

    @classmethod
    def of(cls, path: Path, line: int, value: object, prefix: str = "", place: str = "") -> Row:
        """Return the row of a decoded value, which must be an object."""
        if not isinstance(value, dict):
            field = prefix.rstrip(".")
            raise DataFormatError.at(path, place or line, field, "a JSON object", value)
        return cls(path, line, value, prefix, place)

    @property
    def where(self) -> str:
        """The place of the row in its file, for messages."""
        return self.place or f"line {self.line}"

    def fault(self, field: str, expected: str) -> DataFormatError:
        """Return the error that names the expected content of ``field``."""
        got = self.data.get(field)
        return DataFormatError.at(self.path, self.where, self.prefix + field, expected, got)

    def is_blank(self) -> bool:
        """Return whether no field has any content."""
        return not any(v.strip() if isinstance(v, str) else v for v in self.data.values())

    def name_of(self, names: Iterable[str]) -> str:
        """Return the first of some names under which the row has a field, in any case; or ""."""
        for name in names:
            if name in self.data:
                return name
        by_lower = {n.strip().lower().replace(" ", "_"): n for n in reversed(self.data)}
        return next((by_lower[name] for name in names if name in by_lower), "")

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

    def own_id(self, names: Iterable[str]) -> str:
        """Return the row's id under the first of some names; "" where it is missing or null."""
        name = self.name_of(names)
        return self.identifier(name) if name and self.data[name] is not None else ""

    def heading(self, field: str) -> str:
        """Return an optional title, of one line whatever line ends it has."""
        text = self.optional_text(field) if field else ""
        return one_line(text) if "\n" in text or "\r" in text else text

    def body(self, field: str) -> str:
        """Return the text of a passage, which may be blank or null but must be there."""
        if field not in self.data:
            raise self.fault(field, "a string")
        return self.optional_text(field)

    def texts(self, field: str) -> tuple[str, ...]:
        """Return a list of strings, none blank; () where the field is missing or null."""
        value = self.data.get(field)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(is_text(v) and v.strip() for v in value):
            raise self.fault(field, "a list of non-empty strings")
        return tuple(value)

    def golds(self, field: str) -> tuple[str, ...]:
        """Return the gold answers of a field without repetitions, in order; () where it has none.

        See :func:`~search_env.datasets.golds.gold_texts` for the forms that are read.
        """
        golds = gold_texts(self.data.get(field))
        if golds is None or not all(is_text(gold) and gold.strip() for gold in golds):
            raise self.fault(field, "a text, a number, or a list of non-empty ones")
        return tuple(dict.fromkeys(str(gold) for gold in golds))

    def answers(self, field: str) -> tuple[str, ...]:
        """Return the gold answers of a field; at least one."""
        answers = self.golds(field)
        if not answers:
            raise self.fault(field, "at least one answer")
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


def whole_text(text: str) -> str:
    """Return a text with U+FFFD for the half characters that JSON can contain and files cannot.

    Example:
        >>> whole_text("a" + chr(0xD83D) + chr(0xDE00) + chr(0xD83D)) == "a" + chr(0x1F600) + "�"
        True
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


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


def question_id(text: str) -> str:
    """Return the id of a question that has none in its file: 12 hex digits of its SHA-1."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]


def make_document(title: str, text: str) -> Document:
    """Return the document of a passage without an id: white space collapsed, id by content."""
    return Document(document_id(title, text), one_line(title), one_line(text))


def unique_questions(rows: Iterable[Row], parse: Callable[[Row], Question]) -> Iterator[Question]:
    """Yield each row's question, with an id that is its own.

    One without an id gets ``<dataset>_1``, ``_2``, in file order. Ids by content
    (:func:`question_id`) are numbered from the second row with the same question.
    """
    seen: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows, start=1):
        question = parse(row)
        if not question.id:
            question = replace(question, id=f"{question.dataset}_{number}")
        key = (question.dataset, question.id)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:
            if question.id != question_id(question.text):
                expected = f"an id that no earlier row has ({question.id!r} occurs twice)"
                raise DataFormatError.at(row.path, row.where, "id", expected, question.id)
            question = replace(question, id=f"{question.id}-{seen[key]}")
        yield question


def unique_documents(documents: Iterable[Document]) -> Iterator[Document]:
    """Yield each document once; question files repeat the passages that questions share."""
    seen: dict[str, int] = {}
    for document in documents:
        content = hash((document.title, document.text))
        if document.id not in seen:
            seen[document.id] = content
            yield document
        elif seen[document.id] != content:
            raise DataFormatError(
                f"Expected one passage for the id {document.id!r}, got two different ones, of "
                f"which one is titled {document.title!r}. Write ids of their own into the file."
            )


def without_repeats(documents: Iterable[Document]) -> Iterator[Document]:
    """Yield documents, those with an id by content once; other ids are not looked at."""
    seen: set[str] = set()
    for document in documents:
        if len(document.id) == 12 and document.id == document_id(document.title, document.text):
            if document.id in seen:
                continue
            seen.add(document.id)
        yield document
