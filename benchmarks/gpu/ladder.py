"""The ladder that makes a base model, for any size: stages of supervised examples, and the model.

What ``scripts/train_tiny_base.py`` does for the bundled model, with sizes as data: copy spans of
random ids; read one article and answer on it; read what a search found; play episodes, in which the
decision whether to search is left to people in a hurry. Examples of one world are a function of
stage and world alone, so worlds can be written by several processes.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import gymnasium as gym
import numpy as np

import search_env
from agents.demonstrations import (
    copying_examples,
    hasty_example,
    oracle_example,
    reading_examples,
)
from agents.trajectories import Example
from search_env.datasets.world import World

SEED = 19_001
"""Of the first pretraining world; nobody trains or tests on these."""
SEARCH_RATE, GO_ON_RATE = 0.2, 0.4
PROTOCOLS = ("r1-searcher", "r1-searcher", "r1-searcher", "search-r1")
_LOOKUPS = 4.4  # one-hop questions for each article
_HELD_OUT = 64


@dataclass(frozen=True, slots=True)
class Stage:
    """A rung.

    Attributes:
        name: Begins with ``copying``, ``reading`` or ``episodes``.
        updates: How many.
        tokens: Of each.
        worlds: How many worlds the examples are from.
        examples: Of each world.
        documents: Shown after a search.
    """

    name: str
    updates: int
    tokens: int
    worlds: int
    examples: int
    documents: int


def world_examples(number: int, *, stage: Stage, articles: int) -> list[Example]:
    """Return the examples of a stage that come from one world.

    Args:
        number: Of the world.
        stage: What they teach.
        articles: Size of the world.
    """
    random = np.random.default_rng([SEED, number])
    count = stage.examples
    if stage.name.startswith("copying"):
        return list(copying_examples(random, count, length=128, vocabulary=1024))
    options = {"articles": articles, "questions": max(count // 2, 1), "seed": SEED + number}
    env = gym.make(
        "SearchQA-v0",
        protocol=PROTOCOLS[number % len(PROTOCOLS)],
        top_k=stage.documents,
        dataset_options=options,
    ).unwrapped
    assert isinstance(env, search_env.SearchQAEnv)
    if stage.name.startswith("reading"):
        world = World(articles, SEED + number)
        lookups = world.questions(int(_LOOKUPS * articles), hops=(1,), kinds=["lookup"])
        cards = reading_examples(env, lookups, random, stage.documents)
        return list(itertools.islice(cards, count))
    rates = {"search_rate": SEARCH_RATE, "go_on_rate": GO_ON_RATE}
    return [
        example
        for index in range(len(env.questions))
        for example in (
            oracle_example(env, index, decisions=False),
            hasty_example(env, index, random, **rates),
        )
    ]


def stage_examples(
    number: int, stage: Stage, articles: int, workers: int
) -> tuple[list[Example], list[Example]]:
    """Return all examples of a stage, and some of a world that it does not train on.

    Args:
        number: Of the stage.
        stage: What they teach.
        articles: Size of its worlds.
        workers: Processes that write them; 0 for this one.
    """
    write = partial(world_examples, stage=stage, articles=articles)
    worlds = range(1000 * number, 1000 * number + stage.worlds)
    held_out = write(1000 * number + 999)[:_HELD_OUT]
    if not workers:
        return [example for world in worlds for example in write(world)], held_out
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return [example for found in pool.map(write, worlds) for example in found], held_out
