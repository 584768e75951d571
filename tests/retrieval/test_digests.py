"""The fingerprint of documents."""

import hashlib

from search_env.retrieval import digest
from search_env.types import Document


def test_is_the_sha256_of_length_prefixed_fields():
    fields = [b"1", "Köln".encode(), b""]
    content = b"".join(len(field).to_bytes(8, "little") + field for field in fields)
    assert digest([Document("1", "Köln", "")]) == hashlib.sha256(content).hexdigest()
    assert digest([]) == hashlib.sha256().hexdigest()


def test_only_scores_are_ignored():
    base = [Document("1", "ab", "c"), Document("2", "d", "e")]
    assert digest(base) == digest([Document("1", "ab", "c", 3.0), base[1]])
    others = [
        base[::-1],
        base[:1],
        [Document("1", "a", "bc"), base[1]],  # text that moved between fields
        [Document("1", "ab", "C"), base[1]],
        [Document("1a", "b", "c"), base[1]],
    ]
    assert len({digest(base), *map(digest, others)}) == 1 + len(others)
