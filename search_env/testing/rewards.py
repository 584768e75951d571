"""The contract of :class:`search_env.rewards.Reward`, checked on episodes of every ending."""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from search_env.errors import ConfigurationError, RewardError
from search_env.rewards import Reward, Score
from search_env.testing.base import broken, first_difference, require
from search_env.testing.episodes import PROTOCOLS, sample_episodes
from search_env.types import Transcript


def check_reward(
    reward: Reward,
    transcripts: Sequence[Transcript] | None = None,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    picklable: bool = True,
) -> tuple[Score, ...]:
    """Check that a reward keeps its contract.

    Rules, by the name that an error begins with: ``type``, ``score`` (every valid episode gets
    exactly the declared parts, all finite numbers, no exception), ``sum`` (the total is the sum of
    the parts), ``transcript`` (the episode is not changed), ``random`` (Python's and NumPy's
    global generators are not touched), ``pure`` (the same score again, in any order of episodes)
    and ``picklable`` (the same scores from a pickled copy).

    Args:
        reward: To be checked.
        transcripts: Finished episodes to score beside :func:`sample_episodes`. Those in which
            retrieval failed are left out: the environments never score them.
        protocols: Whose sample episodes to score; fewer for a reward that reads the tags of some
            protocol only.
        picklable: Whether it must survive pickling, as in worker processes.

    Returns:
        The scores, of the caller's valid episodes first.

    Raises:
        ConformanceError: A rule is broken.
        ConfigurationError: A transcript's episode has not ended.

    Example:
        >>> from search_env.rewards import F1
        >>> max(score.total for score in check_reward(F1))
        1.0
    """
    require(
        isinstance(reward, Reward),
        "type",
        "a search_env.rewards.Reward",
        type(reward).__name__,
        "Build one: Reward(name, parts, function).",
    )
    samples = [episode for episode in sample_episodes() if episode.protocol in protocols]
    episodes = [*_valid(transcripts or ()), *samples]
    if not episodes:
        raise ConfigurationError(
            f"Expected protocols among {list(PROTOCOLS)}, or transcripts, got {list(protocols)} "
            "and none. Pass what the reward is for."
        )
    scores = tuple(_scored(reward, episode) for episode in episodes)
    backwards = [_scored(reward, episode) for episode in reversed(episodes)]
    for episode, one, two in zip(episodes, scores, reversed(backwards), strict=True):
        difference = first_difference(tuple(one), tuple(two))
        require(
            not difference,
            "pure",
            f"the same score again of {_which(episode)}",
            difference,
            "Read nothing but the transcript and keep no state.",
        )
    if picklable:
        _check_pickle(reward, episodes, scores)
    return scores


def _valid(transcripts: Sequence[Transcript]) -> list[Transcript]:
    running = [transcript for transcript in transcripts if transcript.stop_reason is None]
    if running:
        raise ConfigurationError(
            f"Expected finished episodes, got {len(running)} that still run. Step until they are "
            "terminated or truncated."
        )
    return [t for t in transcripts if t.stop_reason is not None and t.stop_reason.valid]


def _scored(reward: Reward, episode: Transcript) -> Score:
    """Score once, and see what else that did."""
    given, generators = _copy(episode), _generators()
    try:
        score = reward(given)
    except RewardError as error:
        raise broken(
            "score",
            f"the parts {list(reward.parts)} as finite numbers for {_which(episode)}",
            f"this: {error}",
            "Return every part for every valid episode; pass protocols= where it is for some only.",
        ) from error
    require(
        _content(given) == _content(episode),
        "transcript",
        f"{_which(episode)} unchanged",
        "another one",
        "Copy what you change.",
    )
    require(
        not first_difference(_generators(), generators),
        "random",
        "the global random generators untouched",
        "numbers drawn from them",
        "A reward draws no numbers: seeded runs of others would change.",
    )
    require(
        list(score.parts) == list(reward.parts)
        and all(math.isfinite(part) for part in score.parts.values()),
        "score",
        f"the parts {list(reward.parts)}, all finite",
        score.parts,
        "Return every part for every valid episode.",
    )
    require(
        math.isclose(score.total, math.fsum(score.parts.values()), rel_tol=1e-9, abs_tol=1e-9),
        "sum",
        f"the total to be the sum of {score.parts}",
        score.total,
        "Make what is missing a part of its own.",
    )
    return score


def _check_pickle(reward: Reward, episodes: list[Transcript], scores: Sequence[Score]) -> None:
    advice = "Use a function of a module, not a lambda; or pass picklable=False."
    try:
        copy = pickle.loads(pickle.dumps(reward))
    except Exception as error:  # pickle promises no type of error
        raise broken(
            "picklable", f"{reward.name!r} to be picklable", repr(error), advice
        ) from error
    again = tuple(_scored(copy, episode) for episode in episodes)
    difference = first_difference(tuple(map(tuple, scores)), tuple(map(tuple, again)))
    require(not difference, "picklable", "a copy that scores alike", difference, advice)


def _copy(episode: Transcript) -> Transcript:
    return dataclasses.replace(
        episode,
        tokens=episode.tokens.copy(),
        sources=episode.sources.copy(),
        documents=dict(episode.documents),
    )


def _content(episode: Transcript) -> tuple[Any, ...]:
    """Return all that a reward must leave alone; the decoder is a function, not content."""
    arrays = (episode.tokens.tobytes(), episode.sources.tobytes())
    return (*arrays, episode.question, episode.events, episode.documents)


def _generators() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), (name, keys, tuple(rest))


def _which(episode: Transcript) -> str:
    stop = episode.stop_reason
    ending = "running" if stop is None else stop.value
    return f"an episode of {episode.protocol!r} that ended with {ending!r}"
