"""The experiments: a world, a base, a budget, and the returns between which a result is scored.

Chance is the best mean return without the skill, best the best one with it; both are exact, and a
test plays scripts that reach them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from search_env.benchmarks.suite import worlds
from search_env.benchmarks.suite.base import Habits
from search_env.benchmarks.suite.worlds import MakeWorld
from search_env.rewards import F1, Reward
from search_env.rewards.answer import EXACT_MATCH
from search_env.rewards.shaping import search_cost

COST = 0.2  # of a search, where searches cost
_PRICED: Reward = (F1 + search_cost(COST)).renamed("f1-priced-search")


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment.

    Attributes:
        name: Its name in tables and files.
        skill: What it asks of an algorithm.
        world: Makes its worlds.
        habits: What the base does.
        chance: The best mean return without the skill.
        best: The best mean return.
        budget: Policy tokens to train with.
        reward: Return of an episode.
        max_tokens: Length of an episode at most.
        top_k: Documents of a search.
        batch: Episodes between two changes of the policy.
    """

    name: str
    skill: str
    world: MakeWorld
    habits: Habits
    chance: float
    best: float = 1.0
    budget: int = 24_000
    reward: Reward = F1
    max_tokens: int = 18
    top_k: int = 1
    batch: int = 64


_GUESS = 1 / worlds.VALUES
_CHAIN_COST = COST * (1 + 2 + 3 + 4) / 4

EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        made.name: made
        for made in (
            Experiment(
                "search",
                "search at all: the base does so in a quarter of its episodes",
                worlds.lookup,
                Habits(search=0.25),
                chance=_GUESS,
                budget=12_000,
            ),
            Experiment(
                "rare-search",
                "explore: the base searches in 5 % of its episodes",
                worlds.lookup,
                Habits(search=0.05),
                chance=_GUESS,
                budget=40_000,
            ),
            Experiment(
                "restraint",
                "do not search for what is known; a search costs .2",
                worlds.half_known,
                Habits(),
                budget=20_000,
                chance=1 - COST,
                best=1 - COST / 2,
                reward=_PRICED,
            ),
            Experiment(
                "credit",
                "find which of up to four searches in a row was missing",
                worlds.chains,
                Habits(go_on=0.6),
                chance=1 / 4 + 3 / 4 * _GUESS,  # one search always
                max_tokens=60,
            ),
            Experiment(
                "stopping",
                "stop as soon as the value is found; a search costs .2",
                worlds.chains,
                Habits(repeat=0.5),
                budget=30_000,
                chance=1 - _CHAIN_COST - COST,  # each episode asks once too often
                best=1 - _CHAIN_COST,
                reward=_PRICED,
                max_tokens=80,
            ),
            Experiment(
                "delayed-evidence",
                "search again with what was found: the base does so in 5 %",
                worlds.two_hops,
                Habits(go_on=0.05),
                chance=_GUESS,
                max_tokens=36,
            ),
            Experiment(
                "several-queries",
                "ask two queries: the base asks the second in 20 %",
                worlds.two_facts,
                Habits(go_on=0.2),
                chance=_GUESS,
                reward=EXACT_MATCH,
                max_tokens=36,
            ),
            Experiment(
                "distractors",
                "read the document that the question is about, of four",
                worlds.distractors,
                Habits(read=0.1),
                budget=40_000,
                chance=1 / 4 + 3 / 4 * _GUESS,
                max_tokens=36,
                top_k=4,
            ),
            Experiment(
                "long-documents",
                "learn from one's own tokens: documents are three times as long",
                worlds.long_documents,
                Habits(search=0.5, read=0.5),
                chance=_GUESS,
                max_tokens=48,
            ),
            Experiment(
                "few-updates",
                "learn from stale rollouts: 512 episodes to an update",
                worlds.lookup,
                Habits(search=0.25),
                chance=_GUESS,
                budget=36_000,
                batch=512,
            ),
        )
    }
)
"""The experiments by name."""
