"""Attention over rows of different lengths, for any model that uses transformers' interface.

A forward pass carries packed runs of consecutive tokens of some rows (:class:`Plan`). Runs of one
token, that is decoding, are computed together: one batched product over all pages of
:mod:`search_env.agents.inference.paged_cache`, then a softmax over each row's pages, so that no
padding is read. A prefix that rows share is read once for all of them. Longer runs, prompts and
documents, attend to their own row one at a time.

Models select it by the name ``"ragged"`` in their configuration; no model code is touched, that of
:mod:`search_env.agents.inference.older_models` apart. Sliding
windows and capped logits (Gemma) are exact. Attention sinks and position biases are refused.

Shapes, here and in the comment at each tensor:

* S: tokens of the forward pass. n: runs of one token. c: tokens of a longer run.
* h: query heads, k: key-value heads, g = h / k. D: width of a head.
* A: all pages of the cache, p: pages that runs of one read, q: pages of the common prefix.
* z: tokens of a page. K: keys, c keys or q z keys.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

from search_env.agents.errors import ModelMismatchError
from search_env.agents.inference.older_models import replace_attention, restore_attention
from search_env.agents.inference.paged_cache import Index, RaggedCache

NAME = "ragged"
_WIDE_PRODUCTS = torch.__version__ >= "2.9"
REFUSED = ("s_aux", "position_bias", "indices", "top_k_index")
"""Arguments of some models' attention that would change its result."""
HIDDEN_POSITION = np.iinfo(np.int64).max // 2
"""First position of a page that no decoded row sees: later than any other."""
_QUERIES = 256
"""Tokens of a longer run that attend together on a CPU, where this number is fastest."""


@dataclass(frozen=True, slots=True)
class TokenRun:
    """Consecutive tokens of one row."""

    pages: Tensor  # int64 (pages,): the row's pages up to the last of these tokens
    start: int  # position of the first token
    count: int  # number of tokens, c
    offset: int  # index of the first token in the forward pass


@dataclass(slots=True)
class Plan:
    """The tokens of one forward pass, and the pages of their keys and values."""

    positions: Tensor  # int64 (S,): position of each token in its row
    write_pages: Tensor  # int64 (S,): page for its keys and values
    write_places: Tensor  # int64 (S,): place in that page
    singles: Tensor | None  # int64 (n,): tokens that are runs of one; None where all S are
    runs: list[TokenRun]  # the longer ones
    common: int  # number q of leading pages with the common prefix of the runs of one
    aside: Tensor | None  # bool (n,): runs of one without that prefix; None where all have it
    pages: slice | Tensor  # the p other pages that the runs of one read
    slots: Tensor  # int64 (p,): the run of one that sees each of these pages
    firsts: Tensor  # int64 (p,): position of each page's first token
    dtype: torch.dtype | None = None  # of the results; None for that of the query
    calls: int = 0  # layers that have used the attention
    windows: int = 0  # those of them with a sliding window
    run_seconds: float = 0.0  # host seconds of attention for the longer runs
    single_seconds: float = 0.0  # the same for runs of one
    _hidden: dict[int | None, Tensor] = field(default_factory=dict)
    _hidden_common: dict[int | None, Tensor | None] = field(default_factory=dict)
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        cache: RaggedCache,
        index: Index,
        starts: Index,
        counts: Index,
        device: torch.device,
        padding: int = 0,
    ) -> Plan:
        """Plan a pass over packed runs, whose pages the cache has reserved.

        ``index`` has the row of each run, ``starts`` the position of its first token, ``counts``
        the number of its tokens, 1 or more: int64 ``(runs,)`` each. After them come ``padding``
        tokens of no row, whose states are discarded.
        """
        offsets = np.cumsum(counts) - counts  # (runs,)
        rows = np.repeat(index, counts)  # (S,)
        positions = packed_positions(starts, counts)  # (S,)
        single = counts == 1  # (runs,)
        pages, slots, firsts = visible_pages(cache, index[single])
        aside = ~cache.sharers[index[single]]
        longer = (values[~single].tolist() for values in (index, starts, counts, offsets))

        def to(array: Index) -> Tensor:
            return torch.from_numpy(array).to(device)

        def padded(array: Index, value: int = 0) -> Tensor:
            return to(np.pad(array, (0, padding), constant_values=value))

        unread = len(cache.owners) - 1  # the page that no row reads
        return cls(
            positions=padded(positions),
            write_pages=padded(cache.table[rows, positions // cache.page_size], unread),
            write_places=padded(positions % cache.page_size),
            singles=None if single.all() and not padding else to(offsets[single]),
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
        """Return bool ``(p, 1, 1, z)``: keys that runs of one do not see in their pages."""
        hidden = self._hidden.get(window)
        if hidden is None:
            ends = self._ends().index_select(0, self.slots)[:, None]  # (p, 1)
            keys = self.firsts[:, None] + torch.arange(page_size, device=ends.device)  # (p, z)
            hidden = keys > ends  # (p, z)
            if window is not None:
                hidden |= keys <= ends - window
            hidden = self._hidden[window] = hidden[:, None, None]
        return hidden

    def hidden_common(self, page_size: int, window: int | None) -> Tensor | None:
        """Return bool ``(n, 1, K)``: keys of the common prefix that runs of one do not see.

        None where all of them are seen.
        """
        if window not in self._hidden_common:
            hidden = None if self.aside is None else self.aside[:, None, None]
            if window is not None:
                ends = self._ends()[:, None]  # (n, 1)
                keys = torch.arange(self.common * page_size, device=ends.device)  # (K,)
                far = (keys <= ends - window)[:, None]  # (n, 1, K)
                hidden = far if hidden is None else hidden | far
            self._hidden_common[window] = hidden
        return self._hidden_common[window]

    def _ends(self) -> Tensor:
        """Return the positions ``(n,)`` of the runs of one."""
        return self.positions if self.singles is None else self.positions[self.singles]

    def mask(self, start: int, count: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return ``(count, K)``: 0 for keys that a token of a longer run sees, else -infinity.

        The keys end at the run's last token and begin at the first that its first token sees.
        """
        mask = self._masks.get((start, count, window))
        if mask is None:
            device = self.positions.device
            queries = torch.arange(start, start + count, device=device)[:, None]  # (count, 1)
            keys = torch.arange(_first_key(start, window), start + count, device=device)  # (K,)
            unseen = keys > queries  # (count, K)
            if window is not None:
                unseen |= keys <= queries - window
            mask = torch.zeros(unseen.shape, dtype=dtype, device=device)
            mask = self._masks[start, count, window] = mask.masked_fill_(unseen, -torch.inf)
        return mask


def packed_positions(starts: Index, counts: Index) -> Index:
    """Return the positions ``(S,)`` of packed runs of tokens.

    Example:
        >>> packed_positions(np.array([7, 0]), np.array([2, 3])).tolist()
        [7, 8, 0, 1, 2]
    """
    offsets = np.cumsum(counts) - counts
    positions: Index = np.repeat(starts - offsets, counts) + np.arange(counts.sum())
    return positions


def visible_pages(cache: RaggedCache, index: Index) -> tuple[slice | Index, Index, Index]:
    """Return the pages that decoding these rows reads, besides the common prefix.

    All pages in use are read in place, those of other rows included, unless over two thirds are of
    other rows. The result is the pages ``(p,)``, the place in ``index`` of the row that sees each
    (0 for pages of other rows), and the position of its first token (there beyond all positions).
    """
    slot_of_row = np.full(len(cache.table) + 1, -1)  # the last is for pages without an owner
    slot_of_row[index] = np.arange(len(index))
    used = slice(cache.common, cache.used_pages)
    slots, firsts = slot_of_row[cache.owners[used]], cache.firsts[used]
    visible = slots >= 0
    if 3 * np.count_nonzero(visible) < len(slots):
        return np.flatnonzero(visible) + cache.common, slots[visible], firsts[visible]
    return used, np.maximum(slots, 0), np.where(visible, firsts, HIDDEN_POSITION)


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
    """Attend from the tokens of a forward pass to their rows' pages, as transformers calls it.

    From query ``(1, h, S, D)``, or ``(S, h, 1, D)`` where all runs have one token, and all pages of
    keys and values, ``(A, k, z, D)`` each, to ``(1, S, h, D)`` or ``(S, 1, h, D)``. The plan masks,
    and the engine does not train: ``attention_mask`` and ``dropout`` are ignored. Further options
    that would change the result raise ModelMismatchError.
    """
    for name in REFUSED:
        if options.get(name) is not None:
            raise ModelMismatchError(
                f"Expected plain attention, got one with {name!r} in {type(module).__name__}. "
                "Use a model without it."
            )
    ragged.calls += 1
    dtype = ragged.dtype or query.dtype
    ragged.windows += sliding_window is not None
    batch, heads, length, width = query.shape
    tokens = query.transpose(1, 2).flatten(0, 1) * (scaling or width**-0.5)  # (S, h, D)
    if ragged.singles is None:
        out = _decode(tokens, key, value, ragged, sliding_window, softcap).to(dtype)
        return out.view(batch, length, heads, -1), None
    out = query.new_zeros(length, heads, value.shape[-1], dtype=dtype)  # (S, h, D)
    begin = time.perf_counter()
    singles = ragged.singles
    if len(singles):
        decoded = _decode(tokens[singles], key, value, ragged, sliding_window, softcap)  # (n, h, D)
        out[singles] = decoded.to(out.dtype)
    middle = time.perf_counter()
    for run in ragged.runs:
        part = slice(run.offset, run.offset + run.count)
        prefilled = _prefill(tokens[part], key, value, ragged, run, sliding_window, softcap)
        out[part] = prefilled.to(dtype)
    ragged.single_seconds += middle - begin
    ragged.run_seconds += time.perf_counter() - middle
    return out[None], None


def _decode(
    query: Tensor, key: Tensor, value: Tensor, plan: Plan, window: int | None, softcap: float | None
) -> Tensor:
    """Attend from one token of each row.

    Each page gives a sum of values under weights ``exp(logit - row's largest)`` and the sum of the
    weights; both are summed by row. The scaled query is ``(n, h, D)``, as is the result; key and
    value are ``(A, k, z, D)``.
    """
    rows, heads, width = query.shape
    query, prefix = query.to(key.dtype), (key[: plan.common], value[: plan.common])  # (q, k, z, D)
    key, value = key[plan.pages], value[plan.pages]  # (p, k, z, D)
    pages, key_heads, size, _ = key.shape
    groups = heads // key_heads
    by_page = query.index_select(0, plan.slots).view(-1, groups, width)  # (p k, g, D)
    logits = _bounded(_product(by_page, key.flatten(0, 1).transpose(1, 2)), softcap)  # (p k, g, z)
    logits = logits.view(pages, key_heads, groups, size)  # (p, k, g, z)
    logits.masked_fill_(plan.hidden(size, window), -torch.inf)
    page_largest = logits.amax(-1).view(pages, heads)  # (p, h)
    largest = logits.new_full((rows, heads), -torch.inf)  # (n, h)
    largest.scatter_reduce_(0, plan.slots[:, None].expand(-1, heads), page_largest, "amax")
    if plan.common:
        total, out, largest = _common(query, *prefix, plan, window, softcap, largest)
    else:
        total = logits.new_zeros(rows, heads)  # (n, h)
        out = logits.new_zeros(rows, heads, value.shape[-1])  # (n, h, D)
    logits -= largest.index_select(0, plan.slots).view(pages, key_heads, groups, 1)
    weights = logits.exp_()  # (p, k, g, z)
    total.index_add_(0, plan.slots, weights.sum(-1).view(pages, heads))
    part = _product(weights.to(value.dtype).flatten(0, 1), value.flatten(0, 1))  # (p k, g, D)
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
    """Attend from one token of each row to the common prefix.

    The scaled query is ``(n, h, D)``, key and value are ``(q, k, z, D)``, and ``largest`` is each
    row's largest logit on its other pages, ``(n, h)``. The result is the sum of the weights
    ``(n, h)``, the weighted sum of the values ``(n, h, D)``, and each row's largest logit on all
    pages ``(n, h)``, which the weights are relative to.
    """
    rows, heads, width = query.shape
    key_heads, size = key.shape[1:3]
    key, value = (pages.transpose(0, 1).flatten(1, 2) for pages in (key, value))  # (k, K, D)
    by_head = query.view(rows, key_heads, -1, width).transpose(0, 1)  # (k, n, g, D)
    by_head = by_head.reshape(key_heads, -1, width)  # (k, n g, D)
    logits = _bounded(_product(by_head, key.transpose(1, 2)), softcap)  # (k, n g, K)
    logits = logits.view(key_heads, rows, -1, logits.shape[-1])  # (k, n, g, K)
    hidden = plan.hidden_common(size, window)
    if hidden is not None:
        logits.masked_fill_(hidden, -torch.inf)
    largest = torch.maximum(largest, logits.amax(-1).transpose(0, 1).reshape(rows, heads))
    logits -= largest.view(rows, key_heads, -1, 1).transpose(0, 1)
    weights = logits.exp_()  # (k, n, g, K)
    out = _product(weights.to(value.dtype).flatten(1, 2), value)  # (k, n g, D)
    # Contiguous, so that adding to the results is faster.
    out = out.view(key_heads, rows, -1, value.shape[-1]).transpose(0, 1).contiguous()
    total = weights.sum(-1).transpose(0, 1).contiguous()  # (n, k, g)
    return total.view(rows, heads), out.view(rows, heads, -1), largest


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return the batched product in float32, accumulated in it where the device can."""
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

    The scaled query is ``(c, h, D)``, as is the result; key and value are ``(A, k, z, D)``.
    """
    key, value = (x[run.pages].transpose(0, 1).flatten(1, 2)[None] for x in (key, value))
    query = query.transpose(0, 1)[None].to(key.dtype)  # (1, h, c, D); key is (1, k, K, D)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))  # (1, h, K, D)
    piece = _QUERIES if query.device.type == "cpu" else run.count
    parts = []
    # In pieces, which skip the keys after a piece's last token.
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
    """Attend with softcapped logits; query and result are ``(1, h, c, D)``."""
    logits = _bounded((query @ key.transpose(-1, -2)).float(), softcap)  # (1, h, c, K)
    weights = (logits + mask).softmax(-1)  # (1, h, c, K)
    return weights.to(value.dtype) @ value


AttentionInterface.register(NAME, ragged_attention)


@contextmanager
def ragged_model(model: PreTrainedModel, plan: Plan) -> Iterator[None]:
    """Run the model with this attention in evaluation mode, then restore both."""
    config: PretrainedConfig = model.config.get_text_config(decoder=True)
    before, training = config._attn_implementation, model.training
    if training:
        model.eval()  # type: ignore[no-untyped-call]
    config._attn_implementation = NAME
    replace_attention(model, partial(ragged_attention, ragged=plan))
    try:
        yield
    finally:
        restore_attention(model)
        config._attn_implementation = before
        if training:
            model.train()
