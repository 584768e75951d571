"""From trajectories and examples to tensors, and from numbers of single tokens back to rows.

A token's numbers come from the logits one position earlier: the state in which it was chosen. Only
tokens that count are ever looked at, so whatever stands at others (NaN included) has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from agents.trajectories import Example, Trajectory
from search_env.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a policy thinks of its own tokens, in rows padded on the right with zeros.

    P is the largest number of policy tokens in a row.

    Attributes:
        log_probs: float32 ``(B, P)`` of each policy token, under the learner's sampling.
        entropies: float32 ``(B, P)`` in nats, of the distributions that the tokens are from.
        values: float32 ``(B, P)`` of the states in which they are chosen; None without a critic.
        mask: bool ``(B, P)``: where there is a token.
    """

    log_probs: Tensor
    entropies: Tensor
    values: Tensor | None
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """A sequence and the tokens in it whose log-probabilities are asked for.

    Attributes:
        tokens: int64 ``(T,)``.
        positions: int64 ``(n,)``: their indices, ascending, from 1 (the first has no state before).
        weights: float32 ``(n,)``.
    """

    tokens: Tensor
    positions: Tensor
    weights: Tensor

    def __len__(self) -> int:
        """Return the number of tokens asked for."""
        return len(self.positions)


def policy_targets(trajectory: Trajectory) -> Targets:
    """Return a trajectory with the policy's tokens as targets.

    Raises:
        ConfigurationError: The policy wrote the first token.
    """
    policy = torch.from_numpy(trajectory.policy)
    if len(policy) and policy[0]:
        raise ConfigurationError(
            f"Expected a prompt before the policy's tokens, got none in {trajectory.question_id!r}."
            " Give the protocol a prompt of one token or more."
        )
    positions = policy.nonzero()[:, 0]
    tokens = torch.from_numpy(trajectory.tokens).long()
    return Targets(tokens, positions, torch.ones(len(positions)))


def example_targets(example: Example) -> Targets:
    """Return an example with its weighted tokens as targets; the first is never one."""
    weights = torch.from_numpy(example.weights).float()
    positions = weights[1:].nonzero()[:, 0] + 1
    return Targets(torch.from_numpy(example.tokens).long(), positions, weights[positions])


def even_packs(lengths: Mapping[int, int], limit: int) -> list[list[int]]:
    """Divide sequences among packs of about equal size.

    Longest first, each into the pack that is emptiest, with as few packs as the limit allows.

    Args:
        lengths: Length by index.
        limit: Most tokens of a pack, unless it is one sequence alone.

    Returns:
        Indices of each pack, ascending.

    Example:
        >>> even_packs({0: 3, 1: 5, 2: 4, 3: 2, 5: 20}, limit=8)
        [[5], [1, 3], [0, 2]]
    """
    alone = [[index] for index, length in lengths.items() if length > limit]
    rest = {index: length for index, length in lengths.items() if length <= limit}
    count = -(-sum(rest.values()) // limit)
    while True:
        packs: list[list[int]] = [[] for _ in range(count)]
        sizes = [0] * count
        for index in sorted(rest, key=lambda index: -rest[index]):
            emptiest = sizes.index(min(sizes))
            packs[emptiest].append(index)
            sizes[emptiest] += rest[index]
        if max(sizes, default=0) <= limit:
            return alone + [sorted(pack) for pack in packs]
        count += 1


def padded(numbers: Tensor, counts: Sequence[int]) -> Outputs:
    """Return numbers of single tokens as rows.

    Args:
        numbers: ``(2 or 3, sum of counts)``: log-probabilities, entropies and perhaps values of
            the first row's tokens, then the second's, ...
        counts: Tokens of each row.
    """
    # One more, empty: there may be no row at all.
    parts = [*numbers.mT.split(list(counts)), numbers.mT[:0]]
    rows = pad_sequence(parts, batch_first=True)[:-1].unbind(-1)
    present = torch.arange(rows[0].shape[1]) < torch.tensor(counts)[:, None]
    values = rows[2] if len(rows) > 2 else None
    return Outputs(rows[0], rows[1], values, present.to(numbers.device))
