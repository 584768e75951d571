"""Checks of the contracts of :class:`~search_env.rewards.Reward` and ``GroupReward``.

They score episodes with every stop reason, and groups of them.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from search_env.errors import ConfigurationError, RewardError
from search_env.rewards import GroupReward, Reward, Score
from search_env.testing.base import broken, first_difference, require, require_same
from search_env.testing.episodes import PROTOCOLS, sample_episodes
from search_env.types import Transcript

_AnyReward = TypeVar("_AnyReward", Reward, GroupReward)


def check_reward(
    reward: Reward,
    transcripts: Sequence[Transcript] | None = None,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    picklable: bool = True,
) -> tuple[Score, ...]:
    """Check that a reward keeps its contract.

    Rules, by the name that an error begins with: ``type``, ``score`` (every valid episode gets
    exactly the declared parts, all finite, without an exception), ``sum`` (the total is the sum of
    the parts), ``transcript`` (the episode is not changed), ``random`` (Python's and NumPy's
    global generators are not used), ``pure`` (the same score again, in any order of episodes) and
    ``picklable`` (the same scores from a pickled copy).

    Args:
        reward: The reward.
        transcripts: Finished episodes to score in addition to :func:`sample_episodes`. Those in
            which retrieval failed are left out: the environments never score them.
        protocols: Protocols of the sample episodes; fewer for a reward that reads only the tags of
            some.
        picklable: Whether the reward must survive pickling, as in worker processes.

    Returns:
        The scores, those of the caller's valid episodes first.

    Raises:
        ConformanceError: A rule is broken.
        ConfigurationError: An episode has not ended.

    Example:
        >>> from search_env.rewards import F1
        >>> max(score.total for score in check_reward(F1))
        1.0
    """
    _require_type(reward, Reward)
    samples = [episode for episode in sample_episodes() if episode.protocol in protocols]
    episodes = [*_valid(transcripts or ()), *samples]
    if not episodes:
        raise _nothing_to_score(protocols, "transcripts")
    scores = tuple(_score(reward, episode) for episode in episodes)
    for episode, score in reversed(list(zip(episodes, scores, strict=True))):
        _require_pure(score, _score(reward, episode), _describe(episode))
    if picklable:
        copy = _pickled(reward)
        _require_equal_copy(scores, tuple(_score(copy, episode) for episode in episodes))
    return scores


def check_group_reward(
    group_reward: GroupReward,
    groups: Sequence[Sequence[Transcript]] | None = None,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    picklable: bool = True,
) -> tuple[tuple[Score, ...], ...]:
    """Check that a group reward keeps its contract.

    The rules of :func:`check_reward`, and ``order``: in another order of members each gets the
    same score up to rounding.

    Args:
        group_reward: The group reward.
        groups: Groups of finished episodes to score in addition to those of
            :func:`sample_episodes`, which are of one question: for each protocol all of them, one
            twice, and each alone.
        protocols: As for :func:`check_reward`.
        picklable: Whether it must survive pickling, as in worker processes.

    Returns:
        The scores of each group's valid members, the caller's groups first.

    Raises:
        ConformanceError: A rule is broken.
        ConfigurationError: An episode has not ended, or a group has several questions.

    Example:
        >>> def alone(group):
        ...     return [{"alone": float(len(group) == 1)} for _ in group]
        >>> scores = check_group_reward(GroupReward("alone", ("alone",), alone), picklable=False)
        >>> len(scores[0]), scores[0][0].total, scores[-1][0].total
        (9, 0.0, 1.0)
    """
    _require_type(group_reward, GroupReward)
    valid_groups = [members for group in groups or () if (members := _valid(group))]
    valid_groups += _sample_groups(protocols)
    if not valid_groups:
        raise _nothing_to_score(protocols, "groups")
    scores = tuple(_score_group(group_reward, group) for group in valid_groups)
    for group, group_score in reversed(list(zip(valid_groups, scores, strict=True))):
        _require_pure(group_score, _score_group(group_reward, group), _describe_group(group))
        _check_order(group_reward, group, group_score)
    if picklable:
        copy = _pickled(group_reward)
        _require_equal_copy(scores, tuple(_score_group(copy, group) for group in valid_groups))
    return scores


def _require_type(reward: object, kind: type[Reward | GroupReward]) -> None:
    name, got = kind.__name__, type(reward).__name__
    advice = f"Build one: {name}(name, parts, function)."
    require(isinstance(reward, kind), "type", f"a search_env.rewards.{name}", got, advice)


def _sample_groups(protocols: Sequence[str]) -> list[list[Transcript]]:
    groups = []
    for protocol in protocols:
        samples = [episode for episode in sample_episodes() if episode.protocol == protocol]
        if samples:
            groups += [samples, [samples[0], samples[0]], *([episode] for episode in samples)]
    return groups


def _check_order(
    group_reward: GroupReward, group: Sequence[Transcript], scores: Sequence[Score]
) -> None:
    """Score the members in other orders."""
    count, name = len(group), _describe_group(group)
    shuffled = random.Random(0).sample(range(count), count)
    advice = "Compare members with each other, not by their places."
    for order in (range(count)[::-1], shuffled):
        again = _score_group(group_reward, [group[i] for i in order])
        for i, score in zip(order, again, strict=True):
            parts = scores[i].parts
            same = all(_close(parts[part], value) for part, value in score.parts.items())
            expected = f"{_describe(group[i])} to get {parts} in any order of {name}"
            require(same, "order", expected, score.parts, advice)


def _score_group(group_reward: GroupReward, group: Sequence[Transcript]) -> tuple[Score, ...]:
    advice = "Return every part for every member, also in a group of one"
    return _scores(group_reward.parts, group_reward, group, _describe_group(group), advice)


def _score(reward: Reward, episode: Transcript) -> Score:
    advice = "Return every part for every valid episode"
    (score,) = _scores(
        reward.parts, lambda copies: [reward(copies[0])], [episode], _describe(episode), advice
    )
    return score


def _scores(
    parts: Sequence[str],
    score_all: Callable[[Sequence[Transcript]], Sequence[Score]],
    episodes: Sequence[Transcript],
    description: str,
    advice: str,
) -> tuple[Score, ...]:
    """Score copies of episodes once, and check the scores and the absence of side effects."""
    copies, generators = [_copy(episode) for episode in episodes], _generators()
    try:
        scores = tuple(score_all(copies))
    except RewardError as error:
        expected = f"the parts {list(parts)} as finite numbers for {description}"
        advice = f"{advice}; pass protocols= where it is for some only."
        raise broken("score", expected, f"this: {error}", advice) from error
    for episode, copy in zip(episodes, copies, strict=True):
        same, expected = _content(copy) == _content(episode), f"{_describe(episode)} unchanged"
        require(same, "transcript", expected, "another one", "Change only copies.")
    expected = "the global random generators untouched"
    advice = "Draw no numbers in a reward: seeded runs of others would change."
    drawn = first_difference(_generators(), generators)
    require(not drawn, "random", expected, "numbers drawn from them", advice)
    for score in scores:
        _require_parts(parts, score)
    return scores


def _valid(transcripts: Sequence[Transcript]) -> list[Transcript]:
    running = [transcript for transcript in transcripts if transcript.stop_reason is None]
    if running:
        raise ConfigurationError(
            f"Expected finished episodes, got {len(running)} that still run. Step until they are "
            "terminated or truncated."
        )
    return [t for t in transcripts if t.stop_reason is not None and t.stop_reason.valid]


def _nothing_to_score(protocols: Sequence[str], what: str) -> ConfigurationError:
    return ConfigurationError(
        f"Expected protocols among {list(PROTOCOLS)}, or {what}, got {list(protocols)} and none. "
        "Pass those that the reward is for."
    )


def _require_pure(once: tuple[Any, ...], again: tuple[Any, ...], description: str) -> None:
    advice = "Read nothing but the transcript and keep no state."
    require_same(once, again, "pure", f"the same score again of {description}", advice)


def _require_parts(parts: Sequence[str], score: Score) -> None:
    fits = list(score.parts) == list(parts) and all(map(math.isfinite, score.parts.values()))
    expected = f"the parts {list(parts)}, all finite"
    advice = "Return every part for every valid episode."
    require(fits, "score", expected, score.parts, advice)
    fits = _close(score.total, math.fsum(score.parts.values()))
    expected = f"the total to be the sum of {score.parts}"
    advice = "Make the difference a part of its own."
    require(fits, "sum", expected, score.total, advice)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)


_PICKLE_ADVICE = "Use a function of a module, not a lambda; or pass picklable=False."


def _pickled(reward: _AnyReward) -> _AnyReward:
    try:
        copy: _AnyReward = pickle.loads(pickle.dumps(reward))
    except Exception as error:  # pickle may raise anything
        expected = f"{reward.name!r} to be picklable"
        raise broken("picklable", expected, repr(error), _PICKLE_ADVICE) from error
    return copy


def _require_equal_copy(scores: tuple[Any, ...], again: tuple[Any, ...]) -> None:
    require_same(scores, again, "picklable", "a copy with the same scores", _PICKLE_ADVICE)


def _copy(episode: Transcript) -> Transcript:
    tokens, sources = episode.tokens.copy(), episode.sources.copy()
    return dataclasses.replace(episode, tokens=tokens, sources=sources)


def _content(episode: Transcript) -> tuple[Any, ...]:
    """Return the content that a reward must not change; the decoder is a function."""
    arrays = (episode.tokens.tobytes(), episode.sources.tobytes())
    return (*arrays, episode.question, episode.events)


def _generators() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), (name, keys, tuple(rest))


def _describe(episode: Transcript) -> str:
    ending = "running" if episode.stop_reason is None else episode.stop_reason.value
    return f"an episode of {episode.protocol!r} that ended with {ending!r}"


def _describe_group(group: Sequence[Transcript]) -> str:
    return f"a group of {len(group)}, the first {_describe(group[0])}"
