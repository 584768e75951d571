"""From trajectories and examples to tensors, and from numbers of single tokens back to rows.

A token's numbers come from the logits one position earlier: the state in which it was chosen. Only
tokens that count are ever looked at, so whatever stands at others (NaN included) has no effect.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from search_env.agents.learning.packing import common_prefix
from search_env.agents.types import Example, Trajectory
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
        tokens: int64 ``(T,)``, up to the last of these: what follows plays no part.
        positions: int64 ``(n,)``: their indices, ascending, from 1 (the first has no state before).
        weights: float32 ``(n,)``.
    """

    tokens: Tensor
    positions: Tensor
    weights: Tensor

    @property
    def inputs(self) -> Tensor:
        """What a model has to read: all tokens but the last."""
        return self.tokens[:-1]

    def __len__(self) -> int:
        """Return the number of tokens asked for."""
        return len(self.positions)


def policy_targets(trajectory: Trajectory) -> Targets:
    """Return a trajectory with the policy's tokens as targets.

    Raises:
        ConfigurationError: The policy wrote the first token.
    """
    if trajectory.policy[:1].any():
        raise ConfigurationError(
            f"Expected a prompt before the policy's tokens, got none in {trajectory.question_id!r}."
            " Give the protocol a prompt of one token or more."
        )
    return example_targets(trajectory.example())


def example_targets(example: Example) -> Targets:
    """Return an example with its weighted tokens as targets; the first is never one."""
    weights = torch.from_numpy(example.weights).float()
    positions = weights[1:].nonzero()[:, 0] + 1
    end = int(positions[-1]) + 1 if len(positions) else 0
    return Targets(torch.from_numpy(example.tokens)[:end].long(), positions, weights[positions])


def packs(batch: Sequence[Targets], limit: int) -> list[list[int]]:
    """Divide sequences into micro-batches.

    Sequences that begin alike become neighbours, and what a sequence has in common with the one
    before it counts once. There are as few packs as that order allows, of about equal size.

    Args:
        batch: The sequences; those without targets are in no pack.
        limit: Most tokens to read in a pack, unless it is a single sequence.

    Returns:
        Indices of each pack's sequences, in order.
    """
    inputs = {index: row.inputs for index, row in enumerate(batch) if len(row)}
    order = sorted(inputs, key=lambda index: inputs[index].numpy().tobytes())
    before = [inputs[index] for index in order[:1] + order[:-1]]
    new = [
        len(inputs[index]) - common_prefix(left, inputs[index])
        for index, left in zip(order, before, strict=True)
    ]

    def fill(size: int) -> list[list[int]]:
        filled: list[list[int]] = []
        left = 0
        for index, tokens in zip(order, new, strict=True):
            if not filled or tokens > left:
                filled.append([])
                left, tokens = size, len(inputs[index])
            filled[-1].append(index)
            left -= tokens
        return filled

    fewest = len(fill(limit))
    sizes = range(1, limit + 1)
    return fill(sizes[bisect.bisect_left(sizes, True, key=lambda size: len(fill(size)) <= fewest)])


def padded(numbers: Tensor, counts: Sequence[int]) -> Outputs:
    """Return numbers of single tokens as rows.

    Args:
        numbers: ``(2 or 3, sum of counts)``: log-probabilities, entropies and perhaps values of
            the first row's tokens, then the second's, ...
        counts: Tokens of each row.
    """
    # One more, empty: there may be no row at all.
    parts = [*torch.split(numbers.mT, list(counts)), numbers.mT[:0]]
    rows = pad_sequence(parts, batch_first=True)[:-1].unbind(-1)
    present = torch.arange(rows[0].shape[1]) < torch.tensor(counts)[:, None]
    values = rows[2] if len(rows) > 2 else None
    return Outputs(rows[0], rows[1], values, present.to(numbers.device))
