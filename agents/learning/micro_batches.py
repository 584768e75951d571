"""From trajectories and examples to tensors, and from outputs per token back to padded rows.

A token's outputs come from the logits one position earlier: the state in which it was chosen. Only
targets are read, so values at other tokens (NaN included) have no effect.

Shapes, here and in the comment at each tensor:

* B: rows (sequences), P: targets of the row with most of them.
* T: tokens of a sequence up to its last target.
* N: targets of all sequences together; V: vocabulary; H: hidden size.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from search_env.agents.inference.sampling import Sampling
from search_env.agents.learning.packing import Packed, common_prefix, in_chunks, packed_forward
from search_env.agents.types import Example, Trajectory
from search_env.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Outputs:
    """A model's outputs at policy tokens, in rows padded on the right with zeros.

    Attributes:
        log_probs: float32 ``(B, P)``: log-probability of each token, under the learner's sampling.
        entropies: float32 ``(B, P)``: entropy, in nats, of the distribution of each token.
        values: float32 ``(B, P)``: value of the state before each token; None without a critic.
        mask: bool ``(B, P)``: True at tokens, False at padding.
    """

    log_probs: Tensor
    entropies: Tensor
    values: Tensor | None
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """A sequence and its targets, the n tokens to score."""

    tokens: Tensor  # int64 (T,), up to the last target: what follows has no effect
    positions: Tensor  # int64 (n,): the targets, ascending, from 1 (no state precedes token 0)
    weights: Tensor  # float32 (n,), of the targets

    @property
    def inputs(self) -> Tensor:
        """The model's input, int64 ``(T - 1,)``: all tokens but the last."""
        return self.tokens[:-1]

    def __len__(self) -> int:
        """Return the number of targets."""
        return len(self.positions)


def policy_targets(trajectory: Trajectory) -> Targets:
    """Return a trajectory with the policy's tokens as targets; the first must not be one."""
    if trajectory.policy[:1].any():
        raise ConfigurationError(
            f"Expected a prompt before the policy's tokens, got none in {trajectory.question_id!r}."
            " Use a protocol with a prompt of at least one token."
        )
    return example_targets(trajectory.example())


def example_targets(example: Example) -> Targets:
    """Return an example with its weighted tokens as targets; the first is never one."""
    weights = torch.from_numpy(example.weights).float()  # (tokens of the example,)
    positions = weights[1:].nonzero()[:, 0] + 1  # (n,)
    end = int(positions[-1]) + 1 if len(positions) else 0
    return Targets(torch.from_numpy(example.tokens)[:end].long(), positions, weights[positions])


def packed_targets(model: PreTrainedModel, rows: Sequence[Targets]) -> Packed:
    """Return logits ``(N, V)`` and hidden states ``(N, H)`` of all targets."""
    starts = torch.tensor([0, *(len(row.inputs) for row in rows)]).cumsum(0)  # (B + 1,)
    keep = [row.positions - 1 + start for row, start in zip(rows, starts, strict=False)]
    return packed_forward(model, [row.inputs for row in rows], torch.cat(keep))


def target_logits(model: PreTrainedModel, rows: Sequence[Targets]) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits ``(N, V)``, ids ``(N,)`` and hidden states ``(N, H)`` of all targets."""
    logits, hidden = packed_targets(model, rows)
    ids = torch.cat([row.tokens[row.positions] for row in rows])  # (N,)
    return logits, ids.to(logits.device), hidden


def log_probs_and_entropies(sampling: Sampling, logits: Tensor, ids: Tensor) -> Tensor:
    """Return log-probabilities of ids ``(n,)`` and entropies, ``(2, n)``, of logits ``(n, V)``."""
    log_probs = sampling.log_probs(logits)  # (n, V)
    # An id with probability 0 adds 0 to the entropy, not 0 times infinity.
    terms = log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0.0)  # (n, V)
    return torch.stack([sampling.log_prob_of(logits, ids), -terms.sum(-1)])


def target_outputs(
    model: PreTrainedModel, rows: Sequence[Targets], sampling: Sampling, critic: nn.Linear | None
) -> Tensor:
    """Return log-probabilities, entropies and, with a critic, values, float32 ``(2 or 3, N)``."""
    logits, ids, hidden = target_logits(model, rows)
    outputs = in_chunks(partial(log_probs_and_entropies, sampling), logits, ids)  # (2, N)
    if critic is None:
        return outputs
    return torch.cat([outputs, critic(hidden.float()).mT])


def packs(batch: Sequence[Targets], limit: int) -> list[list[int]]:
    """Divide sequences into micro-batches.

    Sequences with a common prefix become neighbours, and a prefix shared with the sequence before
    counts once. The packs, indices of sequences, are as few as that order allows, and of about
    equal size: at most ``limit`` input tokens, or a single longer sequence. Sequences without
    targets are in no pack.
    """
    inputs = {index: row.inputs for index, row in enumerate(batch) if len(row)}
    order = sorted(inputs, key=lambda index: inputs[index].numpy().tobytes())
    previous = [inputs[index] for index in order[:1] + order[:-1]]
    new_tokens = [
        len(inputs[index]) - common_prefix(before, inputs[index])
        for index, before in zip(order, previous, strict=True)
    ]

    def fill(size: int) -> list[list[int]]:
        filled: list[list[int]] = []
        room = 0
        for index, tokens in zip(order, new_tokens, strict=True):
            if not filled or tokens > room:
                filled.append([])
                room, tokens = size, len(inputs[index])
            filled[-1].append(index)
            room -= tokens
        return filled

    fewest = len(fill(limit))
    sizes = range(1, limit + 1)
    return fill(sizes[bisect.bisect_left(sizes, True, key=lambda size: len(fill(size)) <= fewest)])


def padded(outputs: Tensor, counts: Sequence[int]) -> Outputs:
    """Return outputs ``(2 or 3, N)`` as padded rows; ``counts`` is the targets of each row."""
    # One more, empty: there may be no row at all.
    parts = [*torch.split(outputs.mT, list(counts)), outputs.mT[:0]]
    rows = pad_sequence(parts, batch_first=True)[:-1].unbind(-1)  # (B, P), 2 or 3 of them
    mask = torch.arange(rows[0].shape[1]) < torch.tensor(counts)[:, None]  # (B, P)
    return Outputs(rows[0], rows[1], rows[2] if len(rows) > 2 else None, mask.to(outputs.device))
