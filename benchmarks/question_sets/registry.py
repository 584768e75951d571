"""All question sets, and all protocols by id."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from search_env.benchmarks.harness.spec import BenchmarkProtocol, QuestionSet
from search_env.benchmarks.question_sets import (
    bamboogle,
    encyclopaedia,
    hotpotqa,
    musique,
    nq,
    popqa,
    triviaqa,
    twowiki,
)
from search_env.errors import ConfigurationError, nearest
from search_env.registry import Registry

__all__ = ["get_benchmark"]

QUESTION_SETS: Registry[QuestionSet] = Registry(
    "question set",
    "Register your own with register_question_set().",
    {
        module.SET.name: module.SET
        for module in (bamboogle, musique, hotpotqa, twowiki, nq, triviaqa, popqa, encyclopaedia)
    },
)
"""Every set by its name, in the order of reports."""


def register_question_set(question_set: QuestionSet, *, replace: bool = False) -> None:
    """Register a question set and its protocols; ``replace`` allows a name that is taken."""
    QUESTION_SETS.add(question_set.name, question_set, replace=replace)


def all_benchmarks() -> Mapping[str, BenchmarkProtocol]:
    """Return every protocol by its id, in the order of :data:`QUESTION_SETS`."""
    return MappingProxyType(
        {protocol.id: protocol for each in QUESTION_SETS.values() for protocol in each.protocols}
    )


def get_benchmark(id: str) -> BenchmarkProtocol:
    """Return a protocol.

    Raises:
        ConfigurationError: There is none of that id.
    """
    benchmarks = all_benchmarks()
    if id not in benchmarks:
        begun = [other for other in benchmarks if id and other.startswith(id)]
        hint = f"Ids that begin so: {', '.join(begun)}. " if begun else nearest(id, benchmarks)
        raise ConfigurationError(
            f"Expected a protocol id, got {id!r}. {hint}List all with: search-env bench"
        )
    return benchmarks[id]


def question_set_of(id: str) -> QuestionSet:
    """Return the question set of a protocol id, whatever split or own questions it names."""
    prefix = id.partition("/")[0].partition("-")[0]
    for each in QUESTION_SETS.values():
        if any(p.question_set.partition("-")[0] == prefix for p in each.protocols):
            return each
    raise ConfigurationError(
        f"Expected the id of a protocol, got {id!r}. List all with: search-env bench"
    )
