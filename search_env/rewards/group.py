"""Rewards of a group: what each of several episodes of one question is worth beside the others.

A :class:`~search_env.rewards.base.Reward` sees one transcript. A :class:`GroupReward` sees those of
a whole group, so it can pay what only a comparison shows, such as a right answer with the fewest
searches. Both are pure. A group reward is paid beside a reward, never instead of it: an episode is
worth the sum of both, their parts side by side (:func:`group_scores`).

Groups are complete in rollouts (:func:`search_env.agents.rollouts.collect.collect`), in vector
environments with ``group_size``, and in files of recorded episodes
(:func:`search_env.recording.replay.rescore`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from search_env.errors import ConfigurationError, RewardError
from search_env.registry import Registry
from search_env.rewards.base import Reward, Score, checked_score
from search_env.types import Transcript

GroupRewardFunction = Callable[[Sequence[Transcript]], Sequence[Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class GroupReward:
    """A pure function of the finished episodes of one question.

    Episodes in which retrieval failed say nothing about the policy. They are left out before the
    function is called, so it compares valid members only, and score 0 without parts. A group may
    have one (valid) member; what that one is worth is the function's to say.

    Attributes:
        name: For reports and, once registered, for ``group_reward=`` wherever groups are complete.
        parts: Names of the parts, in order; the same for every member.
        function: Given the valid members, at least one, returns a number for each part of each
            member, in their order. What a member gets must not depend on that order. A function
            that can be pickled keeps what holds it picklable.

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

    def __post_init__(self) -> None:
        if not self.parts or len(set(self.parts)) != len(self.parts):
            raise ConfigurationError(
                f"Expected group reward {self.name!r} to have parts with names of their own, got "
                f"{self.parts}. Name each part once."
            )

    def __call__(self, transcripts: Sequence[Transcript]) -> tuple[Score, ...]:
        """Return each member's score, in the order of the members.

        Args:
            transcripts: Finished episodes of one question, at least one.

        Raises:
            ConfigurationError: There is no episode, one still runs, or they are of several
                questions.
            RewardError: The function raised, or did not give every part of every valid member as
                a finite number.
        """
        _check_members(transcripts)
        valid = [t for t in transcripts if t.stop_reason is not None and t.stop_reason.valid]
        found = iter(self._found(valid) if valid else ())
        return tuple(
            checked_score(self.name, self.parts, next(found), transcript)
            if transcript.stop_reason is not None and transcript.stop_reason.valid
            else Score(0.0, {})
            for transcript in transcripts
        )

    def _found(self, valid: Sequence[Transcript]) -> Sequence[object]:
        """Return what the function makes of the valid members, one thing for each."""
        which = f"{len(valid)} episodes of question {valid[0].question.id!r}"
        try:
            found: object = self.function(tuple(valid))
        except Exception as error:
            raise RewardError(
                f"Expected group reward {self.name!r} to score {which}, it raised {error!r}. See "
                "the cause above; nothing was paid."
            ) from error
        if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != len(valid):
            raise RewardError(
                f"Expected group reward {self.name!r} to give a list with a mapping of its parts "
                f"for each of {which}, got {found!r}. Return one for each member, in their order."
            )
        return found


def group_scores(
    group_reward: GroupReward, transcripts: Sequence[Transcript], scores: Sequence[Score]
) -> tuple[Score, ...]:
    """Return what each member of a group is worth in all: its own score and the group's.

    Args:
        group_reward: What is paid beside.
        transcripts: Of all members.
        scores: What each is worth by itself; 0 without parts where retrieval failed.

    Returns:
        For each member the sum of the two totals, and the parts of both.

    Raises:
        ConfigurationError: As from :class:`GroupReward`, or both have a part of the same name.
        RewardError: As from :class:`GroupReward`.
    """
    joined = []
    for score, beside in zip(scores, group_reward(transcripts), strict=True):
        _refuse_shared(group_reward, score.parts)
        joined.append(Score(score.total + beside.total, {**score.parts, **beside.parts}))
    return tuple(joined)


_GROUP_REWARDS: Registry[GroupReward] = Registry(
    "group_reward", "Register your own with register_group_reward()."
)


def register_group_reward(group_reward: GroupReward, *, replace: bool = False) -> GroupReward:
    """Make a group reward known by its name and return it.

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
        beside: The reward that is paid too, if it is known yet.

    Raises:
        ConfigurationError: No group reward of that name, or ``beside`` has a part that it has.
    """
    group_reward = name if isinstance(name, GroupReward) else _GROUP_REWARDS[name]
    if beside is not None:
        _refuse_shared(group_reward, beside.parts)
    return group_reward


def group_reward_names() -> tuple[str, ...]:
    """Return the names of all registered group rewards, in order of registration."""
    return tuple(_GROUP_REWARDS)


def _check_members(transcripts: Sequence[Transcript]) -> None:
    """Refuse what is no complete group of one question."""
    if not transcripts:
        raise ConfigurationError(
            "Expected a group of at least one episode, got none. Pass the transcripts of all "
            "members."
        )
    question = transcripts[0].question
    for transcript in transcripts:
        if transcript.question != question:
            raise ConfigurationError(
                f"Expected a group of episodes of one question, got {question.id!r} and "
                f"{transcript.question.id!r} ({question.text!r} and {transcript.question.text!r}). "
                "Pass the episodes of each question by themselves."
            )
        if transcript.stop_reason is None:
            raise ConfigurationError(
                f"Expected finished episodes, got one of question {question.id!r} that still "
                "runs. Score a group once all its members are terminated or truncated."
            )


def _refuse_shared(group_reward: GroupReward, parts: Iterable[str]) -> None:
    """Refuse parts that could not stand beside the group's."""
    shared = sorted(set(group_reward.parts) & set(parts))
    if shared:
        raise ConfigurationError(
            f"Expected group reward {group_reward.name!r} to have other parts than the reward that "
            f"is paid beside it, got {shared} in both. Rename the reward's with Reward.renamed(), "
            "or the group reward's."
        )
