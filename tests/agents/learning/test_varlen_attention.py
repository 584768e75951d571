"""Chunked attention against the textbook formula with a mask."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from search_env.agents.learning import varlen_attention as varlen
from search_env.agents.learning.varlen_attention import attend


def reference(query, key, value, bounds, scale, window, softcap=None):
    """One segment and one head at a time, the whole matrix of scores masked."""
    outputs = []
    group = query.shape[1] // key.shape[1]
    segments = zip(*(itertools.pairwise(b.tolist()) for b in bounds), strict=True)
    for (q0, q1), (k0, k1) in segments:
        heads = []
        for head in range(query.shape[1]):
            q, k, v = query[q0:q1, head], key[k0:k1, head // group], value[k0:k1, head // group]
            places = torch.arange(k1 - k0)[k1 - k0 - (q1 - q0) :, None]
            distance = places - torch.arange(k1 - k0)
            hidden = distance < 0
            if window is not None:
                hidden |= distance >= window
            scores = q @ k.T * scale
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            heads.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v)
        outputs.append(torch.stack(heads, 1))
    return torch.cat(outputs)


def inputs(segments, heads, key_heads, dtype, seed=0, width=8, value_width=None):
    torch.manual_seed(seed)
    new, lengths = torch.tensor(segments).unbind(1)
    bounds = tuple(pad(part.cumsum(0), (1, 0)).int() for part in (new, lengths))
    longest = int(new.max()), int(lengths.max())
    tensors = [
        torch.randn(int(total), count, size, dtype=dtype, requires_grad=True)
        for total, count, size in (
            (new.sum(), heads, width),
            (lengths.sum(), key_heads, width),
            (lengths.sum(), key_heads, value_width or width),
        )
    ]
    return tensors, bounds, longest


def check(
    segments,
    heads,
    key_heads,
    window,
    dtype=torch.float64,
    tolerance=1e-10,
    softcap=None,
    value_width=None,
):
    tensors, bounds, longest = inputs(segments, heads, key_heads, dtype, value_width=value_width)
    actual = attend(*tensors, bounds, longest, scale=0.4, window=window, softcap=softcap)
    expected = reference(*tensors, bounds, 0.4, window, softcap)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)
    weight = torch.randn_like(actual)
    gradients = torch.autograd.grad(actual, tensors, weight)
    expected_gradients = torch.autograd.grad(expected, tensors, weight)
    torch.testing.assert_close(gradients, expected_gradients, atol=10 * tolerance, rtol=0)


segments = st.lists(
    st.integers(1, 20).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1
).filter(lambda parts: any(new for new, _ in parts))


@settings(max_examples=40)
@given(
    segments=segments,
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    window=st.none() | st.integers(1, 25),
    chunk=st.sampled_from([1, 3, 7, 128]),
    kept=st.booleans(),
    softcap=st.none() | st.floats(0.3, 30.0),
    value_width=st.sampled_from([3, 8, 11]),
    rounds=st.booleans(),
)
def test_c1_is_the_textbook_formula(
    segments, heads, window, chunk, kept, softcap, value_width, rounds
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "are_rounded", lambda *_: rounds)
        patch.setattr(varlen, "_CHUNK", chunk)
        patch.setattr(varlen, "_KEPT", 2**20 if kept else 0)
        check(segments, *heads, window, softcap=softcap, value_width=value_width)


def test_several_chunks_in_float32():
    check([(300, 300), (131, 400)], 2, 1, None, torch.float32, 2e-6)
    check([(300, 300), (131, 400)], 2, 1, 150, torch.float32, 2e-6)


@pytest.mark.parametrize("window", [None, 5, 150])
def test_rounded_shapes_are_few_and_change_nothing(monkeypatch, window):
    monkeypatch.setattr(varlen, "are_rounded", lambda *_: True)
    shapes, bmm = set(), torch.bmm

    def noted(left, right):
        shapes.update((left.shape[1:], right.shape[1:]))
        return bmm(left, right)

    monkeypatch.setattr(torch, "bmm", noted)
    check([(300, 300), (131, 400), (1, 17), (0, 9), (77, 600)], 2, 1, window)
    # Queries of two heads, keys, and the width of a head.
    assert {size for shape in shapes for size in shape} <= {
        8,
        64,
        128,
        192,
        256,
        320,
        448,
        512,
        640,
    }


def test_gradcheck():
    tensors, bounds, longest = inputs([(3, 3), (2, 5)], 2, 1, torch.float64, width=3)
    assert torch.autograd.gradcheck(
        lambda *args: attend(*args, bounds, longest, scale=0.7, window=None), tensors
    )
    assert torch.autograd.gradcheck(
        lambda *args: attend(*args, bounds, longest, scale=0.7, softcap=0.5), tensors
    )


@pytest.mark.parametrize("kept", [True, False])
def test_bfloat16_is_as_near_as_pytorchs_own(kept, monkeypatch):
    """Scores of 20 and more, which bfloat16 cannot hold exactly."""
    monkeypatch.setattr(varlen, "_KEPT", 2**20 if kept else 0)
    tensors, bounds, longest = inputs([(300, 300)], 2, 2, torch.float64, width=32)
    tensors[0] = (4 * tensors[0]).detach().requires_grad_()
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in tensors]
    exact = [tensor.detach().double().requires_grad_() for tensor in rounded]
    scale = 32**-0.5
    weight = torch.randn(300, 2, 32, dtype=torch.bfloat16)

    def error(output):
        truth = reference(*exact, bounds, scale, None)
        expected_gradients = torch.autograd.grad(truth, exact, weight.double())
        gradients = torch.autograd.grad(output, rounded, weight)
        pairs = zip((output, *gradients), (truth, *expected_gradients), strict=True)
        return [(a.double() - b).pow(2).mean().sqrt().item() for a, b in pairs]

    ours = error(attend(*rounded, bounds, longest, scale=scale))
    batch = [tensor[None].transpose(1, 2) for tensor in rounded]
    fused = torch.nn.functional.scaled_dot_product_attention(*batch, is_causal=True, scale=scale)
    theirs = error(fused[0].transpose(0, 1))
    assert all(own < 2 * other for own, other in zip(ours, theirs, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("window", "softcap", "value_width"), [(None, None, 64), (100, None, 40), (None, 2.0, 64)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(window, softcap, value_width, dtype):
    parts = [(300, 300), (131, 400), (0, 400), (1, 17)]
    tensors, bounds, longest = inputs(parts, 4, 2, torch.float64, width=64, value_width=value_width)
    moved = [tensor.detach().to("cuda", dtype).requires_grad_() for tensor in tensors]
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in moved]
    on_gpu = tuple(bound.cuda() for bound in bounds)
    actual = attend(*moved, on_gpu, longest, scale=0.125, window=window, softcap=softcap)
    expected = reference(*exact, bounds, 0.125, window, softcap)
    weight = torch.randn_like(expected).to(dtype)
    gradients = torch.autograd.grad(actual, moved, weight.cuda())
    expected_gradients = torch.autograd.grad(expected, exact, weight.double())
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    for left, right in zip((actual, *gradients), (expected, *expected_gradients), strict=True):
        torch.testing.assert_close(left.cpu().double(), right, atol=tolerance, rtol=tolerance)


def test_nothing_is_kept_without_gradients(monkeypatch):
    tensors, bounds, longest = inputs([(5, 5)], 1, 1, torch.float32)
    with torch.no_grad():
        quiet = attend(*tensors, bounds, longest, scale=1.0)
    assert quiet.grad_fn is None
    torch.testing.assert_close(quiet, attend(*tensors, bounds, longest, scale=1.0))
