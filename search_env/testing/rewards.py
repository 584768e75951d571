"""The contracts of :class:`search_env.rewards.Reward` and :class:`search_env.rewards.GroupReward`.

Checked on episodes of every ending, and on groups of them.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from search_env.errors import ConfigurationError, RewardError
from search_env.rewards import GroupReward, Reward, Score
from search_env.testing.base import broken, first_difference, require
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
        raise _nothing_to_score(protocols, "transcripts")
    scores = tuple(_scored(reward, episode) for episode in episodes)
    backwards = [_scored(reward, episode) for episode in reversed(episodes)]
    for episode, one, two in zip(episodes, scores, reversed(backwards), strict=True):
        _require_same(one, two, _which(episode))
    if picklable:
        copy = _pickled(reward, reward.name)
        _require_alike(scores, tuple(_scored(copy, episode) for episode in episodes))
    return scores


def check_group_reward(
    group_reward: GroupReward,
    groups: Sequence[Sequence[Transcript]] | None = None,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    picklable: bool = True,
) -> tuple[tuple[Score, ...], ...]:
    """Check that a group reward keeps its contract.

    The rules of :func:`check_reward`, and ``order``: in another order of members each gets what it
    got before, but for rounding.

    Args:
        group_reward: To be checked.
        groups: Groups of finished episodes to score beside some of :func:`sample_episodes`, which
            are of one question: for each protocol all of them, two that are alike, and each alone.
        protocols: Whose sample episodes to score.
        picklable: Whether it must survive pickling, as in worker processes.

    Returns:
        The scores of each group's valid members, the caller's groups first.

    Raises:
        ConformanceError: A rule is broken.
        ConfigurationError: A transcript's episode has not ended, or a group is of several
            questions.

    Example:
        >>> def alone(group):
        ...     return [{"alone": float(len(group) == 1)} for _ in group]
        >>> scores = check_group_reward(GroupReward("alone", ("alone",), alone), picklable=False)
        >>> len(scores[0]), scores[0][0].total, scores[-1][0].total
        (9, 0.0, 1.0)
    """
    require(
        isinstance(group_reward, GroupReward),
        "type",
        "a search_env.rewards.GroupReward",
        type(group_reward).__name__,
        "Build one: GroupReward(name, parts, function).",
    )
    given = [members for group in groups or () if (members := _valid(group))]
    checked = [*given, *_sample_groups(protocols)]
    if not checked:
        raise _nothing_to_score(protocols, "groups")
    scores = tuple(_scored_group(group_reward, group) for group in checked)
    for group, one in reversed(list(zip(checked, scores, strict=True))):
        _require_same(one, _scored_group(group_reward, group), _which_group(group))
        _check_order(group_reward, group, one)
    if picklable:
        copy = _pickled(group_reward, group_reward.name)
        again = tuple(_scored_group(copy, group) for group in checked)
        _require_alike(scores, again)
    return scores


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
    count = len(group)
    shuffled = random.Random(0).sample(range(count), count)
    for order in (range(count)[::-1], shuffled):
        again = _scored_group(group_reward, [group[i] for i in order])
        for i, found in zip(order, again, strict=True):
            then = scores[i].parts
            same = all(
                math.isclose(then[part], value, rel_tol=1e-9, abs_tol=1e-9)
                for part, value in found.parts.items()
            )
            require(
                same,
                "order",
                f"{_which(group[i])} to get {then} in any order of {_which_group(group)}",
                found.parts,
                "Compare members with each other, not by their places.",
            )


def _scored_group(group_reward: GroupReward, group: Sequence[Transcript]) -> tuple[Score, ...]:
    """Score a group once, and see what else that did."""
    given, generators = [_copy(episode) for episode in group], _generators()
    try:
        scores = group_reward(given)
    except RewardError as error:
        raise broken(
            "score",
            f"the parts {list(group_reward.parts)} as finite numbers for {_which_group(group)}",
            f"this: {error}",
            "Return every part for every member, of a group of one too; pass protocols= where it "
            "is for some only.",
        ) from error
    for then, now in zip(group, given, strict=True):
        _require_unchanged(then, now)
    _require_no_draws(generators)
    for score in scores:
        _require_parts(group_reward.parts, score)
    return scores


def _which_group(group: Sequence[Transcript]) -> str:
    return f"a group of {len(group)}, the first {_which(group[0])}"


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
    _require_unchanged(episode, given)
    _require_no_draws(generators)
    _require_parts(reward.parts, score)
    return score


def _nothing_to_score(protocols: Sequence[str], what: str) -> ConfigurationError:
    return ConfigurationError(
        f"Expected protocols among {list(PROTOCOLS)}, or {what}, got {list(protocols)} and none. "
        "Pass what the reward is for."
    )


def _require_same(one: tuple[Any, ...], two: tuple[Any, ...], which: str) -> None:
    difference = first_difference(one, two)
    require(
        not difference,
        "pure",
        f"the same score again of {which}",
        difference,
        "Read nothing but the transcript and keep no state.",
    )


def _require_unchanged(episode: Transcript, given: Transcript) -> None:
    require(
        _content(given) == _content(episode),
        "transcript",
        f"{_which(episode)} unchanged",
        "another one",
        "Copy what you change.",
    )


def _require_no_draws(generators: tuple[Any, ...]) -> None:
    require(
        not first_difference(_generators(), generators),
        "random",
        "the global random generators untouched",
        "numbers drawn from them",
        "A reward draws no numbers: seeded runs of others would change.",
    )


def _require_parts(parts: Sequence[str], score: Score) -> None:
    require(
        list(score.parts) == list(parts)
        and all(math.isfinite(part) for part in score.parts.values()),
        "score",
        f"the parts {list(parts)}, all finite",
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


_PICKLE_ADVICE = "Use a function of a module, not a lambda; or pass picklable=False."


def _pickled(reward: _AnyReward, name: str) -> _AnyReward:
    """Return a pickled copy."""
    try:
        copy: _AnyReward = pickle.loads(pickle.dumps(reward))
    except Exception as error:  # pickle promises no type of error
        raise broken(
            "picklable", f"{name!r} to be picklable", repr(error), _PICKLE_ADVICE
        ) from error
    return copy


def _require_alike(scores: tuple[Any, ...], again: tuple[Any, ...]) -> None:
    difference = first_difference(scores, again)
    require(not difference, "picklable", "a copy that scores alike", difference, _PICKLE_ADVICE)


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
