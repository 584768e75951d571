"""Attention over rows of their own lengths, for any model that uses transformers' interface.

A forward pass carries runs of consecutive tokens of some rows (:class:`Plan`), one behind the
other. Runs of one token, which is decoding, are computed together: one batched product over all
pages of :mod:`search_env.agents.inference.paged_cache`, then a softmax over each row's pages, so
that what is read is what the rows hold. A beginning that rows share is read once for all of them.
Longer runs, prompts and documents, attend to their own row one by one.

Models are told by the name ``"ragged"`` in their configuration; no model code is touched. Sliding
windows and capped logits (Gemma) are exact. Attention sinks and position biases are refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

from search_env.agents.errors import ModelMismatchError
from search_env.agents.inference.paged_cache import Index, RaggedCache

NAME = "ragged"
_WIDE_PRODUCTS = torch.__version__ >= "2.9"
_REFUSED = ("s_aux", "position_bias", "indices", "top_k_index")
HIDDEN_POSITION = np.iinfo(np.int64).max // 2
"""The first position of a page that no decoded row sees: later than any."""
_QUERIES = 256
"""Tokens of a longer run that attend together on a CPU, where fewer and more are slower."""


@dataclass(frozen=True, slots=True)
class TokenRun:
    """Consecutive tokens of one row.

    Attributes:
        pages: int64: the row's pages up to the last of these tokens.
        start: Position of the first token.
        count: How many.
        offset: Which token of the forward pass is the first.
    """

    pages: Tensor
    start: int
    count: int
    offset: int


@dataclass(slots=True)
class Plan:
    """What one forward pass carries, and where it finds the past.

    Attributes:
        positions: int64 ``(S,)``: position of each token in its row.
        write_pages: int64 ``(S,)``: the page where its keys and values go.
        write_places: int64 ``(S,)``: the place in that page.
        singles: int64 ``(n,)``: which tokens are runs of one; None where all are.
        runs: The longer runs.
        common: How many pages, the first ones, hold what the runs of one have in common.
        aside: bool ``(n,)``: which runs of one have no part in that; None where all have.
        pages: Which pages the runs of one read beside.
        slots: int64 ``(pages,)``: which run of one sees each of these pages.
        firsts: int64 ``(pages,)``: position of each page's first token.
        calls: How many layers have asked for attention.
        run_seconds: How long attention took for the longer runs, on the host's clock.
        single_seconds: The same for runs of one.
    """

    positions: Tensor
    write_pages: Tensor
    write_places: Tensor
    singles: Tensor | None
    runs: list[TokenRun]
    common: int
    aside: Tensor | None
    pages: slice | Tensor
    slots: Tensor
    firsts: Tensor
    calls: int = 0
    run_seconds: float = 0.0
    single_seconds: float = 0.0
    _hidden: dict[int | None, Tensor] = field(default_factory=dict)
    _hidden_common: dict[int | None, Tensor | None] = field(default_factory=dict)
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, cache: RaggedCache, index: Index, starts: Index, counts: Index, device: torch.device
    ) -> Plan:
        """Plan a pass over packed runs.

        Args:
            cache: Has the pages reserved.
            index: int64 ``(n,)``: the row of each run.
            starts: int64 ``(n,)``: position of its first token.
            counts: int64 ``(n,)``: its tokens, 1 or more.
            device: Where the model is.
        """
        offsets = np.cumsum(counts) - counts
        rows = np.repeat(index, counts)
        positions = packed_positions(starts, counts)
        single = counts == 1
        pages, slots, firsts = visible_pages(cache, index[single])
        aside = ~cache.sharers[index[single]]
        longer = (values[~single].tolist() for values in (index, starts, counts, offsets))

        def to(array: Index) -> Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            positions=to(positions),
            write_pages=to(cache.table[rows, positions // cache.page_size]),
            write_places=to(positions % cache.page_size),
            singles=None if single.all() else to(offsets[single]),
            runs=[
                TokenRun(to(cache.pages(row, start + count)), start, count, offset)
                for row, start, count, offset in zip(*longer, strict=True)
            ],
            common=0 if aside.all() else cache.common,
            aside=torch.from_numpy(aside).to(device) if aside.any() else None,
            pages=pages if isinstance(pages, slice) else to(pages),
            slots=to(slots),
            firsts=to(firsts),
        )

    def hidden(self, page_size: int, window: int | None) -> Tensor:
        """Return bool ``(pages, 1, 1, page size)``: what a run of one does not see in its pages."""
        hidden = self._hidden.get(window)
        if hidden is None:
            ends = self._ends().index_select(0, self.slots)[:, None]
            keys = self.firsts[:, None] + torch.arange(page_size, device=ends.device)
            hidden = keys > ends
            if window is not None:
                hidden |= keys <= ends - window
            hidden = self._hidden[window] = hidden[:, None, None]
        return hidden

    def hidden_common(self, page_size: int, window: int | None) -> Tensor | None:
        """Return bool ``(n, 1, keys)``: what runs of one do not see of the common beginning.

        None where nothing is hidden.
        """
        if window not in self._hidden_common:
            hidden = None if self.aside is None else self.aside[:, None, None]
            if window is not None:
                ends = self._ends()[:, None]
                keys = torch.arange(self.common * page_size, device=ends.device)
                far = (keys <= ends - window)[:, None]
                hidden = far if hidden is None else hidden | far
            self._hidden_common[window] = hidden
        return self._hidden_common[window]

    def _ends(self) -> Tensor:
        return self.positions if self.singles is None else self.positions[self.singles]

    def mask(self, start: int, count: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return ``(count, keys)``: 0 for what each token of a longer run sees, else -infinity.

        The keys end at the run's last token and begin at the first that its first token sees.
        """
        mask = self._masks.get((start, count, window))
        if mask is None:
            device = self.positions.device
            queries = torch.arange(start, start + count, device=device)[:, None]
            keys = torch.arange(_first_key(start, window), start + count, device=device)
            unseen = keys > queries
            if window is not None:
                unseen |= keys <= queries - window
            mask = torch.zeros(unseen.shape, dtype=dtype, device=device)
            mask = self._masks[start, count, window] = mask.masked_fill_(unseen, -torch.inf)
        return mask


def packed_positions(starts: Index, counts: Index) -> Index:
    """Return the positions of runs of tokens that stand one behind the other.

    Example:
        >>> packed_positions(np.array([7, 0]), np.array([2, 3])).tolist()
        [7, 8, 0, 1, 2]
    """
    offsets = np.cumsum(counts) - counts
    positions: Index = np.repeat(starts - offsets, counts) + np.arange(counts.sum())
    return positions


def visible_pages(cache: RaggedCache, index: Index) -> tuple[slice | Index, Index, Index]:
    """Return which pages decoding these rows reads, beside the common beginning.

    All pages in use are read in place, also those of other rows, unless that were mostly others'.

    Returns:
        The pages, the place in ``index`` of the row that sees each (0 for pages of other rows),
        and the position of its first token (beyond all positions for pages of other rows).
    """
    slot_of_row = np.full(len(cache.table) + 1, -1)  # the last one is for pages of none
    slot_of_row[index] = np.arange(len(index))
    used = slice(cache.common, cache.used_pages)
    slots, firsts = slot_of_row[cache.owners[used]], cache.firsts[used]
    mine = slots >= 0
    if 3 * np.count_nonzero(mine) < len(slots):
        return np.flatnonzero(mine) + cache.common, slots[mine], firsts[mine]
    return used, np.maximum(slots, 0), np.where(mine, firsts, HIDDEN_POSITION)


def _first_key(position: int, window: int | None) -> int:
    return 0 if window is None else max(0, position - window + 1)


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    ragged: Plan,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Attend from the tokens of a forward pass to their rows' pages.

    Args:
        module: The layer that asks; not used.
        query: ``(B, heads, S, width)``, the plan's tokens in the order of ``(B, S)``.
        key: ``(pages, key-value heads, page size, width)``, new tokens included.
        value: The same for the values.
        attention_mask: None: the plan knows who sees what.
        ragged: The plan.
        scaling: Factor of the logits; None is one over the root of the width.
        dropout: 0: nothing is trained here.
        sliding_window: How many tokens back a token sees, itself included.
        softcap: Bound of the logits.
        options: What transformers hands on to every attention function. Those that would change
            the result are refused.

    Returns:
        ``(B, S, heads, width)``, and None for the weights.

    Raises:
        ModelMismatchError: The model's attention has a term that is not computed here.
    """
    for name in _REFUSED:
        if options.get(name) is not None:
            raise ModelMismatchError(
                f"Expected plain attention, got one with {name!r} in {type(module).__name__}. "
                "Use a model without it."
            )
    ragged.calls += 1
    batch, heads, length, width = query.shape
    tokens = query.transpose(1, 2).flatten(0, 1) * (scaling or width**-0.5)
    if not ragged.runs:
        out = _decode(tokens, key, value, ragged, sliding_window, softcap).to(query.dtype)
        return out.view(batch, length, heads, -1), None
    out = query.new_empty(length, heads, value.shape[-1])
    begun = time.perf_counter()
    singles = ragged.singles
    if singles is not None and len(singles):
        decoded = _decode(tokens[singles], key, value, ragged, sliding_window, softcap)
        out[singles] = decoded.to(out.dtype)
    middle = time.perf_counter()
    for run in ragged.runs:
        part = slice(run.offset, run.offset + run.count)
        out[part] = _prefill(tokens[part], key, value, ragged, run, sliding_window, softcap)
    ragged.single_seconds += middle - begun
    ragged.run_seconds += time.perf_counter() - middle
    return out[None], None


def _decode(
    query: Tensor, key: Tensor, value: Tensor, plan: Plan, window: int | None, softcap: float | None
) -> Tensor:
    """Attend from one token of each row.

    Each page gives a sum of values under weights ``exp(logit - row's largest)`` and the sum of the
    weights; both are added up by rows.

    Args:
        query: ``(n, heads, width)``, scaled.
        key: ``(pages, key-value heads, page size, width)``.
        value: The same.
        plan: Says which pages belong to which token.
        window: Sliding window.
        softcap: Bound of the logits.

    Returns:
        ``(n, heads, width)``.
    """
    rows, heads, width = query.shape
    query, shared = query.to(key.dtype), (key[: plan.common], value[: plan.common])
    key, value = key[plan.pages], value[plan.pages]
    pages, key_heads, size, _ = key.shape
    groups = heads // key_heads
    spread = query.index_select(0, plan.slots).view(-1, groups, width)
    logits = _bounded(_product(spread, key.flatten(0, 1).transpose(1, 2)), softcap)
    logits = logits.view(pages, key_heads, groups, size)
    logits.masked_fill_(plan.hidden(size, window), -torch.inf)
    by_head = logits.amax(-1).view(pages, heads)
    largest = logits.new_full((rows, heads), -torch.inf)
    largest.scatter_reduce_(0, plan.slots[:, None].expand(-1, heads), by_head, "amax")
    if plan.common:
        total, out, largest = _common(query, *shared, plan, window, softcap, largest)
    else:
        total, out = logits.new_zeros(rows, heads), logits.new_zeros(rows, heads, value.shape[-1])
    logits -= largest.index_select(0, plan.slots).view(pages, key_heads, groups, 1)
    weights = logits.exp_()
    total.index_add_(0, plan.slots, weights.sum(-1).view(pages, heads))
    part = _product(weights.to(value.dtype).flatten(0, 1), value.flatten(0, 1))
    out.index_add_(0, plan.slots, part.view(pages, heads, -1))
    return out / total[..., None]


def _common(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    window: int | None,
    softcap: float | None,
    largest: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend from one token of each row to the beginning that rows have in common.

    Args:
        query: ``(n, heads, width)``, scaled.
        key: ``(common pages, key-value heads, page size, width)``.
        value: The same.
        plan: Says which rows have a part in it.
        window: Sliding window.
        softcap: Bound of the logits.
        largest: ``(n, heads)``: each row's largest logit elsewhere.

    Returns:
        Sum of the weights ``(n, heads)``, sum of values under them ``(n, heads, width)``, and each
        row's largest logit of all ``(n, heads)``, which the weights are relative to.
    """
    rows, heads, width = query.shape
    key_heads, size = key.shape[1:3]
    key, value = (kept.transpose(0, 1).flatten(1, 2) for kept in (key, value))
    by_head = query.view(rows, key_heads, -1, width).transpose(0, 1).reshape(key_heads, -1, width)
    logits = _bounded(_product(by_head, key.transpose(1, 2)), softcap)
    logits = logits.view(key_heads, rows, -1, logits.shape[-1])
    hidden = plan.hidden_common(size, window)
    if hidden is not None:
        logits.masked_fill_(hidden, -torch.inf)
    largest = torch.maximum(largest, logits.amax(-1).transpose(0, 1).reshape(rows, heads))
    logits -= largest.view(rows, key_heads, -1, 1).transpose(0, 1)
    weights = logits.exp_()
    out = _product(weights.to(value.dtype).flatten(1, 2), value)
    out = out.view(key_heads, rows, -1, value.shape[-1]).transpose(0, 1).contiguous()
    total = weights.sum(-1).transpose(0, 1).contiguous()  # what is added to them is added faster
    return total.view(rows, heads), out.view(rows, heads, -1), largest


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return the batched product in float32, rounded nowhere where the device can help it."""
    if left.is_cuda and left.dtype != torch.float32 and _WIDE_PRODUCTS:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left, right).float()


def _bounded(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _prefill(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    run: TokenRun,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Attend from one run of tokens.

    Args:
        query: ``(count, heads, width)``, scaled.
        key: ``(pages, key-value heads, page size, width)``.
        value: The same.
        plan: Holds the masks.
        run: Which tokens.
        window: Sliding window.
        softcap: Bound of the logits.

    Returns:
        ``(count, heads, width)``.
    """
    key, value = (kept[run.pages].transpose(0, 1).flatten(1, 2)[None] for kept in (key, value))
    query = query.transpose(0, 1)[None].to(key.dtype)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (kept.repeat_interleave(groups, 1) for kept in (key, value))
    piece = _QUERIES if query.device.type == "cpu" else run.count
    parts = []
    # In pieces: keys behind a piece's last token are not looked at.
    for begin in range(0, run.count, piece):
        end = min(begin + piece, run.count)
        start = run.start + begin
        seen = slice(_first_key(start, window), run.start + end)
        inputs = query[:, :, begin:end], key[:, :, seen], value[:, :, seen]
        mask = plan.mask(start, end - begin, window, key.dtype)
        if softcap is None:
            parts.append(functional.scaled_dot_product_attention(*inputs, mask, scale=1.0))
        else:
            parts.append(_capped(*inputs, mask, softcap))
    return torch.cat(parts, 2)[0].transpose(0, 1)


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, softcap: float) -> Tensor:
    """Attend with logits that a hyperbolic tangent bounds, ``(1, heads, tokens, width)``."""
    logits = _bounded((query @ key.transpose(-1, -2)).float(), softcap)
    weights = (logits + mask).softmax(-1)
    return weights.to(value.dtype) @ value


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
