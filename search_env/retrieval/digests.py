"""One fingerprint for a sequence of documents, so that a replay can tell whether they changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from search_env.types import Document


def digest(documents: Iterable[Document]) -> str:
    """Return the SHA-256 over ids, titles and texts in order, as 64 hexadecimal digits.

    Scores are left out: they may differ in the last bit between machines. Every field goes in with
    its length before it, so text cannot move from one field to the next unnoticed.

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
