"""Several sequences in one row, without padding: the forward pass of the learner.

An attention function named ``"packed"`` is registered through transformers' own interfaces, so the
code of the models stays as it is. Lengths travel as ``cu_seq_lens_q``, the standard argument that
models hand on to their attention; positions restart with each sequence, and no token sees another
sequence. Only attention mixes positions in the models meant here: a model that mixes them in
another way (state spaces, convolutions) is refused, and so is attention with a term that is not
computed here (softcap, sinks, position bias).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from agents.errors import ModelMismatchError

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


def packed_forward(model: PreTrainedModel, sequences: Sequence[Tensor], keep: Tensor) -> Packed:
    """Run sequences through a model side by side.

    Args:
        model: A causal language model, or one with adapters of peft.
        sequences: int64 ``(T_i,)`` each, none of them empty.
        keep: int64 ``(n,)``: positions in the concatenated sequences to compute logits at.

    Returns:
        Logits and states at ``keep``, in its order.

    Raises:
        ModelMismatchError: The model cannot run packed sequences.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    ends = lengths.cumsum(0)
    ids = torch.cat(list(sequences))
    positions = torch.arange(len(ids)) - (ends - lengths).repeat_interleave(lengths)
    bounds = functional.pad(ends, (1, 0)).int()
    device = model.device
    head = model.get_output_embeddings()
    states: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    try:
        with packed_attention(model):
            output = model(
                input_ids=ids[None].to(device),
                position_ids=positions[None].to(device),
                logits_to_keep=keep.to(device),
                use_cache=False,
                cu_seq_lens_q=bounds.to(device),
                cu_seq_lens_k=bounds.to(device),
                max_length_q=int(lengths.max()),
                max_length_k=int(lengths.max()),
            )
    finally:
        hook.remove()
    return Packed(output.logits[0], states[-1][0])


def packed_logits(model: PreTrainedModel, sequences: Sequence[Tensor], keep: Tensor) -> Tensor:
    """Return the logits of :func:`packed_forward`."""
    return packed_forward(model, sequences, keep).logits


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use the packed attention within a block, and what was used before after it.

    Raises:
        ModelMismatchError: The model does not let its attention be set, or mixes positions by
            something that is not attention.
    """
    other = set(getattr(model.config, "layer_types", None) or ()) - _LAYER_TYPES
    if other:
        raise ModelMismatchError(
            f"Expected layers of full or sliding attention, got {', '.join(sorted(other))}. Train "
            f"{type(model).__name__} elsewhere, or take another model."
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
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence; the signature is transformers'."""
    wrong = [name for name in _NOT_COMPUTED if others.get(name) is not None]
    if wrong or dropout:
        raise ModelMismatchError(
            f"Expected plain attention, got {', '.join(wrong) or 'dropout'} in "
            f"{type(module).__name__}. Take another model, or switch that off in its config."
        )
    if cu_seq_lens_q is None or max_length_q is None:
        raise ModelMismatchError(
            f"Expected cu_seq_lens_q to reach the attention, got none in {type(module).__name__}. "
            "Call packed_forward(); a model that does not hand it on cannot be packed."
        )
    if sliding_window is not None and max_length_q > sliding_window:
        raise ModelMismatchError(
            f"Expected sequences within the sliding window of {sliding_window} tokens, got one of "
            f"{max_length_q}. Lower max_tokens of the environment, or take another model."
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    lengths = cu_seq_lens_q.diff().tolist()
    parts = zip(*(x.split(lengths, 2) for x in (query, key, value)), strict=True)
    outputs = [
        functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        for q, k, v in parts
    ]
    return torch.cat(outputs, 2).transpose(1, 2), None


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)
