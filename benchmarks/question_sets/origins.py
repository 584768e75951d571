"""Where the evidence of questions in the sample data is from: joined by title, or native records.

Rows whose ``source`` begins with :data:`JOINED` got their supporting passages by title and step
answer. That favours questions whose evidence a retriever finds, so they are reported apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from search_env.datasets.locate import find_questions
from search_env.datasets.streaming import iter_rows
from search_env.errors import DataError
from search_env.evaluation.evaluate import EpisodeMeasures
from search_env.paths import data_dir

JOINED = "peterbaile/lag"
"""How the ``source`` of a joined record begins."""


def origin_of(dataset: str) -> Callable[[EpisodeMeasures], str | None]:
    """Return the key that groups a dataset's records by the origin of their evidence.

    It is None without the data. In a mixture, ids begin with the name of the dataset.
    """

    def origin(record: EpisodeMeasures) -> str | None:
        joined = _joined_ids(dataset, data_dir())
        if joined is None:
            return None
        id_ = record.question_id.rpartition("/")[2]
        return "joined by title" if id_ in joined else "native records"

    return origin


@functools.lru_cache(maxsize=8)
def _joined_ids(dataset: str, folder: Path | None) -> frozenset[str] | None:
    """Return the ids of a data folder, which are looked up for each record; None without it."""
    del folder  # find_questions looks there; it only keys the cache
    try:
        path, _ = find_questions(dataset)
    except DataError:
        return None
    return frozenset(
        record.data["id"]
        for record in iter_rows(path)
        if str(record.data.get("source", "")).startswith(JOINED)
    )
