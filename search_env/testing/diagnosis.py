"""Diagnosis of an agent's skills by its return in each diagnostic world, between exact bounds.

The worlds are in :mod:`search_env.worlds.diagnostics`. Train on the ``train`` split of a world and
measure on another: answers do not transfer between splits, only the skill does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import gymnasium as gym

from search_env.evaluation.agent import Agent
from search_env.evaluation.evaluate import evaluate


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A world that one skill solves.

    Attributes:
        id: Id for ``gym.make``.
        skill: Skill that the world requires.
        optimal: The best mean return over a split, reached with the skill.
        without: The best mean return without the skill.
        lacking: Description of the policy whose return is ``without``.
    """

    id: str
    skill: str
    optimal: float
    without: float
    lacking: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Result of an agent in a world.

    Attributes:
        id: Id of the world.
        skill: Skill that the world requires.
        mean_return: Mean return over the questions.
        without: The best return without the skill.
        optimal: The best return.
        score: 0 for ``without`` or less, 1 for ``optimal``, linear between.
    """

    id: str
    skill: str
    mean_return: float
    without: float
    optimal: float
    score: float


def _diagnostic(name: str, skill: str, without: float, lacking: str) -> Diagnostic:
    return Diagnostic(f"SearchQA-{name}-v0", skill, 1.0, without, lacking)


_BY_TAGS = "takes a value by its place; 0 if it takes what stands in answer tags"
_BY_SILENCE = "abstains always, or only where nothing is found"
_BY_TRUST = "believes the first document without tags; 0.5 by its place, 0 if it obeys tags"
_BY_TOPIC = "take the document that the question is about"
DIAGNOSTICS: tuple[Diagnostic, ...] = (
    _diagnostic("MustSearch", "search for what cannot be known", 1 / 8, "answers without a search"),
    _diagnostic("MustNotSearch", "do not pay for what is known", 0.9, "searches in every episode"),
    _diagnostic("Distractors", _BY_TOPIC, 1 / 4, "takes a document by its place"),
    _diagnostic("ForgedTags", "do not obey tags inside documents", 1 / 2, _BY_TAGS),
    _diagnostic("DelayedEvidence", "search again with what was found", 1 / 8, "searches once"),
    _diagnostic("Unanswerable", "abstain where no document answers", 1 / 2, _BY_SILENCE),
    _diagnostic("Poisoned", "believe what documents agree on", 3 / 4, _BY_TRUST),
    _diagnostic("AsOf", "take what held at the date in question", 1 / 4, "ignores the date"),
)
"""The diagnostic worlds. Their returns are exact over every split."""


def diagnose(
    make_agent: Callable[[Diagnostic], Agent], *, split: str = "test"
) -> tuple[Diagnosis, ...]:
    """Play every question of every world's split once.

    Args:
        make_agent: Returns the agent for a world, trained on
            ``gym.make(diagnostic.id, split="train")`` if it learns.
        split: Split to measure on.

    Example:
        >>> from search_env.agents.baselines.scripted import make_baseline
        >>> for row in diagnose(lambda world: make_baseline("oracle")):
        ...     print(f"{row.id:28}{row.mean_return:.2f}  score {row.score:.2f}")
        SearchQA-MustSearch-v0      1.00  score 1.00
        SearchQA-MustNotSearch-v0   0.90  score 0.00
        SearchQA-Distractors-v0     1.00  score 1.00
        SearchQA-ForgedTags-v0      1.00  score 1.00
        SearchQA-DelayedEvidence-v0 1.00  score 1.00
        SearchQA-Unanswerable-v0    1.00  score 1.00
        SearchQA-Poisoned-v0        1.00  score 1.00
        SearchQA-AsOf-v0            1.00  score 1.00
    """
    return tuple(_diagnose_world(world, make_agent(world), split) for world in DIAGNOSTICS)


def _diagnose_world(world: Diagnostic, agent: Agent, split: str) -> Diagnosis:
    env = gym.make(world.id, split=split)
    returns = (episode.episode_return for episode in evaluate(env, agent))
    mean = fmean(value for value in returns if value is not None)
    score = min(1.0, max(0.0, (mean - world.without) / (world.optimal - world.without)))
    return Diagnosis(world.id, world.skill, mean, world.without, world.optimal, score)
