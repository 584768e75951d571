"""Causal attention over sequences of various lengths that lie one behind the other.

On CUDA in half precision it is torch's own kernel. Elsewhere it is matrix products over chunks of
queries with a backward pass by hand: PyTorch's fused attention on a CPU takes half as long again,
for it computes the probabilities anew in the backward pass. Here they are kept, unless they are
too large.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

try:
    from torch.nn.attention import varlen
except ImportError:  # before torch 2.10
    varlen = None  # type: ignore[assignment]

# Its arguments changed from version to version: those that are there are used.
_FUSED = inspect.signature(varlen.varlen_attn).parameters if varlen else {}

_CHUNK = 128  # queries at a time
_KEPT = 2**26  # probabilities of one call that are kept for its backward pass


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Attend from the queries of each segment to its keys.

    The last query of a segment stands where its last key stands; each query sees the keys up to
    its own place.

    Args:
        query: ``(N, heads, D)``.
        key: ``(M, key heads, D)``; a key head serves as many query heads as there are more.
        value: ``(M, key heads, D)``.
        bounds: int32 ``(S + 1,)`` each: where segments begin and end, in queries and in keys; of
            both there are at least as many keys.
        longest: The largest number of queries and of keys in a segment.
        scale: Factor of the scores.
        window: A query sees this many keys at most, its own among them; all if None.

    Returns:
        ``(N, heads, D)``.
    """
    if "window_size" in _FUSED and query.is_cuda and query.dtype.itemsize == 2:
        groups: dict[str, Any] = {}
        if query.shape[1] != key.shape[1] and "enable_gqa" in _FUSED:
            groups["enable_gqa"] = True
        output = varlen.varlen_attn(
            query,
            key,
            value,
            *bounds,
            *longest,
            scale=scale,
            window_size=(-1 if window is None else window - 1, 0),
            **groups,
        )
        assert isinstance(output, Tensor)
        return output
    shape = _Shape(bounds[0].tolist(), bounds[1].tolist(), scale, window)
    output = _Attention.apply(query, key, value, shape)  # type: ignore[no-untyped-call]
    assert isinstance(output, Tensor)
    return output


class _Shape(NamedTuple):
    """Where segments are, and how to attend."""

    query_bounds: list[int]
    key_bounds: list[int]
    scale: float
    window: int | None


class _Chunk(NamedTuple):
    """Queries ``start:stop`` of one segment, and the keys ``first:last`` that they see.

    The last query sees the last key. ``place`` is that of the first query among these keys.
    """

    start: int
    stop: int
    first: int
    last: int
    place: int


def _chunks(shape: _Shape) -> Iterator[_Chunk]:
    """Yield the chunks of all segments."""
    queries, keys = (itertools.pairwise(b) for b in (shape.query_bounds, shape.key_bounds))
    for (begin, end), (first_key, last_key) in zip(queries, keys, strict=True):
        for start in range(begin, end, _CHUNK):
            stop = min(end, start + _CHUNK)
            last = last_key - (end - stop)
            place = last - (stop - start)
            first = first_key if shape.window is None else max(first_key, place + 1 - shape.window)
            yield _Chunk(start, stop, first, last, place - first)


class _Attention(torch.autograd.Function):
    """Attention chunk by chunk.

    With P the probabilities and O = P V, the gradient of the scores is
    P * (dO V' - rowsum(dO * O)) (FlashAttention, arXiv 2205.14135, appendix B.4).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, shape: _Shape) -> Tensor:
        """Return the outputs ``(N, heads, D)``."""
        queries = _by_key_head(query, key.shape[1]).contiguous()
        keys, values = (x.transpose(0, 1).contiguous() for x in (key, value))
        output = torch.empty_like(query)
        outputs = _by_key_head(output, key.shape[1])
        exact = _exact(queries, keys, shape.scale)
        chunks = list(_chunks(shape))
        size = query.shape[1] * sum((c.stop - c.start) * (c.last - c.first) for c in chunks)
        keeps = size <= _KEPT and any(ctx.needs_input_grad)
        kept = []
        for chunk in chunks:
            probabilities = _probabilities(exact, chunk, shape.window).to(query.dtype)
            found = torch.bmm(probabilities, values[:, chunk.first : chunk.last])
            into = outputs[:, :, chunk.start : chunk.stop]
            into.copy_(found.view(into.shape))
            if keeps:
                kept.append(probabilities)
        ctx.save_for_backward(queries, keys, values, output, *kept)
        ctx.shape = shape
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of query, key and value."""
        queries, keys, values, output, *kept = ctx.saved_tensors
        shape: _Shape = ctx.shape
        sums = _by_key_head((gradient * output).sum(-1, keepdim=True), len(keys))
        d_outputs = _by_key_head(gradient, len(keys)).contiguous()
        d_query = torch.empty_like(gradient)
        d_queries = _by_key_head(d_query, len(keys))
        d_keys, d_values = torch.zeros_like(keys), torch.zeros_like(values)
        exact = _exact(queries, keys, shape.scale) if not kept else (queries, keys)
        for number, chunk in enumerate(_chunks(shape)):
            seen, at = slice(chunk.first, chunk.last), slice(chunk.start, chunk.stop)
            if kept:
                probabilities = kept[number]
            else:
                probabilities = _probabilities(exact, chunk, shape.window).to(keys.dtype)
            d_output, asking = d_outputs[:, :, at].flatten(1, 2), queries[:, :, at].flatten(1, 2)
            d_values[:, seen].baddbmm_(probabilities.mT, d_output)
            d_scores = torch.bmm(d_output, values[:, seen].mT)
            d_scores.sub_(sums[:, :, at].flatten(1, 2)).mul_(probabilities)
            d_queries[:, :, at] = torch.bmm(d_scores, keys[:, seen]).view_as(d_queries[:, :, at])
            d_keys[:, seen].baddbmm_(d_scores.mT, asking)
        d_query.mul_(shape.scale)
        d_keys.mul_(shape.scale)
        return d_query, d_keys.transpose(0, 1), d_values.transpose(0, 1), None


def _by_key_head(heads: Tensor, count: int) -> Tensor:
    """Return ``(N, heads, D)`` as ``(count, heads of a key head, N, D)``, a view."""
    rows, _, width = heads.shape
    return heads.view(rows, count, -1, width).permute(1, 2, 0, 3)


def _exact(queries: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return what scores are computed from: a score of 16 in bfloat16 may be off by 1/16."""
    if keys.dtype.itemsize < 4:
        queries, keys = queries.float(), keys.float()
    return queries * scale, keys


def _probabilities(exact: tuple[Tensor, Tensor], chunk: _Chunk, window: int | None) -> Tensor:
    """Return the attention of a chunk, ``(key heads, heads of a key head * queries, keys)``."""
    queries, keys = exact
    asking = queries[:, :, chunk.start : chunk.stop]
    scores = torch.bmm(asking.flatten(1, 2), keys[:, chunk.first : chunk.last].mT)
    by_head = scores.view(*asking.shape[:3], -1)
    everything = torch.ones(by_head.shape[2:], dtype=torch.bool, device=keys.device)
    # All keys before the chunk's own are seen, unless there is a window.
    later = everything[:, chunk.place :].triu(1)
    by_head[..., chunk.place :].masked_fill_(later, -torch.inf)
    if window is not None:
        by_head.masked_fill_(everything.tril(chunk.place - window), -torch.inf)
    return scores.softmax(-1)
