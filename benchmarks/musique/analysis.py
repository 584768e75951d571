"""How the set falls into groups: by hops, by the shape of the decomposition, by origin.

Of most records in the sample data the evidence was joined by title and step answer, which favours
questions whose evidence a retriever finds; the others are native records of 20 paragraphs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.results_file import Played
from benchmarks.harness.scores import Groups, by_hops, by_kind, group
from search_env.datasets.files import iter_records
from search_env.datasets.resolve import find_questions
from search_env.errors import DataError
from search_env.paths import FileKey, file_key

JOINED = "peterbaile/lag"
"""How the ``source`` of a joined record begins."""


def groups(episodes: Sequence[Played]) -> dict[str, Groups]:
    """Return the episodes by hops, shape and origin; the last only where the data is at hand."""
    joined = joined_ids()
    found = {"hops": by_hops(episodes), "shape": by_kind(episodes)}
    if joined:
        found["origin"] = group(
            episodes,
            lambda record: "joined by title" if record.question_id in joined else "native records",
        )
    return found


def joined_ids() -> frozenset[str]:
    """Return the ids of joined records in the data that there is; none without data."""
    try:
        path, _ = find_questions("musique")
    except DataError:
        return frozenset()
    return _joined_ids(path, file_key(path))


@functools.lru_cache(maxsize=1)
def _joined_ids(path: Path, files: FileKey) -> frozenset[str]:
    return frozenset(
        record.data["id"]
        for record in iter_records(path)
        if str(record.data.get("source", "")).startswith(JOINED)
    )
