"""Scripted agents: the scores of chance, guessing, one plain search and perfect queries.

They bracket every result: an agent that does not beat ``question-as-query`` has learnt nothing
about searching, and ``oracle-queries`` shows what the reader alone loses. They write text in the
tags of the environment's protocol, which is encoded once. The reader is a handful of rules
(:mod:`search_env.agents.baselines.heuristic_qa`), not a model; no torch is imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from search_env.agents.baselines.heuristic_qa import guess, read
from search_env.envs.search_qa import Observation, SearchQAEnv
from search_env.errors import EpisodeOverError
from search_env.evaluation.agent import Agent
from search_env.protocols.grammar import open_thoughts
from search_env.protocols.tagged_text import answer_text, query_text, without_tags
from search_env.registry import Registry
from search_env.types import Question

__all__ = ["make_baseline"]

Script: TypeAlias = Callable[[SearchQAEnv], Iterator[str]]
"""Yields an episode's text in pieces; each is written before the next is generated."""


class ScriptedAgent:
    """Writes the text of its script.

    A piece that closes a query is followed by the documents before the script goes on, so the
    script finds them in ``env.transcript()``. A script that is exhausted before its episode ends
    goes on with end-of-sequence ids. It is called once an episode.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._ids: Iterator[int] = iter(())

    def begin(self, env: SearchQAEnv, observation: Observation) -> None:
        """Start the script."""
        pieces = self._script(env)
        ids = (token for piece in pieces for token in env.tokenizer.encode(piece).tolist())
        self._ids = itertools.chain(ids, itertools.repeat(min(env.tokenizer.eos_ids, default=0)))

    def act(self, observation: Observation) -> int:
        """Return the next id of the script's text."""
        token = next(self._ids, None)
        if token is None:
            raise EpisodeOverError("Expected begin() before act(), got act(). Call begin() first.")
        return token


class RandomAgent:
    """Draws ids uniformly from all actions; its generator runs on from episode to episode."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._size = 1

    def begin(self, env: SearchQAEnv, observation: Observation) -> None:
        """Look up how many ids there are."""
        self._size = env.tokenizer.size

    def act(self, observation: Observation) -> int:
        """Return any id."""
        return int(self._random.integers(self._size))


def closed_book(env: SearchQAEnv) -> Iterator[str]:
    """Answer with :func:`~search_env.agents.baselines.heuristic_qa.guess`, without a search."""
    yield _answer(env, guess(_question(env).text))


def question_as_query(env: SearchQAEnv) -> Iterator[str]:
    """Search once for the question as it stands; answer with the heuristic reader."""
    yield query_text(env.protocol, _question(env).text)
    yield _answer(env, read(env.transcript()))


def oracle_queries(env: SearchQAEnv) -> Iterator[str]:
    """Search for each known hop in order; answer with the heuristic reader.

    A question whose hops the dataset does not know is searched for as it stands, which makes this
    agent the same as :func:`question_as_query` there.
    """
    yield from _oracle_searches(env)
    yield _answer(env, read(env.transcript()))


def oracle(env: SearchQAEnv) -> Iterator[str]:
    """Search as :func:`oracle_queries` does, then answer with the gold answer.

    The upper bound: 1.0, unless the budgets end the episode before the answer.
    """
    yield from _oracle_searches(env)
    yield _answer(env, _question(env).answers[0])


def scripted(script: Script) -> Callable[[int], Agent]:
    """Return the factory of a script's agent; it ignores its seed."""
    return lambda seed: ScriptedAgent(script)


BASELINES: Registry[Callable[[int], Agent]] = Registry(
    "agent",
    "Agents of your own run with search_env.evaluation.evaluate.",
    {
        "random": RandomAgent,
        "closed-book": scripted(closed_book),
        "question-as-query": scripted(question_as_query),
        "oracle-queries": scripted(oracle_queries),
        "oracle": scripted(oracle),
    },
)
"""Factories of agents from a seed, by name; roughly weakest first."""


def make_baseline(name: str, seed: int = 0) -> Agent:
    """Return a baseline by name.

    Raises:
        ConfigurationError: No baseline of that name.
    """
    return BASELINES[name](seed)


def _question(env: SearchQAEnv) -> Question:
    return env.transcript().question


def _answer(env: SearchQAEnv, answer: str) -> str:
    return answer_text(env.protocol, answer, thoughts=open_thoughts(env.transcript()))


def _oracle_searches(env: SearchQAEnv) -> Iterator[str]:
    """Yield one query for each hop, or the question where there is none."""
    question = _question(env)
    for query in [hop.query for hop in question.hops] or [question.text]:
        if without_tags(env.protocol, query):  # an empty query is a format fault
            yield query_text(env.protocol, query)
