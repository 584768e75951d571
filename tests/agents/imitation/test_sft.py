from __future__ import annotations

import numpy as np
import pytest
import torch

from search_env.agents.imitation.sft import SupervisedConfig, fit, measure
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.reporting.logs import Silent
from search_env.agents.types import Example
from search_env.errors import ConfigurationError
from tests.agents.toy_runs import tiny_model


class _Losses(Silent):
    def __init__(self):
        self.losses, self.looks = [], []

    def step(self, step, metrics, samples):
        self.losses.append((step, metrics["loss"]))

    def evaluated(self, step, metrics):
        self.looks.append((step, metrics))


def _examples(count=12, seed=0):
    """Counting up from a random id: what comes next is always known."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, 8, count)
    tokens = [(start + np.arange(10)) % 16 for start in starts]
    weights = np.r_[0.0, np.ones(9)].astype(np.float32)
    return [Example(t.astype(np.int32), weights) for t in tokens]


def _learner(rate=1e-2):
    torch.manual_seed(0)
    return Learner(tiny_model(), OptimizerConfig(learning_rate=rate))


def test_it_learns_to_count_and_measure_says_so():
    learner, seen = _learner(), _Losses()
    before = measure(learner, _examples(seed=1))
    config = SupervisedConfig(60, tokens_per_step=40, eval_every=30)
    fit(learner, _examples(), config, held_out=_examples(seed=1), observer=seen)
    assert [step for step, _ in seen.losses] == list(range(1, 61))
    assert [step for step, _ in seen.looks] == [30, 60]
    after = seen.looks[-1][1]
    assert before["eval/accuracy"] < 0.5
    assert after["eval/accuracy"] > 0.95
    assert after["eval/exact"] > 0.8
    assert after["eval/loss"] < 0.3 < before["eval/loss"]


def test_a_run_that_was_broken_off_goes_on_as_if_it_had_not_been():
    whole, config = _learner(), SupervisedConfig(10, tokens_per_step=40, seed=3)
    fit(whole, _examples(), config)
    first = _learner()
    fit(first, _examples(), SupervisedConfig(4, tokens_per_step=40, seed=3))
    second = _learner()
    second.load_state_dict(first.state_dict())
    fit(second, _examples(), config)
    for name, weight in whole.weights().items():
        assert torch.equal(weight, second.weights()[name])


def test_only_weighted_tokens_count():
    spoilt = [
        Example(np.r_[e.tokens, [5, 9, 2]].astype(np.int32), np.r_[e.weights, 0, 0, 0])
        for e in _examples()
    ]
    measured = [measure(_learner(), e) for e in (_examples(), spoilt)]
    assert measured[0] == pytest.approx(measured[1], abs=1e-5)


@pytest.mark.parametrize("weight", [0.0, None])
def test_nothing_to_imitate_is_an_error(weight):
    tokens = np.arange(4, dtype=np.int32)
    examples = [] if weight is None else [Example(tokens, np.full(4, weight, np.float32))]
    with pytest.raises(ConfigurationError, match="weights above 0"):
        fit(_learner(), examples, SupervisedConfig(1))


def test_counts_are_checked():
    with pytest.raises(ConfigurationError, match="tokens_per_step"):
        SupervisedConfig(1, tokens_per_step=-1)
