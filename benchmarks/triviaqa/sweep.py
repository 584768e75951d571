"""What the report plays: nothing, for the sample data has neither questions nor evidence."""

from __future__ import annotations

from benchmarks.sweep import Run

SWEEP: tuple[Run, ...] = ()
