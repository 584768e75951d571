"""Rewards as pure functions of a transcript: named parts, their sum, and the algebra of both.

A reward reads what an episode left behind and says what it is worth, part by part, so that a log
can show each. Rewards add up and take weights as numbers do; nothing is composed by strings. Names
exist for the one place that needs them, the JSON of an ``EnvSpec``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from search_env.errors import ConfigurationError, RewardError
from search_env.registry import Registry
from search_env.types import Transcript
from search_env.validation import check_choice

RewardFunction = Callable[[Transcript], Mapping[str, float]]


class Score(NamedTuple):
    """What an episode is worth: the sum, and the parts that it is the sum of."""

    total: float
    parts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Reward:
    """A pure function of a finished episode's transcript.

    Attributes:
        name: For reports and, once registered, for ``reward=`` of the environments.
        parts: Names of the parts, in order; the same for every episode.
        function: Returns a number for each part. A function that can be pickled keeps the
            environment picklable.

    Example:
        >>> from search_env.rewards import F1, search_cost
        >>> frugal = F1 + 0.5 * search_cost(0.1)
        >>> frugal.parts
        ('f1', 'search_cost')
        >>> frugal.name
        'f1 + 0.5*search-cost'
    """

    name: str
    parts: tuple[str, ...]
    function: RewardFunction

    def __post_init__(self) -> None:
        if not self.parts or len(set(self.parts)) != len(self.parts):
            raise ConfigurationError(
                f"Expected reward {self.name!r} to have parts with names of their own, got "
                f"{self.parts}. Rename one with Reward.renamed()."
            )

    def __call__(self, transcript: Transcript) -> Score:
        """Return the episode's score.

        Raises:
            RewardError: The function raised, left out a part, or gave something that is no finite
                number.
        """
        try:
            found = self.function(transcript)
        except Exception as error:
            raise RewardError(
                f"Expected reward {self.name!r} to score {_which(transcript)}, it raised "
                f"{error!r}. See the cause above; nothing was paid."
            ) from error
        return checked_score(self.name, self.parts, found, transcript)

    def __add__(self, other: Reward) -> Reward:
        """Return the reward that pays the parts of both."""
        if not isinstance(other, Reward):
            return NotImplemented
        joined = _Sum(self.function, other.function)
        return Reward(f"{self.name} + {other.name}", self.parts + other.parts, joined)

    def __mul__(self, weight: float) -> Reward:
        """Return the reward that pays every part ``weight`` times.

        Raises:
            ConfigurationError: The weight is not finite.
        """
        if not isinstance(weight, int | float):
            return NotImplemented
        if not math.isfinite(weight):
            raise ConfigurationError(
                f"Expected a finite weight for reward {self.name!r}, got {weight!r}. Multiply by "
                "a number."
            )
        name = f"({self.name})" if " " in self.name else self.name
        return Reward(f"{weight:g}*{name}", self.parts, _Weighted(self.function, weight))

    __rmul__ = __mul__

    def __neg__(self) -> Reward:
        """Return the reward that takes what this one gives."""
        return self * -1.0

    def __sub__(self, other: Reward) -> Reward:
        """Return this reward with the other's parts taken instead of given."""
        return self + -other if isinstance(other, Reward) else NotImplemented

    def renamed(self, name: str, **parts: str) -> Reward:
        """Return the same reward under another name.

        Args:
            name: The new name.
            **parts: New names of parts, by old name.

        Raises:
            ConfigurationError: There is no such part.

        Example:
            >>> from search_env.rewards import F1
            >>> F1.renamed("answer-only", f1="answer").parts
            ('answer',)
        """
        for part in parts:
            check_choice("parts", part, self.parts)
        if not parts:
            return dataclasses.replace(self, name=name)
        new = tuple(parts.get(part, part) for part in self.parts)
        return Reward(name, new, _Renamed(self.function, parts))


def checked_score(
    name: str, parts: tuple[str, ...], found: object, transcript: Transcript
) -> Score:
    """Return what a reward's function found as a score.

    Args:
        name: Of the reward, for errors.
        parts: What it must hold, in order.
        found: What the function returned.
        transcript: Of the episode, for errors.

    Raises:
        RewardError: It is no mapping of exactly these parts to finite numbers.
    """
    if not isinstance(found, Mapping):
        raise RewardError(
            f"Expected reward {name!r} to give a mapping of its parts {list(parts)}, got "
            f"{found!r} for {_which(transcript)}. Return a dictionary."
        )
    if tuple(found) != parts and found.keys() != set(parts):
        raise RewardError(
            f"Expected reward {name!r} to give the parts {list(parts)}, got {list(found)} for "
            f"{_which(transcript)}. Return exactly the parts it names."
        )
    numbers = {part: found[part] for part in parts}  # the function may keep its own
    for part, value in numbers.items():
        if type(value) is not float or not math.isfinite(value):
            numbers[part] = _number(name, part, value, transcript)
    return Score(sum(numbers.values()), numbers)


def _number(name: str, part: str, value: object, transcript: Transcript) -> float:
    try:
        number = math.nan if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RewardError(
            f"Expected part {part!r} of reward {name!r} to be a finite number, got "
            f"{value!r} for {_which(transcript)}. Return a number for every episode."
        )
    return number


# Classes, not closures: rewards must survive pickling into worker processes.


@dataclass(frozen=True, slots=True)
class _Sum:
    first: RewardFunction
    second: RewardFunction

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        return {**self.first(transcript), **self.second(transcript)}


@dataclass(frozen=True, slots=True)
class _Weighted:
    inner: RewardFunction
    weight: float

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        return {part: self.weight * value for part, value in self.inner(transcript).items()}


@dataclass(frozen=True, slots=True)
class _Renamed:
    inner: RewardFunction
    names: dict[str, str]

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        return {self.names.get(part, part): v for part, v in self.inner(transcript).items()}


_REWARDS: Registry[Reward] = Registry("reward", "Register your own with register_reward().")


def register_reward(reward: Reward, *, replace: bool = False) -> Reward:
    """Make a reward known by its name and return it.

    Args:
        reward: The reward.
        replace: Whether it may take the place of one that is registered.

    Raises:
        ConfigurationError: The name is taken and ``replace`` is False.
    """
    _REWARDS.add(reward.name, reward, replace=replace)
    return reward


def get_reward(name: str | Reward) -> Reward:
    """Return a registered reward; a :class:`Reward` is returned as it is.

    Raises:
        ConfigurationError: No reward of that name.

    Example:
        >>> from search_env.rewards import get_reward
        >>> get_reward("f1").parts
        ('f1',)
    """
    return name if isinstance(name, Reward) else _REWARDS[name]


def reward_names() -> tuple[str, ...]:
    """Return the names of all registered rewards, in order of registration."""
    return tuple(_REWARDS)


def _which(transcript: Transcript) -> str:
    return f"the episode of question {transcript.question.id!r}"
