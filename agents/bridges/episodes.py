"""Whole episodes for trainers whose engine samples segments: ids in, ids and log-probabilities out.

verl's agent loops, tinker's and AReaL's workflows and others ask for the same thing: a prompt, the
ids after it, a mask of those that the policy sampled, their log-probabilities and a reward.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from search_env.agents.bridges.session import Session, Turn
from search_env.errors import ConfigurationError
from search_env.types import TagRole


@dataclass(frozen=True, slots=True)
class Sampled:
    """A segment: ids ``(n,)`` and, from an engine that has them, their log-probabilities."""

    tokens: Sequence[int]
    log_probs: Sequence[float] | None = None


Sample = Callable[[list[int]], Awaitable[Sampled]]
"""Samples what follows all ids of an episode so far, to a closing tag or the engine's limit."""


@dataclass(slots=True)
class PlayedEpisode:
    """An episode, exact to the id.

    Attributes:
        prompt_ids: Ids of the prompt.
        response_ids: Ids after it, the policy's and the environment's.
        mask: 1 for each of the response that the policy sampled, else 0.
        log_probs: Of the response; 0.0 where the mask is 0. None if the engine gave none.
        last: The last turn: ending, validity, scores.
        unused: Number of sampled ids that were not executed, in all segments.
        turns: Number of segments that the policy sampled.
    """

    prompt_ids: list[int]
    response_ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    log_probs: list[float] | None = None
    reward: float = 0.0
    unused: int = 0
    turns: int = 0
    last: Turn | None = None

    def add(self, turn: Turn, sampled: Sampled) -> None:
        """Append a turn."""
        mask = turn.mask
        if sampled.log_probs is not None:
            given = iter(sampled.log_probs)
            self.log_probs = self.log_probs or []
            self.log_probs += [float(next(given)) if own else 0.0 for own in mask]
        self.response_ids += turn.tokens
        self.mask += mask
        self.reward += turn.reward
        self.unused += turn.unused
        self.turns += 1
        self.last = turn


def closing_tags(session: Session) -> list[str]:
    """Return the texts at which an engine should stop: those that close a query or an answer.

    An engine that stops elsewhere loses samples and no exactness: what it sampled beyond a place
    where the environment writes is not executed.
    """
    pairs = session.pool.environment().protocol.tags
    return [pair.close for pair in pairs if pair.role in (TagRole.TOOL, TagRole.ANSWER)]


async def play(
    session: Session,
    sample: Sample,
    *,
    seed: int | None = None,
    split: str | None = None,
    index: int | None = None,
    question_id: str | None = None,
) -> PlayedEpisode:
    """Play an episode to its end; arguments as :meth:`Session.begin` has them.

    Raises:
        ConfigurationError: ``sample`` gave other than one log-probability for each id.
        InvalidActionError: ``sample`` gave no ids, or others than the environment's.
    """
    begun = session.begin(seed=seed, split=split, index=index, question_id=question_id)
    episode = PlayedEpisode(prompt_ids=begun.tokens)
    turn = begun
    while not turn.done:
        sampled = await sample(episode.prompt_ids + episode.response_ids)
        _check(sampled, episode)
        turn = session.write(list(sampled.tokens))
        episode.add(turn, sampled)
    return episode


def _check(sampled: Sampled, episode: PlayedEpisode) -> None:
    given = sampled.log_probs
    if given is not None and len(given) != len(sampled.tokens):
        raise ConfigurationError(
            f"Expected a log-probability for each of {len(sampled.tokens)} ids, got {len(given)}. "
            "Ask the engine for those of the sampled ids only."
        )
    if episode.turns and (given is None) != (episode.log_probs is None):
        raise ConfigurationError(
            "Expected log-probabilities in every segment of an episode or in none, got them in "
            "some. Ask for them always."
        )


def row_fields(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a row of a trainer's dataset says of the task: seed, split, index, question_id.

    Other columns are the trainer's own. Rows as :func:`dataset_rows` makes them have split and
    index.
    """
    names = ("seed", "split", "index", "question_id")
    fields = {name: row[name] for name in names if row.get(name) is not None}
    for name in ("seed", "index"):
        if name in fields:
            fields[name] = int(fields[name])
    return fields
