"""What the report plays: one to four hops of the test world, by every bundled agent."""

from __future__ import annotations

from benchmarks.question_sets.encyclopaedia import PROTOCOLS
from benchmarks.studies.sweep import BUNDLED, Run

SWEEP = tuple(Run(protocol.id, *agent) for protocol in PROTOCOLS for agent in BUNDLED)
