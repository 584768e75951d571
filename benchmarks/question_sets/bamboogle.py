"""Bamboogle: 125 compositional questions, two hops each (Press et al. 2022)."""

from __future__ import annotations

from functools import partial

from benchmarks.harness.published_settings import published

_NOTE = "The sample corpus holds the answer string of 103 of the 125 questions somewhere."
_test = partial(
    published,
    "bamboogle-test",
    env_id="SearchQA-Bamboogle-v0",
    questions_digest="894ad8e251b7",
    note=_NOTE,
)

PROTOCOLS = (
    _test("r1-searcher"),
    _test("search-r1"),
)
