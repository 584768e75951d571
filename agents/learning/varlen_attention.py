"""Causal attention over packed sequences of various lengths.

On CUDA in half precision it is torch's own kernel, unless scores are capped. Elsewhere it is matrix
products over chunks of queries with a handwritten backward pass: PyTorch's fused attention on a CPU
takes 1.5 times as long, since it recomputes the probabilities in the backward pass. Here they are
kept unless they are too large, or capped.

Shapes, here and in the comment at each tensor:

* S: segments. N: queries, M: keys of all segments.
* D: width of a query and key. E: width of a value, D except in latent attention (DeepSeek).
* h: query heads, k: key heads, g = h / k: query heads per key head.
* c: queries of a chunk, m: keys that they see, both rounded up where shapes are compiled.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from search_env.agents.inference.shapes import are_rounded, rounded

try:
    from torch.nn.attention import varlen
except ImportError:  # before torch 2.10
    varlen = None  # type: ignore[assignment]

# Its arguments differ between versions of torch.
_FUSED = inspect.signature(varlen.varlen_attn).parameters if varlen else {}

_CHUNK = 128  # maximum of c
_KEPT = 2**26  # maximum number of probabilities that a call keeps for its backward pass


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attend from the queries of each segment to its keys.

    The last query of a segment is at the position of its last key; each query sees the keys up to
    its own position, with a window only the last of them, its own included. With ``softcap`` c a
    score s becomes ``c * tanh(s / c)``.

    From query ``(N, h, D)``, key ``(M, k, D)`` and value ``(M, k, E)`` to ``(N, h, E)``. ``bounds``
    are those of the segments in queries and in keys, int32 ``(S + 1,)`` each; a segment has at
    least as many keys as queries. ``longest`` is the largest number of queries and of keys in a
    segment. Queries after the last segment get zeros.
    """
    is_half = query.is_cuda and query.dtype.itemsize == 2
    if is_half and "window_size" in _FUSED and softcap is None and value.shape[-1] <= key.shape[-1]:
        options: dict[str, Any] = {"window_size": (-1 if window is None else window - 1, 0)}
        if query.shape[1] != key.shape[1] and "enable_gqa" in _FUSED:
            options["enable_gqa"] = True
        width = value.shape[-1]
        value = pad(value, (0, key.shape[-1] - width))  # the kernel has one width
        output = varlen.varlen_attn(query, key, value, *bounds, *longest, scale=scale, **options)
        assert isinstance(output, Tensor)
        return output[..., :width]
    unit = 64 if are_rounded(query.device, query.dtype) else 1
    shape = _Shape(bounds[0].tolist(), bounds[1].tolist(), scale, window, softcap, unit)
    output = _Attention.apply(query, key, value, shape)  # type: ignore[no-untyped-call]
    assert isinstance(output, Tensor)
    return output


class _Shape(NamedTuple):
    """Bounds of the segments, and parameters of the attention."""

    query_bounds: list[int]
    key_bounds: list[int]
    scale: float
    window: int | None
    softcap: float | None
    unit: int  # of the sizes of chunks


class _Chunk(NamedTuple):
    """Queries ``start:stop`` of one segment, and the keys ``first:last`` that they see.

    The last query sees the last key; ``place`` is the first query's position among these keys. Some
    that follow, of other segments or none, are in the products and have no effect.
    """

    start: int
    stop: int
    first: int
    last: int
    place: int
    unit: int

    @property
    def queries(self) -> slice:
        """The c queries of the products."""
        count = self.stop - self.start
        return slice(
            self.start, self.start + (count if self.unit == 1 else rounded(count, self.unit))
        )

    @property
    def keys(self) -> slice:
        """The m keys of the products."""
        count = self.last - self.first
        return slice(
            self.first, self.first + (count if self.unit == 1 else rounded(count, self.unit))
        )


def _chunks(shape: _Shape) -> Iterator[_Chunk]:
    """Yield the chunks of all segments."""
    queries, keys = (itertools.pairwise(b) for b in (shape.query_bounds, shape.key_bounds))
    for (begin, end), (first_key, last_key) in zip(queries, keys, strict=True):
        for start in range(begin, end, _CHUNK):
            stop = min(end, start + _CHUNK)
            last = last_key - (end - stop)
            place = last - (stop - start)
            first = first_key if shape.window is None else max(first_key, place + 1 - shape.window)
            yield _Chunk(start, stop, first, last, place - first, shape.unit)


class _Attention(torch.autograd.Function):
    """Attention in chunks.

    With P the probabilities and O = P V, the gradient of the scores is
    P * (dO V' - rowsum(dO * O)) (FlashAttention, arXiv 2205.14135, appendix B.4). Capped scores
    have the slope 1 - tanh^2.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, shape: _Shape) -> Tensor:
        """Return the outputs ``(N, h, E)``."""
        chunks = list(_chunks(shape))
        queries = _reaching(_by_key_head(query, key.shape[1]), [c.queries for c in chunks])
        seen = [c.keys for c in chunks]
        keys, values = (_reaching(x.transpose(0, 1), seen) for x in (key, value))  # (k, M, D or E)
        output = query.new_zeros(*query.shape[:2], value.shape[-1])  # (N, h, E)
        outputs = _by_key_head(output, key.shape[1])  # (k, g, N, E), a view of it
        exact = _exact(queries, keys, shape.scale)
        size = query.shape[1] * sum((c.stop - c.start) * (c.last - c.first) for c in chunks)
        keeps = size <= _KEPT and shape.softcap is None and any(ctx.needs_input_grad)
        kept = []
        for chunk in chunks:
            probabilities = _probabilities(exact, chunk, shape)[0].to(query.dtype)
            part = torch.bmm(probabilities, values[:, chunk.keys])  # (k, g c, E)
            _set(outputs, chunk, part)
            if keeps:
                kept.append(probabilities)
        ctx.save_for_backward(queries, keys, values, output, *kept)
        ctx.shape, ctx.keys = shape, len(key)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of query, key and value."""
        queries, keys, values, output, *kept = ctx.saved_tensors
        shape: _Shape = ctx.shape
        chunks = list(_chunks(shape))
        sums = _by_key_head((gradient * output).sum(-1, keepdim=True), len(keys))  # (k, g, N, 1)
        d_outputs = _by_key_head(gradient, len(keys))  # (k, g, N, E)
        sums, d_outputs = (_reaching(x, [c.queries for c in chunks]) for x in (sums, d_outputs))
        d_query = gradient.new_zeros(*gradient.shape[:2], keys.shape[-1])  # (N, h, D)
        d_queries = _by_key_head(d_query, len(keys))  # (k, g, N, D), a view of it
        d_keys, d_values = torch.zeros_like(keys), torch.zeros_like(values)  # (k, M, D) each
        exact = _exact(queries, keys, shape.scale) if not kept else (queries, keys)
        for number, chunk in enumerate(chunks):
            seen, at = chunk.keys, chunk.queries
            slope = None
            if kept:
                probabilities = kept[number]  # (k, g c, m)
            else:
                probabilities, slope = _probabilities(exact, chunk, shape)  # (k, g c, m) each
                probabilities = probabilities.to(keys.dtype)
            d_output = d_outputs[:, :, at].flatten(1, 2)  # (k, g c, E)
            d_values[:, seen].baddbmm_(probabilities.mT, d_output)
            d_scores = torch.bmm(d_output, values[:, seen].mT)  # (k, g c, m)
            d_scores.sub_(sums[:, :, at].flatten(1, 2)).mul_(probabilities)
            if slope is not None:
                d_scores.mul_(slope)
            _set(d_queries, chunk, torch.bmm(d_scores, keys[:, seen]))
            d_keys[:, seen].baddbmm_(d_scores.mT, queries[:, :, at].flatten(1, 2))
        d_query.mul_(shape.scale)
        d_keys.mul_(shape.scale)
        d_key, d_value = (x[:, : ctx.keys].transpose(0, 1) for x in (d_keys, d_values))
        return d_query, d_key, d_value, None


def _by_key_head(heads: Tensor, count: int) -> Tensor:
    """Return ``(N, h, D or E)`` as ``(k, g, N, D or E)``, a view; ``count`` is k."""
    rows, _, width = heads.shape
    return heads.view(rows, count, -1, width).permute(1, 2, 0, 3)


def _reaching(rows: Tensor, parts: list[slice]) -> Tensor:
    """Return ``(..., N or M, width)``, contiguous, with zeros added up to the end of all parts."""
    missing = max((part.stop for part in parts), default=0) - rows.shape[-2]
    return pad(rows, (0, 0, 0, missing)) if missing > 0 else rows.contiguous()


def _set(rows: Tensor, chunk: _Chunk, product: Tensor) -> None:
    """Write the product ``(k, g c, width)`` of a chunk to its own rows of ``(k, g, N, width)``."""
    own = slice(chunk.start, chunk.stop)
    by_head = product.view(*rows.shape[:2], -1, rows.shape[-1])  # (k, g, c, width)
    rows[:, :, own] = by_head[:, :, : chunk.stop - chunk.start]


def _exact(queries: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return scaled queries and keys in float32 or better: bfloat16 scores of 16 err by 1/16."""
    if keys.dtype.itemsize < 4:
        queries, keys = queries.float(), keys.float()
    return queries * scale, keys


def _probabilities(
    exact: tuple[Tensor, Tensor], chunk: _Chunk, shape: _Shape
) -> tuple[Tensor, Tensor | None]:
    """Return the attention of a chunk, ``(k, g c, m)``, and the slope of its cap if it has one."""
    queries, keys = exact
    part = queries[:, :, chunk.queries]  # (k, g, c, D)
    scores = torch.bmm(part.flatten(1, 2), keys[:, chunk.keys].mT)  # (k, g c, m)
    slope = None
    if shape.softcap is not None:
        bounded = (scores / shape.softcap).tanh_()  # (k, g c, m)
        scores, slope = bounded * shape.softcap, 1.0 - bounded.square()
    by_head = scores.view(*part.shape[:3], -1)  # (k, g, c, m), a view
    ones = torch.ones(by_head.shape[2:], dtype=torch.bool, device=keys.device)  # (c, m)
    # All keys before the chunk's own are seen, unless there is a window.
    later = ones[:, chunk.place :].triu(1)  # (c, c)
    by_head[..., chunk.place :].masked_fill_(later, -torch.inf)
    if shape.window is not None:
        by_head.masked_fill_(ones.tril(chunk.place - shape.window), -torch.inf)
    probabilities = scores.softmax(-1)
    if len(ones) > chunk.stop - chunk.start:  # later queries are another chunk's, or nobody's
        probabilities.view_as(by_head)[:, :, chunk.stop - chunk.start :] = 0.0
    return probabilities, slope
