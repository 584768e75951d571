"""How the set falls into groups: by the type that it gives each question."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.results_file import Played
from benchmarks.harness.scores import Groups, by_kind


def groups(episodes: Sequence[Played]) -> dict[str, Groups]:
    """Return the episodes by question type."""
    return {"type": by_kind(episodes)}
