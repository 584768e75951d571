"""Attention over rows of their own lengths, for any model that uses transformers' interface.

A forward pass is one packed sequence of runs of tokens (:class:`agents.cache.Segments`); each run
attends to its own row's keys and to nothing else, so no row pays for another's length. Models are
told by the name ``"ragged"`` in their configuration; no model code is touched. Sliding windows and
capped logits (Gemma) are exact. Attention sinks, position biases and chunks are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

from agents.cache import Segments, first_key
from agents.errors import ModelMismatchError

NAME = "ragged"
_REFUSED = ("s_aux", "position_bias", "indices", "top_k_index")


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    ragged: Segments,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Attend from packed tokens to their rows' caches.

    Args:
        module: The layer that asks; not used.
        query: ``(1, heads, S, width)``.
        key: ``(rows, key-value heads, max_tokens, width)``, new tokens included.
        value: The same for the values.
        attention_mask: None: this attention knows who sees whom.
        ragged: The runs that the packed sequence consists of.
        scaling: Factor of the logits.
        dropout: 0: nothing is trained here.
        sliding_window: How many tokens back a token sees, itself included.
        softcap: Bound of the logits.
        options: What transformers hands on to every attention function. Those that would change
            the result are refused.

    Returns:
        ``(1, S, heads, width)`` and None for the weights.

    Raises:
        ModelMismatchError: The model's attention has a term that is not computed here.
    """
    for name in _REFUSED:
        if options.get(name) is not None:
            raise ModelMismatchError(
                f"Expected plain attention, got one with {name!r} in {type(module).__name__}. "
                "Use a model without it."
            )
    out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
    for row, start, count, offset in ragged.runs:
        keys = slice(first_key(start, sliding_window), start + count)
        mask = ragged.mask(start, count, sliding_window) if count > 1 else None
        attended = _attend(
            query[:, :, offset : offset + count],
            key[row : row + 1, :, keys],
            value[row : row + 1, :, keys],
            mask,
            scaling,
            softcap,
        )
        out[:, offset : offset + count] = attended.transpose(1, 2)
    return out, None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """Return ``(1, heads, tokens, width)`` of one run."""
    _, heads, tokens, width = query.shape
    groups = heads // key.shape[1]
    if groups > 1 and tokens == 1:
        # The heads that share keys become queries of one head: nothing is repeated.
        query = query.view(1, key.shape[1], groups, width)
    elif groups > 1:
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    if softcap is None:
        out = functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    else:
        logits = (query @ key.transpose(-1, -2)).float() * (scaling or width**-0.5)
        logits = softcap * torch.tanh(logits / softcap)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        out = logits.softmax(-1).to(value.dtype) @ value
    return out.reshape(1, heads, tokens, value.shape[-1])


AttentionInterface.register(NAME, ragged_attention)


@contextmanager
def ragged_model(model: PreTrainedModel) -> Iterator[None]:
    """Run the model with this attention, in evaluation mode; leave it as it was found."""
    config: PretrainedConfig = model.config.get_text_config(decoder=True)
    before, training = config._attn_implementation, model.training
    if training:
        model.eval()  # type: ignore[no-untyped-call]
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        if training:
            model.train()
