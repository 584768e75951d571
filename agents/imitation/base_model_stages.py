"""Stages of supervised examples that make a base model of any size.

Copy spans of random ids; read one article and answer on it; think without documents; read the
results of a search; play episodes. How to search is taught by oracle episodes whose decisions
between searching and answering have no weight; whether to search, by hasty episodes, which seldom
search.

The examples of a world are a function of stage, seed and world alone, so several processes can
write worlds. Learning from them is :mod:`search_env.agents.imitation.sft`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import gymnasium as gym
import numpy as np

from search_env.agents.imitation.demonstrations import (
    TAGS,
    Decisions,
    copying_examples,
    hasty_example,
    hops_done,
    oracle_example,
    reading_examples,
    thinking_example,
)
from search_env.agents.types import Example
from search_env.envs.search_qa import SearchQAEnv, bare_env
from search_env.worlds.encyclopaedia import World

_PROTOCOLS = ("r1-searcher", "search-r1")  # worlds take turns
_HOPS = (1, 2, 3, 4)
_LOOKUPS = 4.4  # one-hop questions for each article: about all that a world has
_BRANCHED = ("composition", "intersection", "comparison")
_HELD_OUT = 64
_MOST_WORLDS = 100  # of a stage


@dataclass(frozen=True, slots=True)
class BaseModelStage:
    """A stage of the training of a base model; counts of examples are those of each world."""

    name: str  # in the display
    updates: int
    tokens: int  # of each update
    worlds: int  # that the examples are from, at most 100
    copies: int = 0  # copying examples, which need no articles
    cards: int = 0  # reading cards
    thoughts: int = 0  # questions with thoughts but no documents
    branched: int = 0  # the same for compositions, intersections and comparisons: no chains
    episodes: int = 0  # questions with two episodes, one of the oracle and a hasty one
    documents: tuple[int, ...] = (1,)  # of a search; worlds take turns
    tags: float = TAGS  # weight of the tags' tokens
    guesses: float = 0.1  # weight of answers without a search
    decisions: Decisions = "none"  # those of the oracle that have weight
    search_rate: float = 0.2  # probability of a first search in hasty episodes
    go_on_rate: float = 0.4  # probability of each further search in hasty episodes
    think_on_rate: float = 1.0  # probability of each further step in thoughts without documents
    recounts: bool = True  # the remaining steps are repeated after each search


def world_examples(
    number: int, *, stage: BaseModelStage, articles: int, seed: int
) -> list[Example]:
    """Return the examples of a stage that come from the world with the seed ``seed + number``."""
    random = np.random.default_rng([seed, number])
    examples = list(copying_examples(random, stage.copies, length=128, vocabulary=1024))
    if not stage.cards + stage.thoughts + stage.branched + stage.episodes:
        return examples
    env = _world_env(number, stage, articles, seed + number, max(stage.thoughts, stage.episodes, 1))
    if stage.cards:
        world = World(articles, seed + number)
        lookups = world.questions(int(_LOOKUPS * articles), hops=(1,), kinds=["lookup"])
        cards = reading_examples(env, lookups, random, _documents(number, stage))
        examples += itertools.islice(cards, stage.cards)
    thinking = np.random.default_rng([seed, number, 1])
    examples += _thoughts(env, stage.thoughts, stage, thinking)
    if stage.branched:
        hard = _world_env(number, stage, articles, seed + number, stage.branched, _BRANCHED)
        examples += _thoughts(hard, stage.branched, stage, thinking)
    tags, recounts, decisions = stage.tags, stage.recounts, stage.decisions
    for index in range(stage.episodes):
        examples += [
            oracle_example(env, index, decisions=decisions, tags=tags, recounts=recounts),
            hasty_example(
                env,
                index,
                random,
                search_rate=stage.search_rate,
                go_on_rate=stage.go_on_rate,
                tags=tags,
                guesses=stage.guesses,
                recounts=recounts,
            ),
        ]
    return examples


def _world_env(
    number: int,
    stage: BaseModelStage,
    articles: int,
    seed: int,
    questions: int,
    kinds: Sequence[str] | None = None,
) -> SearchQAEnv:
    """Return the environment of a world."""
    world: dict[str, Any] = {"articles": articles, "questions": questions, "seed": seed}
    world |= {"hops": list(_HOPS), "kinds": kinds}
    protocol, top_k = _PROTOCOLS[number % len(_PROTOCOLS)], _documents(number, stage)
    env = gym.make("SearchQA-v0", protocol=protocol, top_k=top_k, dataset_options=world)
    return bare_env(env)


def _documents(number: int, stage: BaseModelStage) -> int:
    """Return the documents of a search in a world; each number is met under each protocol."""
    return stage.documents[number // len(_PROTOCOLS) % len(stage.documents)]


def _thoughts(
    env: SearchQAEnv, count: int, stage: BaseModelStage, random: np.random.Generator
) -> Iterator[Example]:
    """Yield thoughts on the first questions."""
    for index in range(count):
        yield thinking_example(
            env,
            index,
            searches=hops_done(env.questions[index], random, stage.think_on_rate),
            decisions=stage.decisions,
            tags=stage.tags,
            recounts=stage.recounts,
        )


def stage_examples(
    number: int, stage: BaseModelStage, *, articles: int, seed: int, workers: int = 0
) -> tuple[list[Example], list[Example]]:
    """Return all examples of a stage, and some of a world that it does not train on.

    ``number`` is the stage's (no two share a world), ``articles`` the count in each world, ``seed``
    that of the first world, and ``workers`` the processes that write the examples; 0 for this one.
    """
    write = partial(world_examples, stage=stage, articles=articles, seed=seed)
    first = _MOST_WORLDS * number
    worlds = range(first, first + stage.worlds)
    held_out = write(90 * _MOST_WORLDS + number)[-_HELD_OUT:]
    if not workers:
        return [example for world in worlds for example in write(world)], held_out
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return [example for part in pool.map(write, worlds) for example in part], held_out
