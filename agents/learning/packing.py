"""Several sequences in one row, without padding: the forward pass of the learner.

An attention function named ``"packed"`` is registered through transformers' own interfaces, so
model code stays as it is. The bounds of the sequences travel as ``cu_seq_lens_q`` and related
standard arguments, which models pass on to their attention. No token sees another sequence, and
positions restart with each.

The prefix that a sequence shares with the one before it (the prompt within a group, the same first
query and its documents) is computed once, since its states are the same. A segment of the row then
holds the new tokens of a sequence, which attend to the keys of the whole sequence, wherever they
are in the row. Autograd sums the gradients of the shared part.

Only attention may mix positions: models that mix them otherwise (state spaces, convolutions) are
refused, and so is attention with unsupported terms (sinks, position bias).

Shapes, here and in the comment at each tensor:

* S: sequences. N: new tokens of all, the length of the row. M: tokens of all, shared ones again.
* n: positions whose logits are kept. V: vocabulary. H: hidden size.
* T: tokens of one sequence. D: width of an attention head, E: that of its values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from search_env.agents.errors import ModelMismatchError
from search_env.agents.inference.attention import REFUSED
from search_env.agents.inference.forward import check_layers, last_hidden_state
from search_env.agents.inference.older_models import (
    is_older,
    replace_attention,
    restore_attention,
)
from search_env.agents.inference.shapes import are_rounded, rounded
from search_env.agents.learning.varlen_attention import attend

_LOGITS_AT_ONCE = 2**24  # numbers; larger outputs are done in chunks, recomputed in the backward

PACKED = "packed"
"""Name of the attention function."""


class Packed(NamedTuple):
    """Outputs of a packed pass at the kept positions."""

    logits: Tensor  # (n, V) in the model's type
    hidden: Tensor  # (n, H): input of the language-model head


@dataclass(frozen=True, slots=True)
class Row:
    """The layout of sequences in a row, each without the prefix shared with the one before."""

    ids: Tensor  # int64 (N,): the new tokens of each sequence in turn
    positions: Tensor  # int64 (N,): their positions in their sequences
    index: Tensor  # int64 (M,): place in the row of each token of the concatenated sequences
    new: Tensor  # int64 (S,): number of new tokens of each sequence
    lengths: Tensor  # int64 (S,): number of tokens of each sequence


def common_prefix(left: Tensor, right: Tensor) -> int:
    """Return the length of the common prefix of two sequences.

    Example:
        >>> common_prefix(torch.tensor([5, 6, 7]), torch.tensor([5, 6, 8, 9]))
        2
    """
    shorter = min(len(left), len(right))
    same = left[:shorter] == right[:shorter]  # (shorter,)
    return int(same.long().cumprod(0).sum())


def lay_out(sequences: Sequence[Tensor]) -> Row:
    """Return the row of sequences; those with a common prefix should be neighbours.

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
    new = torch.tensor([len(part) for part in ids])  # (S,)
    lengths = torch.tensor([len(part) for part in index[1:]])  # (S,)
    return Row(torch.cat(ids), torch.cat(positions), torch.cat(index), new, lengths)


def packed_forward(
    model: PreTrainedModel,
    sequences: Sequence[Tensor],
    keep: Tensor,
    windows: list[int | None] | None = None,
) -> Packed:
    """Run one or more sequences, int64 ``(T,)`` each, through a model side by side.

    Common prefixes of neighbours are computed once. The result is logits and states at ``keep``,
    int64 ``(n,)``: positions in the concatenated sequences. The sliding window of each layer is
    added to ``windows``. A model that cannot run packed sequences raises ModelMismatchError.
    """
    row, device = lay_out(sequences), model.device
    shared = len(row.index) > len(row.ids)
    kept = row.index[keep]  # (n,)
    ids, positions, at = row.ids, row.positions, kept
    if are_rounded(device, model.dtype):  # what is added belongs to no sequence
        ids, positions, at = (
            pad(x, (0, rounded(len(x), 64) - len(x))) for x in (ids, positions, at)
        )
    options: dict[str, Any] = {
        "cu_seq_lens_q": pad(row.new.cumsum(0), (1, 0)).int().to(device),  # (S + 1,)
        "cu_seq_lens_k": pad(row.lengths.cumsum(0), (1, 0)).int().to(device),  # (S + 1,)
        "max_length_q": int(row.new.max()),
        "max_length_k": int(row.lengths.max()),
        "key_index": row.index.to(device) if shared else None,  # (M,)
        "windows": windows,
    }
    with packed_attention(model), last_hidden_state(model) as hidden:
        replace_attention(model, partial(_attend, **options))
        output = model(
            input_ids=ids[None].to(device),  # (1, N)
            position_ids=positions[None].to(device),  # (1, N)
            logits_to_keep=at.to(device),  # (n,)
            use_cache=False,
            **options,
        )
    return Packed(output.logits[0][: len(kept)], hidden[-1][0][: len(kept)])


def packed_logits(
    model: PreTrainedModel,
    sequences: Sequence[Tensor],
    keep: Tensor,
    windows: list[int | None] | None = None,
) -> Tensor:
    """Return the logits of :func:`packed_forward`."""
    return packed_forward(model, sequences, keep, windows).logits


def in_chunks(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, ids: Tensor) -> Tensor:
    """Apply a function of logits ``(n, V)`` and ids ``(n,)`` to a bounded number of rows at a time.

    The results, ``(..., n)``, are concatenated. float32 copies of all logits over a large
    vocabulary would need more memory than the model.
    """
    rows = max(1, _LOGITS_AT_ONCE // logits.shape[-1])
    if len(ids) <= rows:
        return function(logits, ids)
    parts = zip(torch.split(logits, rows), torch.split(ids, rows), strict=True)
    return torch.cat([checkpoint(function, *part, use_reentrant=False) for part in parts], -1)


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use the packed attention within a block, then restore the previous one.

    Blocks may be nested: layers that are recomputed after a forward pass need one around both.
    """
    check_layers(model)
    before = model.config._attn_implementation
    if is_older(model):
        model.config._attn_implementation = PACKED
        try:
            yield
        finally:
            model.config._attn_implementation = before
            if before != PACKED:
                restore_attention(model)
        return
    model.set_attn_implementation(PACKED)
    if model.config._attn_implementation != PACKED:
        raise ModelMismatchError(
            f"Expected a model that supports transformers' AttentionInterface, got "
            f"{type(model).__name__}. Use another model."
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
    softcap: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int = 0,
    max_length_k: int = 0,
    key_index: Tensor | None = None,
    windows: list[int | None] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence; the signature is transformers'.

    From query ``(1, heads, N, D)``, key ``(1, key heads, N, D)`` and value of width E to
    ``(1, N, heads, E)``.
    """
    unsupported = [name for name in REFUSED if options.get(name) is not None]
    if unsupported or dropout:
        raise ModelMismatchError(
            f"Expected plain attention, got {', '.join(unsupported) or 'dropout'} in "
            f"{type(module).__name__}. Use another model, or switch that off in its config."
        )
    if cu_seq_lens_q is None or cu_seq_lens_k is None:
        raise ModelMismatchError(
            f"Expected cu_seq_lens_q to reach the attention, got none in {type(module).__name__}. "
            "Call packed_forward(); a model that does not pass it on cannot be packed."
        )
    if windows is not None:
        windows.append(sliding_window)
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # (N, heads, D or E)
    if key_index is not None:  # (M, key heads, D or E)
        key, value = key.index_select(0, key_index), value.index_select(0, key_index)
    query, key = query.to(value.dtype), key.to(value.dtype)  # some have rotary ones in float32
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    bounds, longest = (cu_seq_lens_q, cu_seq_lens_k), (max_length_q, max_length_k)
    output = attend(
        query, key, value, bounds, longest, scale=scale, window=sliding_window, softcap=softcap
    )
    return output[None], None


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)
