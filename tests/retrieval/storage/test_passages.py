"""Passage storage: ids, errors, order."""

import numpy as np
import pytest

from search_env.errors import ConfigurationError, DataFormatError
from search_env.retrieval.storage.passages import Passages
from search_env.types import Document

DOCUMENTS = [Document("b", "Ulm", "A city."), Document("a", "", ""), Document("c", "K\ud800", "é")]


def test_documents_keep_their_order():
    passages = Passages.from_documents(iter(DOCUMENTS))
    assert list(passages) == DOCUMENTS
    assert len(passages) == 3
    assert [passages.index(name) for name in "abc"] == [1, 0, 2]
    assert passages.document(0, 1.5) == Document("b", "Ulm", "A city.", 1.5)


def test_an_unknown_id_is_named():
    with pytest.raises(ConfigurationError, match=r"one of 3 passages, got 'z'"):
        Passages.from_documents(DOCUMENTS).index("z")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Document("b", "x", "y"), r"'b' at positions 0 and 3"),
        ({"id": "9"}, r"Document objects, got dict at position 3"),
        (Document(9, "x", "y"), r"strings, got \(9, 'x', 'y'\) at position 3"),
        (Document("9", None, "y"), r"to be strings.*position 3"),
    ],
)
def test_bad_rows_are_named(bad, message):
    with pytest.raises(DataFormatError, match=message):
        Passages.from_documents([*DOCUMENTS, bad])


def test_storage_is_two_arrays():
    table = Passages.from_documents(DOCUMENTS).table
    assert table.blob.dtype == np.uint8
    assert len(table.offsets) == 3 * len(DOCUMENTS) + 1
