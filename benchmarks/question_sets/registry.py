"""All protocols, by id. Each question set's own are in its folder's ``task.py``."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from types import MappingProxyType, ModuleType

from benchmarks.harness.spec import BenchmarkProtocol
from search_env.errors import ConfigurationError, nearest

NAMES = (
    "bamboogle",
    "musique",
    "hotpotqa",
    "2wikimultihopqa",
    "nq",
    "triviaqa",
    "popqa",
    "procedural_world",
)
"""Folders of question sets; each holds ``task``, ``sweep`` and ``analysis``."""


def part(name: str, module: str) -> ModuleType:
    """Return ``task``, ``sweep`` or ``analysis`` of a question set."""
    if module == "task":
        file = {"2wikimultihopqa": "twowiki", "procedural_world": "encyclopaedia"}.get(name, name)
        return importlib.import_module(f"benchmarks.question_sets.{file}")
    return importlib.import_module(f"benchmarks.{name}.{module}")


@functools.cache
def protocols() -> Mapping[str, BenchmarkProtocol]:
    """Return every protocol by its id, in the order of :data:`NAMES`."""
    found = [protocol for name in NAMES for protocol in part(name, "task").PROTOCOLS]
    return MappingProxyType({protocol.id: protocol for protocol in found})


def get_protocol(id: str) -> BenchmarkProtocol:
    """Return a protocol.

    Raises:
        ConfigurationError: There is none of that id.
    """
    known = protocols()
    if id not in known:
        begun = [other for other in known if id and other.startswith(id)]
        hint = f"Ids that begin so: {', '.join(begun)}. " if begun else nearest(id, known)
        raise ConfigurationError(
            f"Expected a protocol id, got {id!r}. {hint}List all with: search-env bench"
        )
    return known[id]


def name_of(id: str) -> str:
    """Return the folder of the question set that a protocol id belongs to."""
    question_set = id.split("/", 1)[0]
    for name in NAMES:
        if any(p.question_set == question_set for p in part(name, "task").PROTOCOLS):
            return name
    raise ConfigurationError(f"Expected the id of a protocol, got {id!r}.")
