"""Which episodes of two agents answer the same question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from search_env.datasets.records import one_line
from search_env.evaluation import EpisodeRecord


def on_shared_questions(
    first: Sequence[EpisodeRecord], second: Sequence[EpisodeRecord]
) -> tuple[list[EpisodeRecord], list[EpisodeRecord]]:
    """Return the valid episodes of both whose questions the other has too, in the first's order.

    Questions are the same where their texts are, but for case and white space: ids differ between
    systems. A question that comes several times counts once, by its first valid episode.

    Args:
        first: Of the one agent.
        second: Of the other.
    """
    ours, theirs = _by_question(first), _by_question(second)
    shared = [text for text in ours if text in theirs]
    return [ours[text] for text in shared], [theirs[text] for text in shared]


def _by_question(records: Iterable[EpisodeRecord]) -> dict[str, EpisodeRecord]:
    found: dict[str, EpisodeRecord] = {}
    for record in records:
        if record.valid:
            found.setdefault(one_line(record.question).casefold(), record)
    return found
