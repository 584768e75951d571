"""What the report plays: nothing, for the sample data has neither questions nor evidence."""

from __future__ import annotations

from benchmarks.studies.sweep import Run

SWEEP: tuple[Run, ...] = ()
