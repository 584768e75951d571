"""Trajectories, which rollouts pass to the learner, and examples for supervised training.

Ids are the sampled and inserted ones, never re-encoded text. Per-token arrays share the index of
``tokens``. Shapes: T tokens of an episode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from search_env.types import Source, StopReason

__all__ = ["Trajectory", "learnable"]


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens to imitate, int32 ``(T,)``, and weights of their log-probabilities, float32 ``(T,)``.

    Context tokens have weight 0; the first token is never predicted.
    """

    tokens: NDArray[np.int32]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished episode.

    Attributes:
        group: Number of its prompt group, unique within one collection.
        member: Number of the episode in its group, from 0.
        tokens: int32 ``(T,)``, prompt included.
        sources: int8 ``(T,)`` of :class:`~search_env.types.Source`.
        log_probs: float32 ``(T,)``: log-probability of each token under the distribution it was
            drawn from; NaN at tokens that are not the policy's.
        values: float32 ``(T,)``: the critic's value of the state before each token; NaN at tokens
            that are not the policy's, None without a critic.
        reward: Total reward: the environment's, and the group reward where there is one.
        reward_parts: Parts of the reward by name.
        valid: False if retrieval failed; such an episode is never learnt from.
        well_formed: Whether the format was kept.
        scores: ``exact_match``, ``f1``, ``cover_exact_match`` of the answer.
        hops: Single-hop steps of the question, 0 if unknown.
        kind: The dataset's question type.
        dataset: Name of the set that the question is from.
        version: Version of the engine's weights at the beginning: number of updates before it.
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
    member: int = 0
    queries: tuple[str, ...] = field(default=())
    dataset: str = ""

    @property
    def policy(self) -> NDArray[np.bool_]:
        """Return bool ``(T,)``: True at the policy's tokens."""
        return np.equal(self.sources, Source.POLICY)

    @property
    def num_policy_tokens(self) -> int:
        """Number of the policy's tokens."""
        return int(np.count_nonzero(self.policy))

    @property
    def truncated(self) -> bool:
        """Whether a budget ended the episode."""
        return self.valid and not self.stop_reason.terminated

    def example(self) -> Example:
        """Return an example to imitate: weight 1 at the policy's tokens, 0 at all others."""
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
        trajectories: Trajectories of whole groups.
        at_least: Minimum number of valid members of a group; 2 for estimators that compare them.
    """
    valid = by_group(trajectory for trajectory in trajectories if trajectory.valid)
    return [member for members in valid.values() if len(members) >= at_least for member in members]
