"""Fingerprints of documents, by which a replay detects changes, and of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from search_env.types import Document


def digest(documents: Iterable[Document]) -> str:
    """Return the SHA-256 over ids, titles and texts in order, as 64 hexadecimal digits.

    Scores are left out: they may differ in the last bit between machines. Each field is prefixed
    with its length, so text that moves from one field to the next changes the digest.

    Example:
        >>> digest([Document("1", "Ulm", "A city.", score=2.5)])[:12]
        '2508e22ecad8'
    """
    total = hashlib.sha256()
    for document in documents:
        for field in (document.id, document.title, document.text):
            content = field.encode("utf-8", "surrogatepass")
            total.update(len(content).to_bytes(8, "little") + content)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()
