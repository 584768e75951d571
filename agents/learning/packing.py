"""Several sequences in one row, without padding: the forward pass of the learner.

An attention function named ``"packed"`` is registered through transformers' own interfaces, so the
code of the models stays as it is. Where the sequences lie travels as ``cu_seq_lens_q`` and its
kin, standard arguments that models hand on to their attention. No token sees another sequence, and
positions start anew with each.

What a sequence has in common with the one before it from the start on (the prompt within a group,
the same first query and its documents) is computed once: its states are the same. A segment of the
row is then what is new in a sequence, and it attends to the keys of the whole sequence, wherever
they lie. Gradients of the common part add up by themselves.

Only attention may mix positions: a model that does it in another way (state spaces, convolutions)
is refused, and so is attention with terms not computed here (softcap, sinks, position bias).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from search_env.agents.errors import ModelMismatchError
from search_env.agents.learning.varlen_attention import attend

_LOGITS_AT_ONCE = 2**24  # numbers; where there are more, they are computed again in the backward

PACKED = "packed"
"""Name of the attention function."""

_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
# What some models hand to their attention and what changes its result.
_NOT_COMPUTED = ("softcap", "s_aux", "position_bias")


class Packed(NamedTuple):
    """What a packed pass gives at the kept positions.

    Attributes:
        logits: ``(n, V)`` in the model's type.
        hidden: ``(n, H)``: the states that the logits are a linear map of.
    """

    logits: Tensor
    hidden: Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """How sequences lie in a row, each behind what it has in common with the one before.

    Attributes:
        ids: int64 ``(N,)``: the new tokens of each sequence in turn.
        positions: int64 ``(N,)``: their positions in their sequences.
        index: int64 ``(M,)``: where in the row each token of the concatenated sequences is.
        new: int64 ``(S,)``: number of new tokens of each sequence.
        lengths: int64 ``(S,)``: number of tokens of each.
    """

    ids: Tensor
    positions: Tensor
    index: Tensor
    new: Tensor
    lengths: Tensor


def common_prefix(left: Tensor, right: Tensor) -> int:
    """Return how many tokens two sequences have in common from the start on.

    Example:
        >>> common_prefix(torch.tensor([5, 6, 7]), torch.tensor([5, 6, 8, 9]))
        2
    """
    shorter = min(len(left), len(right))
    same = left[:shorter] == right[:shorter]
    return int(same.long().cumprod(0).sum())


def lay_out(sequences: Sequence[Tensor]) -> Row:
    """Return the row of sequences; those with a common beginning should be neighbours.

    Example:
        >>> row = lay_out([torch.tensor([5, 6, 7]), torch.tensor([5, 6, 8, 9])])
        >>> row.ids.tolist(), row.positions.tolist(), row.index.tolist()
        ([5, 6, 7, 8, 9], [0, 1, 2, 2, 3], [0, 1, 2, 0, 1, 3, 4])
    """
    ids, positions, index = [], [], [torch.empty(0, dtype=torch.long)]
    size = 0
    for before, sequence in itertools.pairwise([sequences[0][:0], *sequences]):
        common = common_prefix(before, sequence)
        ids.append(sequence[common:])
        positions.append(torch.arange(common, len(sequence)))
        index.append(torch.cat([index[-1][:common], positions[-1] + size - common]))
        size += len(sequence) - common
    new, lengths = (torch.tensor([len(part) for part in parts]) for parts in (ids, index[1:]))
    return Row(torch.cat(ids), torch.cat(positions), torch.cat(index), new, lengths)


def packed_forward(model: PreTrainedModel, sequences: Sequence[Tensor], keep: Tensor) -> Packed:
    """Run sequences through a model side by side.

    Args:
        model: A causal language model, or one with adapters of peft.
        sequences: int64 ``(T_i,)`` each, one or more; neighbours share a common beginning.
        keep: int64 ``(n,)``: positions in the concatenated sequences to compute logits at.

    Returns:
        Logits and states at ``keep``, in its order.

    Raises:
        ModelMismatchError: The model cannot run packed sequences.
    """
    row, device = lay_out(sequences), model.device
    shared = len(row.index) > len(row.ids)
    states: list[Tensor] = []
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    hook = head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    try:
        with packed_attention(model):
            output = model(
                input_ids=row.ids[None].to(device),
                position_ids=row.positions[None].to(device),
                logits_to_keep=row.index[keep].to(device),
                use_cache=False,
                cu_seq_lens_q=pad(row.new.cumsum(0), (1, 0)).int().to(device),
                cu_seq_lens_k=pad(row.lengths.cumsum(0), (1, 0)).int().to(device),
                max_length_q=int(row.new.max()),
                max_length_k=int(row.lengths.max()),
                key_index=row.index.to(device) if shared else None,
            )
    finally:
        hook.remove()
    return Packed(output.logits[0], states[-1][0])


def packed_logits(model: PreTrainedModel, sequences: Sequence[Tensor], keep: Tensor) -> Tensor:
    """Return the logits of :func:`packed_forward`."""
    return packed_forward(model, sequences, keep).logits


def in_chunks(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, ids: Tensor) -> Tensor:
    """Apply a function of logits ``(n, V)`` and ids ``(n,)``, a bounded number of rows at once.

    float32 copies of all logits over a large vocabulary would need more memory than the model.
    """
    rows = max(1, _LOGITS_AT_ONCE // logits.shape[-1])
    if len(ids) <= rows:
        return function(logits, ids)
    parts = zip(torch.split(logits, rows), torch.split(ids, rows), strict=True)
    return torch.cat([checkpoint(function, *part, use_reentrant=False) for part in parts], -1)


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use the packed attention within a block, and what was used before after it.

    Raises:
        ModelMismatchError: The model does not let its attention be set, or mixes positions by
            something that is not attention.
    """
    config = model.config.get_text_config(decoder=True)
    other = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if other or not getattr(config, "is_causal", True):
        raise ModelMismatchError(
            f"Expected layers of causal full or sliding attention, got {type(model).__name__} with "
            f"{', '.join(sorted(other)) or 'attention that is not causal'}. Take another model."
        )
    before = model.config._attn_implementation
    model.set_attn_implementation(PACKED)
    if model.config._attn_implementation != PACKED:
        raise ModelMismatchError(
            f"Expected a model that takes attention functions of transformers' AttentionInterface, "
            f"got {type(model).__name__}. Take another model."
        )
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int = 0,
    max_length_k: int = 0,
    key_index: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence; the signature is transformers'."""
    wrong = [name for name in _NOT_COMPUTED if others.get(name) is not None]
    if wrong or dropout:
        raise ModelMismatchError(
            f"Expected plain attention, got {', '.join(wrong) or 'dropout'} in "
            f"{type(module).__name__}. Take another model, or switch that off in its config."
        )
    if cu_seq_lens_q is None or cu_seq_lens_k is None:
        raise ModelMismatchError(
            f"Expected cu_seq_lens_q to reach the attention, got none in {type(module).__name__}. "
            "Call packed_forward(); a model that does not hand it on cannot be packed."
        )
    query, key, value = (heads[0].transpose(0, 1) for heads in (query, key, value))
    if key_index is not None:
        key, value = key.index_select(0, key_index), value.index_select(0, key_index)
    output = attend(
        query,
        key,
        value,
        (cu_seq_lens_q, cu_seq_lens_k),
        (max_length_q, max_length_k),
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
    )
    return output[None], None


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)
