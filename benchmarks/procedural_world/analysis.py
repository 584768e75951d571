"""How the set falls into groups: by the kind of question that the generator made."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.results_file import Played
from benchmarks.harness.scores import Groups, by_kind


def groups(episodes: Sequence[Played]) -> dict[str, Groups]:
    """Return the episodes by kind."""
    return {"kind": by_kind(episodes)}
