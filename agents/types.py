"""What rollouts hand to the learner, and what supervised steps train on.

Ids are those that were sampled and inserted, never re-encoded text. Everything that belongs to one
token stands at that token's index.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from search_env.types import Source, StopReason


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens to imitate.

    Attributes:
        tokens: int32 ``(T,)``.
        weights: float32 ``(T,)``: how much the log-probability of each token counts; 0 for tokens
            that are only read. The first token is never predicted.
    """

    tokens: NDArray[np.int32]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished episode.

    Attributes:
        question_id: Which question.
        group: Number of the prompt group that it belongs to, unique within one collection.
        tokens: int32 ``(T,)``, prompt included.
        sources: int8 ``(T,)`` of :class:`~search_env.types.Source`.
        log_probs: float32 ``(T,)`` of the distribution each token was drawn from; NaN where the
            policy did not write.
        values: float32 ``(T,)``: the critic's value of the state in which each token was chosen;
            NaN where the policy did not write, None without a critic.
        reward: What it is worth in total: what the environment paid and, where there is one, the
            group reward.
        reward_parts: The same by part.
        stop_reason: How it ended.
        valid: False where retrieval failed; such an episode is never learnt from.
        well_formed: Whether the format was kept.
        answer: What was answered, None where nothing was.
        scores: ``exact_match``, ``f1``, ``cover_exact_match`` of the answer.
        num_searches: Searches that were run.
        hops: Known single-hop steps of the question, 0 where unknown.
        kind: The dataset's question type.
        version: Of the engine's weights when it began: how many updates were behind them.
    """

    question_id: str
    group: int
    tokens: NDArray[np.int32]
    sources: NDArray[np.int8]
    log_probs: NDArray[np.float32]
    values: NDArray[np.float32] | None
    reward: float
    reward_parts: dict[str, float]
    stop_reason: StopReason
    valid: bool
    well_formed: bool
    answer: str | None
    scores: dict[str, float]
    num_searches: int
    hops: int
    kind: str
    version: int = 0
    queries: tuple[str, ...] = field(default=())

    @property
    def policy(self) -> NDArray[np.bool_]:
        """Return bool ``(T,)``: which tokens the policy wrote."""
        mask: NDArray[np.bool_] = self.sources == Source.POLICY
        return mask

    @property
    def num_policy_tokens(self) -> int:
        """How many tokens the policy wrote."""
        return int(np.count_nonzero(self.policy))

    @property
    def truncated(self) -> bool:
        """Whether a budget ended it."""
        return self.valid and not self.stop_reason.terminated

    def example(self) -> Example:
        """Return it as something to imitate: the policy's tokens count, all others are read."""
        return Example(self.tokens, self.policy.astype(np.float32))


def by_group(trajectories: Iterable[Trajectory]) -> dict[int, list[Trajectory]]:
    """Return the trajectories of each group, groups and members in order of appearance."""
    groups: dict[int, list[Trajectory]] = {}
    for trajectory in trajectories:
        groups.setdefault(trajectory.group, []).append(trajectory)
    return groups


def learnable(trajectories: Iterable[Trajectory], at_least: int = 2) -> list[Trajectory]:
    """Return the valid trajectories of groups that have enough of them.

    Args:
        trajectories: Of whole groups.
        at_least: Groups with fewer valid members are left out; 2 for estimators that compare
            members with each other.
    """
    valid = by_group(trajectory for trajectory in trajectories if trajectory.valid)
    return [member for members in valid.values() if len(members) >= at_least for member in members]
