"""The documents of an index, in order, decoded one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

from search_env.errors import ConfigurationError, DataFormatError
from search_env.retrieval.storage.string_table import StringTable
from search_env.types import Document

_FIELDS = 3  # id, title, text


class Passages:
    """Documents of a corpus as one table of ``3 * len`` strings: ids, titles and texts."""

    def __init__(self, table: StringTable) -> None:
        self.table = table

    @classmethod
    def from_documents(cls, documents: Iterable[Document]) -> Passages:
        """Build the table from documents, which are read one at a time and not kept."""
        return cls(StringTable.from_strings(_checked_fields(documents)))

    def __len__(self) -> int:
        return len(self.table) // _FIELDS

    def __getitem__(self, index: int) -> Document:
        return self.document(index)

    def __iter__(self) -> Iterator[Document]:
        return map(self.document, range(len(self)))

    def document(self, index: int, score: float = 0.0) -> Document:
        """Return the document at ``index``, with a score."""
        first = index * _FIELDS
        return Document(self.table[first], self.table[first + 1], self.table[first + 2], score)

    def index(self, document_id: str) -> int:
        """Return the index of the document with this id."""
        try:
            return self._index_by_id[document_id]
        except KeyError:
            raise ConfigurationError(
                f"Expected the id of one of {len(self):,} passages, got {document_id!r}. "
                "Use an id of the corpus."
            ) from None

    @cached_property
    def _index_by_id(self) -> dict[str, int]:
        """Index by id, built on the first look-up: searches do not need it; 0.1 kB a document."""
        return {self.table[i * _FIELDS]: i for i in range(len(self))}


def _checked_fields(documents: Iterable[Document]) -> Iterator[str]:
    """Yield id, title and text of each document; see ``Passages.from_documents``."""
    positions: dict[str, int] = {}
    for position, document in enumerate(documents):
        if not isinstance(document, Document):
            raise DataFormatError(
                f"Expected Document objects, got {type(document).__name__} at position "
                f"{position}. Build search_env.types.Document(id, title, text)."
            )
        fields = (document.id, document.title, document.text)
        if not all(isinstance(field, str) for field in fields):
            raise DataFormatError(
                f"Expected id, title and text to be strings, got {fields!r:.200} at position "
                f"{position}. Convert them with str()."
            )
        first = positions.setdefault(document.id, position)
        if first != position:
            raise DataFormatError(
                f"Expected unique document ids, got {document.id!r} at positions {first} and "
                f"{position}. Drop or rename one of the two."
            )
        yield from fields
