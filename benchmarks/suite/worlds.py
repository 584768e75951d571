"""Small worlds of the suite, in the toy's two dozen symbols and its protocol.

A world has 512 questions, one for each triple of eight keys, and answers the queries that its
questions need. Worlds of different seeds share no facts but by chance: what carries over is how to
search and to read. Each maker takes a generator, so that an experiment can have as many worlds as
it needs: to learn a base from, to train on and to measure on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_env.retrieval.base import FakeRetriever
from search_env.types import Document

KEYS, VALUES = 8, 8
TRIPLES = tuple(" ".join(f"key{k}" for k in t) for t in itertools.product(range(KEYS), repeat=3))


@dataclass(frozen=True, slots=True)
class Case:
    """One question of a world.

    Attributes:
        text: The question.
        queries: Those that it needs, in order; empty if the question holds its own answer.
        answer: The right answer.
        kind: What the question is of, where a world has several kinds.
    """

    text: str
    queries: tuple[str, ...]
    answer: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class World:
    """Questions, and the documents that each query returns, best first."""

    cases: tuple[Case, ...]
    documents: Mapping[str, Sequence[str]]

    def retriever(self) -> FakeRetriever:
        """Return a retriever that answers exactly these queries."""
        found = {
            query: [Document(f"{query}/{i}", "", text) for i, text in enumerate(texts)]
            for query, texts in self.documents.items()
        }
        return FakeRetriever(found, remember=False)


MakeWorld = Callable[[np.random.Generator], World]


def lookup(random: np.random.Generator) -> World:
    """Return a world where one search for the question's keys returns the value."""
    values = _values(random)
    return World(_cases(values), {keys: [value] for keys, value in values.items()})


def half_known(random: np.random.Generator) -> World:
    """Return a lookup of which half the questions hold their own answer."""
    values = _values(random)
    known = set(random.permutation(len(TRIPLES))[: len(TRIPLES) // 2].tolist())
    cases = [
        Case(f"find {keys} {value}", (), value, "known")
        if i in known
        else Case(f"find {keys}", (keys,), value, "unknown")
        for i, (keys, value) in enumerate(values.items())
    ]
    return World(tuple(cases), {keys: [value] for keys, value in values.items()})


def long_documents(random: np.random.Generator, filler: int = 24) -> World:
    """Return a lookup whose documents hide the value among that many keys."""
    values, documents = _values(random), {}
    for keys, value in values.items():
        words = [f"key{k}" for k in random.integers(KEYS, size=filler)]
        words.insert(int(random.integers(filler + 1)), value)
        documents[keys] = [" ".join(words)]
    return World(_cases(values), documents)


def distractors(random: np.random.Generator) -> World:
    """Return a lookup where a search returns four documents that name their keys, in any order."""
    values, documents = _values(random), {}
    for keys in TRIPLES:
        *first, last = keys.split()
        others = random.choice([k for k in range(KEYS) if f"key{k}" != last], 3, replace=False)
        order = random.permutation([keys, *(" ".join([*first, f"key{k}"]) for k in others)])
        documents[keys] = [f"{own} {values[str(own)]}" for own in order]
    return World(_cases(values), documents)


def chains(random: np.random.Generator, longest: int = 4) -> World:
    """Return a world where each document names the next keys to search for, or the value.

    The triples form chains of ``longest``; a question begins anywhere in one, so that equally many
    take 1, 2, ... ``longest`` searches.
    """
    order = [TRIPLES[i] for i in random.permutation(len(TRIPLES))]
    values, documents, cases = _values(random), {}, {}
    for start in range(0, len(order), longest):
        chain = order[start : start + longest]
        answer = values[chain[-1]]
        for i, keys in enumerate(chain):
            documents[keys] = [chain[i + 1] if i + 1 < len(chain) else answer]
            hops = len(chain) - i
            cases[keys] = Case(f"find {keys}", tuple(chain[i:]), answer, f"{hops} searches")
    return World(tuple(cases[keys] for keys in TRIPLES), documents)


def two_hops(random: np.random.Generator) -> World:
    """Return a world where a search returns a third key, and a search for that key the value."""
    found = {keys: f"key{k}" for keys, k in zip(TRIPLES, _balanced(random, KEYS), strict=True)}
    values = {f"key{k}": f"value{v}" for k, v in enumerate(random.permutation(VALUES))}
    cases = [Case(f"find {keys}", (keys, key), values[key]) for keys, key in found.items()]
    return World(tuple(cases), {query: [text] for query, text in (found | values).items()})


def two_facts(random: np.random.Generator) -> World:
    """Return a world whose questions name two triples and want the values of both, in order."""
    values = _values(random)
    second = [TRIPLES[i] for i in random.permutation(len(TRIPLES))]
    cases = [
        Case(f"find {a} {b}", (a, b), f"{values[a]} {values[b]}")
        for a, b in zip(TRIPLES, second, strict=True)
    ]
    return World(tuple(cases), {keys: [value] for keys, value in values.items()})


def _values(random: np.random.Generator) -> dict[str, str]:
    """Return a value for each triple, each equally often: a guess is worth 1/8."""
    drawn = _balanced(random, VALUES)
    return {keys: f"value{value}" for keys, value in zip(TRIPLES, drawn, strict=True)}


def _balanced(random: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Return a number below ``count`` for each triple, each equally often."""
    return random.permutation(np.arange(len(TRIPLES)) % count)


def _cases(values: Mapping[str, str]) -> tuple[Case, ...]:
    return tuple(Case(f"find {keys}", (keys,), value) for keys, value in values.items())
