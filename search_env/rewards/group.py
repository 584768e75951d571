"""Rewards of a group: scores of several episodes of one question, relative to each other.

A :class:`~search_env.rewards.base.Reward` reads one transcript. A :class:`GroupReward` reads those
of a group, so it can reward what only a comparison shows, such as a right answer with the fewest
searches. Both are pure. A group reward is added to a reward and never replaces it: an episode's
score is the sum of both, with the parts of both (:func:`group_scores`).

Groups are complete in rollouts (:func:`search_env.agents.rollouts.collect.collect`), in vector
environments with ``group_size``, and in files of recorded episodes
(:func:`search_env.recording.replay.rescore`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from search_env.errors import ConfigurationError, RewardError
from search_env.registry import Registry
from search_env.rewards.base import ProtocolCheck, Reward, Score, check_parts, checked_score
from search_env.types import Transcript

GroupRewardFunction = Callable[[Sequence[Transcript]], Sequence[Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class GroupReward:
    """A pure function of the finished episodes of one question.

    Episodes in which retrieval failed score 0 without parts; the function sees the valid members
    only, of which there may be just one.

    Attributes:
        name: For reports and, if registered, for ``group_reward=`` wherever groups are complete.
        parts: Names of the parts, in order; the same for every member.
        function: Takes the valid members, at least one, and returns a number for each part of each
            member, in their order. A member's score must not depend on that order. A function
            that can be pickled keeps the objects that hold it picklable.
        check: As of :class:`~search_env.rewards.base.Reward`.

    Example:
        >>> from search_env.testing import sample_episodes
        >>> def fewer_tokens(group):
        ...     least = min(len(member.tokens) for member in group)
        ...     return [{"shortest": float(len(member.tokens) == least)} for member in group]
        >>> shortest = GroupReward("shortest", ("shortest",), fewer_tokens)
        >>> [score.total for score in shortest(sample_episodes()[:2])]
        [0.0, 1.0]
    """

    name: str
    parts: tuple[str, ...]
    function: GroupRewardFunction
    check: ProtocolCheck | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_parts(f"group reward {self.name!r}", self.parts)

    def __call__(self, transcripts: Sequence[Transcript]) -> tuple[Score, ...]:
        """Return the score of each of the transcripts, in their order.

        Raises:
            ConfigurationError: There is no episode, one still runs, or they are of several
                questions.
            RewardError: The function raised, or did not return a finite number for each part of
                each valid member.
        """
        _check_members(transcripts)
        valid = [t for t in transcripts if t.stop_reason is not None and t.stop_reason.valid]
        values = iter(self._values(valid) if valid else ())
        return tuple(
            checked_score(self.name, self.parts, next(values), transcript)
            if transcript.stop_reason is not None and transcript.stop_reason.valid
            else Score(0.0, {})
            for transcript in transcripts
        )

    def _values(self, valid: Sequence[Transcript]) -> Sequence[object]:
        """Return the function's values, one for each valid member."""
        which = f"{len(valid)} episodes of question {valid[0].question.id!r}"
        try:
            values: object = self.function(tuple(valid))
        except Exception as error:
            raise RewardError(
                f"Expected group reward {self.name!r} to score {which}, it raised {error!r}. See "
                "the cause above; no reward was given."
            ) from error
        if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(valid):
            raise RewardError(
                f"Expected group reward {self.name!r} to return a list with a mapping of its parts "
                f"for each of {which}, got {values!r}. Return one for each member, in their order."
            )
        return values


def group_scores(
    group_reward: GroupReward, transcripts: Sequence[Transcript], scores: Sequence[Score]
) -> tuple[Score, ...]:
    """Return the total score of each member of a group: its own and the group reward's.

    Args:
        group_reward: The group reward.
        transcripts: The transcripts of all members.
        scores: The members' own scores; 0 without parts where retrieval failed.

    Returns:
        For each member the sum of the two totals, and the parts of both.

    Raises:
        ConfigurationError: As from :class:`GroupReward`, or both have a part of the same name.
        RewardError: As from :class:`GroupReward`.
    """
    totals = []
    for own, relative in zip(scores, group_reward(transcripts), strict=True):
        _check_distinct_parts(group_reward, own.parts)
        totals.append(Score(own.total + relative.total, {**own.parts, **relative.parts}))
    return tuple(totals)


_GROUP_REWARDS: Registry[GroupReward] = Registry(
    "group_reward", "Register your own with register_group_reward()."
)


def register_group_reward(group_reward: GroupReward, *, replace: bool = False) -> GroupReward:
    """Register a group reward under its name and return it.

    Args:
        group_reward: The group reward.
        replace: Whether it may take the place of one that is registered.

    Raises:
        ConfigurationError: The name is taken and ``replace`` is False.
    """
    _GROUP_REWARDS.add(group_reward.name, group_reward, replace=replace)
    return group_reward


def get_group_reward(name: str | GroupReward, *, beside: Reward | None = None) -> GroupReward:
    """Return a registered group reward; a :class:`GroupReward` is returned as it is.

    Args:
        name: Its name.
        beside: The reward to which it is added, if decided.

    Raises:
        ConfigurationError: No group reward of that name, or ``beside`` has a part of the same name.
    """
    group_reward = name if isinstance(name, GroupReward) else _GROUP_REWARDS[name]
    if beside is not None:
        _check_distinct_parts(group_reward, beside.parts)
    return group_reward


def group_reward_names() -> tuple[str, ...]:
    """Return the names of all registered group rewards, in order of registration."""
    return tuple(_GROUP_REWARDS)


def _check_members(transcripts: Sequence[Transcript]) -> None:
    if not transcripts:
        raise ConfigurationError(
            "Expected a group of at least one episode, got none. Pass all members' transcripts."
        )
    question = transcripts[0].question
    for transcript in transcripts:
        if transcript.question != question:
            raise ConfigurationError(
                f"Expected a group of episodes of one question, got {question.id!r} and "
                f"{transcript.question.id!r} ({question.text!r} and {transcript.question.text!r}). "
                "Pass the episodes of each question separately."
            )
        if transcript.stop_reason is None:
            raise ConfigurationError(
                f"Expected finished episodes, got one of question {question.id!r} that still "
                "runs. Score a group after all its members are terminated or truncated."
            )


def _check_distinct_parts(group_reward: GroupReward, parts: Iterable[str]) -> None:
    shared = sorted(set(group_reward.parts) & set(parts))
    if shared:
        raise ConfigurationError(
            f"Expected group reward {group_reward.name!r} to have other parts than the reward to "
            f"which it is added, got {shared} in both. Rename the reward's with Reward.renamed(), "
            "or the group reward's."
        )
