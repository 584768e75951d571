"""Rewards as pure functions of a transcript: named parts, their sum, and the algebra of both.

A reward scores a transcript part by part, so that a log can show each. Rewards are added and
multiplied by weights as numbers are; nothing is composed by strings. Names exist for the one place
that needs them, the JSON of an ``EnvSpec``.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from search_env.errors import ConfigurationError, RewardError
from search_env.registry import Registry
from search_env.types import Markup, Transcript
from search_env.validation import check_choice, is_real

RewardFunction = Callable[[Transcript], Mapping[str, float]]
ProtocolCheck = Callable[[str, Markup], None]


class Score(NamedTuple):
    """An episode's score: the parts and their sum."""

    total: float
    parts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Reward:
    """A pure function of a finished episode's transcript.

    Attributes:
        name: For reports and, if registered, for ``reward=`` of the environments.
        parts: Names of the parts, in order; the same for every episode.
        function: Returns a number for each part. A function that can be pickled keeps the
            environment picklable.
        check: Called with the name and the markup of a protocol before any episode of it; raises a
            ConfigurationError if the function cannot read them. None: it reads any protocol.

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
    check: ProtocolCheck | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_parts(f"reward {self.name!r}", self.parts)

    def __call__(self, transcript: Transcript) -> Score:
        """Return the episode's score.

        Raises:
            RewardError: The function raised, or did not return a finite number for each part.
        """
        try:
            values = self.function(transcript)
        except Exception as error:
            raise RewardError(
                f"Expected reward {self.name!r} to score {_which(transcript)}, it raised "
                f"{error!r}. See the cause above; no reward was given."
            ) from error
        return checked_score(self.name, self.parts, values, transcript)

    def __add__(self, other: Reward) -> Reward:
        if not isinstance(other, Reward):
            return NotImplemented
        total = _Sum(self.function, other.function)
        checks = tuple(check for check in (self.check, other.check) if check is not None)
        check = _Checks(checks) if len(checks) == 2 else next(iter(checks), None)
        return Reward(f"{self.name} + {other.name}", self.parts + other.parts, total, check=check)

    def __mul__(self, weight: float) -> Reward:
        """Return the reward with every part multiplied by a finite weight."""
        is_number = isinstance(weight, numbers.Real)
        if not is_number or weight is True or weight is False:
            return NotImplemented
        if not is_real(weight):
            raise ConfigurationError(
                f"Expected a finite weight for reward {self.name!r}, got {weight!r}. Multiply by "
                "a number."
            )
        name = f"({self.name})" if " " in self.name else self.name
        weight = float(weight)
        function = _Weighted(self.function, weight)
        return Reward(f"{weight:g}*{name}", self.parts, function, check=self.check)

    __rmul__ = __mul__

    def __neg__(self) -> Reward:
        return self * -1.0

    def __sub__(self, other: Reward) -> Reward:
        return self + -other if isinstance(other, Reward) else NotImplemented

    def renamed(self, name: str, **parts: str) -> Reward:
        """Return the same reward under another name, with new names of parts by their old ones.

        Raises:
            ConfigurationError: Unknown part, or two parts of the same name.

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
        return Reward(name, new, _Renamed(self.function, parts), check=self.check)


def check_parts(reward: str, parts: tuple[str, ...]) -> None:
    """Check that a reward, described for the error, has parts, all of different names."""
    if not parts or len(set(parts)) != len(parts):
        raise ConfigurationError(
            f"Expected {reward} to have parts with unique names, got {parts}. Name each part once; "
            "Reward.renamed() renames one."
        )


def checked_score(
    name: str, parts: tuple[str, ...], values: object, transcript: Transcript
) -> Score:
    """Return what the function of a reward returned, a finite number for each part, as a score.

    ``name`` and ``transcript`` are for errors.
    """
    if not isinstance(values, Mapping):
        raise RewardError(
            f"Expected reward {name!r} to return a mapping of its parts {list(parts)}, got "
            f"{values!r} for {_which(transcript)}. Return a dictionary."
        )
    if tuple(values) != parts and values.keys() != set(parts):
        raise RewardError(
            f"Expected reward {name!r} to return the parts {list(parts)}, got {list(values)} for "
            f"{_which(transcript)}. Return exactly the parts it declares."
        )
    numbers = {part: values[part] for part in parts}  # a copy: the function may reuse its mapping
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
class _Checks:
    checks: tuple[ProtocolCheck, ...]

    def __call__(self, protocol: str, markup: Markup) -> None:
        for check in self.checks:
            check(protocol, markup)


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
    """Register a reward under its name and return it.

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
