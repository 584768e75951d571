"""How the base of an experiment behaves before training, and episodes of it to imitate.

A base is a script with probabilities. Its habits are those that the experiment's algorithm has to
change: it searches too seldom, goes on too long, or reads badly.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from search_env.benchmarks.suite.worlds import VALUES, Case, World
from search_env.types import Source


@dataclass(frozen=True, slots=True)
class Habits:
    """Probabilities of a base's choices.

    Attributes:
        search: Of a first search for a question that does not hold its answer.
        search_known: Of a search for one that does.
        go_on: Of each further query that is needed.
        repeat: Of asking the last query again, once everything is found; up to twice.
        read: Of answering what was found; else the answer is any value, or one of those found.
    """

    search: float = 0.9
    search_known: float = 0.9
    go_on: float = 0.9
    repeat: float = 0.0
    read: float = 0.9


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """Episodes of a base.

    Attributes:
        tokens: int64 ``(N, L)``, prompts and documents included, 0 after the end.
        written: bool ``(N, L)``: tokens that the base wrote.
    """

    tokens: NDArray[np.int64]
    written: NDArray[np.bool_]


def script(case: Case, world: World, habits: Habits, random: np.random.Generator) -> str:
    """Return what the base writes in one episode; documents come between."""
    needed = case.queries or (" ".join(case.text.split()[1:4]),)
    asked: list[str] = []
    if random.random() < (habits.search if case.queries else habits.search_known):
        asked.append(needed[0])
        for query in needed[1:]:
            if random.random() >= habits.go_on:
                break
            asked.append(query)
    informed = len(asked) == len(needed) or not case.queries
    if asked and informed:
        asked += [asked[-1]] * int(sum(random.random(2) < habits.repeat))
    answer = case.answer
    if not informed or random.random() >= habits.read:
        answer = _guess(case, world, asked, random)
    return "".join(f"<q>{query} </q>" for query in asked) + f"<a>{answer} </a>"


def _guess(case: Case, world: World, asked: list[str], random: np.random.Generator) -> str:
    """Return a value that was seen, if one was, else any; as many as the answer has."""
    texts = [text for query in asked for text in world.documents[query]]
    seen = [word for text in texts for word in text.split() if word.startswith("value")]
    several = sorted(set(seen)) if len(set(seen)) > 1 else []
    choices = several or [f"value{i}" for i in range(VALUES)]
    return " ".join(str(random.choice(choices)) for _ in case.answer.split())


def demonstrate(
    env: gym.Env[dict[str, NDArray[np.int32]], int],
    world: World,
    habits: Habits,
    random: np.random.Generator,
    count: int,
) -> Demonstrations:
    """Play episodes of a base in an environment of its world."""
    bare = env.unwrapped
    tokens: list[NDArray[np.int32]] = []
    written: list[NDArray[np.bool_]] = []
    for _ in range(count):
        index = int(random.integers(len(world.cases)))
        observation, _ = env.reset(seed=0, options={"index": index})
        text = script(world.cases[index], world, habits, random)
        for action in bare.tokenizer.encode(text):  # type: ignore[attr-defined]
            observation, _, terminated, truncated, _ = env.step(int(action))
            if terminated or truncated:
                break
        tokens.append(observation["tokens"].copy())
        written.append(observation["sources"] == Source.POLICY)
    return Demonstrations(np.stack(tokens).astype(np.int64), np.stack(written))
