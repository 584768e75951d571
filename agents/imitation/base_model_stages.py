"""The ladder that makes a base model, for any size: stages of supervised examples.

Copy spans of random ids; read one article and answer on it; think without documents; read what a
search found; play episodes. Episodes teach how to search by oracles whose decisions between
searching and answering do not count, and whether to search by people in a hurry, who seldom do.

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

_PROTOCOLS = ("r1-searcher", "r1-searcher", "r1-searcher", "search-r1")
_HOPS = (1, 2, 3, 4)
_LOOKUPS = 4.4  # one-hop questions for each article: about all that a world has
_BRANCHED = ("composition", "intersection", "comparison")
_HELD_OUT = 64
_MOST_WORLDS = 100  # of a stage


@dataclass(frozen=True, slots=True)
class BaseModelStage:
    """A rung.

    Attributes:
        name: For people.
        updates: How many.
        tokens: Of each.
        worlds: How many worlds the examples are from, at most 100.
        copies: Copied spans of each world, which need no articles.
        cards: Reading cards of each world.
        thoughts: Questions of each world that are thought about without documents.
        branched: As many more that are no chains: compositions, intersections, comparisons.
        episodes: Questions of each world that are played twice: by an oracle, and in a hurry.
        documents: Shown after a search.
        tags: Weight of the tags' tokens.
        guesses: Weight of what is answered without a search.
        decisions: Which decisions of oracles count.
        search_rate: Of people in a hurry.
        go_on_rate: Of theirs, after each search.
        think_on_rate: Of those who think without documents.
        recounts: Whether the steps that are left are said after each search.
    """

    name: str
    updates: int
    tokens: int
    worlds: int
    copies: int = 0
    cards: int = 0
    thoughts: int = 0
    branched: int = 0
    episodes: int = 0
    documents: int = 1
    tags: float = TAGS
    guesses: float = 0.1
    decisions: Decisions = "none"
    search_rate: float = 0.2
    go_on_rate: float = 0.4
    think_on_rate: float = 1.0
    recounts: bool = True


def world_examples(
    number: int, *, stage: BaseModelStage, articles: int, seed: int
) -> list[Example]:
    """Return the examples of a stage that come from one world.

    Args:
        number: Of the world.
        stage: What they teach.
        articles: Size of the world.
        seed: ``seed + number`` is the world's own.
    """
    random = np.random.default_rng([seed, number])
    examples = list(copying_examples(random, stage.copies, length=128, vocabulary=1024))
    if not stage.cards + stage.thoughts + stage.branched + stage.episodes:
        return examples
    env = _world_env(number, stage, articles, seed + number, max(stage.thoughts, stage.episodes, 1))
    if stage.cards:
        world = World(articles, seed + number)
        lookups = world.questions(int(_LOOKUPS * articles), hops=(1,), kinds=["lookup"])
        cards = reading_examples(env, lookups, random, stage.documents)
        examples += itertools.islice(cards, stage.cards)
    thinking = np.random.default_rng([seed, number, 1])
    examples += _thoughts(env, stage.thoughts, stage, thinking)
    if stage.branched:
        hard = _world_env(number, stage, articles, seed + number, stage.branched, _BRANCHED)
        examples += _thoughts(hard, stage.branched, stage, thinking)
    for index in range(stage.episodes):
        examples.append(
            oracle_example(
                env, index, decisions=stage.decisions, tags=stage.tags, recounts=stage.recounts
            )
        )
        hasty = hasty_example(
            env,
            index,
            random,
            search_rate=stage.search_rate,
            go_on_rate=stage.go_on_rate,
            tags=stage.tags,
            guesses=stage.guesses,
            recounts=stage.recounts,
        )
        examples.append(hasty)
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
    world = {
        "articles": articles,
        "questions": questions,
        "seed": seed,
        "hops": list(_HOPS),
        "kinds": kinds,
    }
    protocol = _PROTOCOLS[number % len(_PROTOCOLS)]
    made = gym.make("SearchQA-v0", protocol=protocol, top_k=stage.documents, dataset_options=world)
    return bare_env(made)


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

    Args:
        number: Of the stage; no two stages share a world.
        stage: What they teach.
        articles: Size of its worlds.
        seed: Of the first world.
        workers: Processes that write them; 0 for this one.
    """
    write = partial(world_examples, stage=stage, articles=articles, seed=seed)
    first = _MOST_WORLDS * number
    worlds = range(first, first + stage.worlds)
    held_out = write(90 * _MOST_WORLDS + number)[-_HELD_OUT:]
    if not workers:
        return [example for world in worlds for example in write(world)], held_out
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return [example for found in pool.map(write, worlds) for example in found], held_out
