"""The distribution against torch.distributions, NumPy and transformers' logits processors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import search_env.agents.inference.sampling
from search_env.agents.inference.sampling import GREEDY, Sampling
from search_env.errors import ConfigurationError

choices = st.builds(
    Sampling,
    temperature=st.floats(0.2, 3.0),
    top_p=st.just(1.0) | st.floats(0.05, 0.99),
    top_k=st.integers(0, 40),
    min_p=st.just(0.0) | st.floats(0.001, 0.9),
)
seeds = st.integers(0, 10_000)


def random_logits(seed, rows=4, size=31):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 3


def filtered_by_transformers(sampling, logits):
    logits = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        logits = TopKLogitsWarper(sampling.top_k)(None, logits)
    if sampling.top_p < 1.0:
        logits = TopPLogitsWarper(sampling.top_p)(None, logits)
    if sampling.min_p:
        logits = MinPLogitsWarper(sampling.min_p)(None, logits)
    return logits


@settings(deadline=None)
@given(sampling=choices, seed=seeds)
def test_filters_are_those_of_transformers(sampling, seed):
    logits = random_logits(seed)
    expected = Categorical(logits=filtered_by_transformers(sampling, logits)).probs
    torch.testing.assert_close(sampling.log_probs(logits).exp(), expected)


def test_filters_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    assert Sampling(top_k=2).log_probs(logits).exp()[0].tolist() == pytest.approx(
        [2 / 3, 1 / 3, 0, 0]
    )
    assert Sampling(top_p=0.6).log_probs(logits).exp()[0].tolist() == pytest.approx(
        [2 / 3, 1 / 3, 0, 0]
    )
    assert Sampling(top_p=0.4).log_probs(logits).exp()[0].tolist() == pytest.approx([1, 0, 0, 0])
    assert Sampling(min_p=0.25).log_probs(logits).exp()[0].tolist() == pytest.approx(
        [5 / 9, 2.5 / 9, 1.5 / 9, 0]
    )
    assert Sampling(temperature=0.5).log_probs(logits).exp()[0].tolist() == pytest.approx(
        [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]
    )


def test_ids_tied_with_the_last_of_the_nucleus_are_kept():
    """Else rollouts and learner could differ in the order of ties."""
    logits = torch.tensor([0.4, 0.1, 0.2, 0.1, 0.2]).log()
    kept = [[2 / 4, 0, 1 / 4, 0, 1 / 4], [0.4, 0.1, 0.2, 0.1, 0.2]]
    for top_p, expected in zip((0.5, 0.85), kept, strict=True):
        probabilities = Sampling(top_p=top_p).log_probs(logits).exp().tolist()
        assert probabilities == pytest.approx(expected)


@given(seed=seeds, top_p=st.floats(0.05, 0.99), peak=st.sampled_from([0.1, 3.0, 30.0]))
def test_hosts_and_devices_sort_alike(seed, top_p, peak):
    logits = (peak * random_logits(seed)).bfloat16()  # with ties
    logits[0, 3:9] = -torch.inf
    logits[1, 5] = torch.nan
    sampling = Sampling(top_p=top_p)
    host = sampling.log_probs(logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_env.agents.inference.sampling, "_is_on_host", lambda logits: False)
        device = sampling.log_probs(logits)
    torch.testing.assert_close(host, device, atol=0, rtol=0, equal_nan=True)
    assert host[1].isnan().all()


@settings(deadline=None)
@given(sampling=choices, seed=seeds)
def test_draws_invert_the_cumulative_distribution(sampling, seed):
    log_probs = sampling.log_probs(random_logits(seed, 1))
    uniforms = (torch.arange(2000) + 0.5) / 2000
    ids = sampling.draw(log_probs.expand(2000, -1), uniforms)
    cumulative = np.cumsum(np.exp(log_probs[0].double().numpy()))
    expected = np.searchsorted(cumulative, uniforms.double().numpy() * cumulative[-1], "right")
    disagree = np.flatnonzero(ids.numpy() != expected)  # only where a number is on a border
    borders = np.abs(cumulative[:, None] - uniforms.numpy()[disagree]).min(0, initial=1.0)
    assert (borders < 1e-6).all()
    shares = np.bincount(ids, minlength=31) / 2000
    np.testing.assert_allclose(shares, log_probs[0].exp(), atol=1 / 2000 + 1e-6)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_ids_without_probability_are_never_drawn(uniform):
    logits = torch.full((3, 50_000), -torch.inf)
    logits[0, 17] = logits[1, 49_999] = logits[2, 0] = 1.0
    logits[0, 18] = 1.0
    ids = Sampling().draw(Sampling().log_probs(logits), torch.full((3,), uniform))
    assert ids.tolist() == [18 if uniform >= 0.5 else 17, 49_999, 0]


def test_rounding_at_the_end_of_a_large_vocabulary():
    logits = random_logits(0, 64, 50_000)
    logits[:, 40_000:] = -torch.inf
    log_probs = Sampling().log_probs(logits)
    ids = Sampling().draw(log_probs, torch.full((64,), 1 - 2**-24))
    assert (ids < 40_000).all()
    assert log_probs.gather(1, ids[:, None]).isfinite().all()


def test_greedy_is_certain_of_the_most_likely():
    logits = random_logits(3)
    log_probs = GREEDY.log_probs(logits)
    ids = GREEDY.draw(log_probs, torch.tensor([0.0, 0.3, 0.9, 1 - 2**-24]))
    assert ids.tolist() == logits.argmax(-1).tolist()
    assert log_probs.gather(1, ids[:, None]).tolist() == [[0.0]] * 4


@settings(deadline=None)
@given(sampling=choices, seed=seeds)
def test_the_learner_gets_what_the_engine_stored(sampling, seed):
    logits = random_logits(seed)
    log_probs = sampling.log_probs(logits)
    ids = sampling.draw(log_probs, torch.rand(4, generator=torch.Generator().manual_seed(seed)))
    torch.testing.assert_close(
        sampling.log_prob_of(logits, ids), log_probs.gather(1, ids[:, None])[:, 0]
    )


@settings(deadline=None)
@given(sampling=choices, seed=seeds)
def test_ids_outside_the_nucleus_have_finite_log_probabilities_and_gradients(sampling, seed):
    logits = random_logits(seed).requires_grad_()
    log_probs = sampling.log_prob_of(logits, logits.argmin(-1))
    log_probs.sum().backward()
    assert log_probs.isfinite().all()
    assert (log_probs <= 0).all()
    assert logits.grad.isfinite().all()


def test_bfloat16_logits_become_float32():
    logits = random_logits(1).bfloat16()
    assert Sampling().log_probs(logits).dtype == torch.float32
    torch.testing.assert_close(
        Sampling().log_probs(logits), logits.float().log_softmax(-1), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    "options",
    [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"min_p": 1.0}],
)
def test_values_out_of_range_are_named(options):
    with pytest.raises(ConfigurationError, match=f"Expected {next(iter(options))}"):
        Sampling(**options)
