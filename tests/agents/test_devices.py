"""Engine and learner on every device: the CPU, and a GPU with graphs and fused kernels.

pytest tests/agents/test_devices.py tests/agents/learning/test_varlen_attention.py
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import search_env.agents.inference.sampling
from search_env.agents.errors import DeviceMemoryError
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.sampling import Sampling
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.reporting.logs import Silent
from search_env.agents.training.train import train
from tests.agents.inference.test_engine import MODELS, Journal, build
from tests.agents.learning.test_learner import BATCH, make_model
from tests.agents.toy_runs import SMALL, tiny_model, toy_config

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_GPU)]


def engine_of(model, device, **options):
    """Return an engine of fixed shapes over a copy of the model, and that copy."""
    moved = copy.deepcopy(model).to(device)
    return Engine(moved, rows=5, max_tokens=150, graphs=True, **options), moved


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_decoding_equals_one_forward_pass(name, device):
    """Common prefixes, documents, releases and refills; wider graphs as rows grow."""
    model, _ = build(name)
    engine, _ = engine_of(model, device, prefill_chunk=40)
    journal = Journal(engine)
    journal.begin([0, 2, 3], [journal.ids(60)] * 2 + [journal.ids(7)])
    for _ in range(4):
        journal.decode([3, 0])
        journal.decode([0, 2, 3])
        journal.insert([2, 3], [11, 1])
    journal.begin([3, 1], [journal.ids(90), journal.ids(1)])
    for _ in range(3):
        journal.decode([1, 2, 0, 3])
    assert journal.check(model) == 4 * 5 + 3 * 4


@pytest.mark.parametrize("device", DEVICES)
def test_decoding_sees_weights_that_changed_in_place(device):
    model, _ = build("qwen2")
    engine, moved = engine_of(model, device)
    journal = Journal(engine)
    journal.begin([0, 4], [journal.ids(20), journal.ids(30)])
    journal.decode([0, 4])
    journal.release([0, 4])
    journal.check(model)
    journal.finished.clear()
    for weights in (model, moved):
        weights.model.layers[0].self_attn.q_proj.weight.mul_(1.3)
    journal.begin([4, 0], [journal.ids(20), journal.ids(30)])
    for _ in range(3):
        journal.decode([0, 4])
    assert journal.check(model) == 6


@pytest.mark.parametrize("device", DEVICES)
def test_forbidden_ids_and_graphs_take_turns(device):
    """Steps with and without forbidden ids, which have graphs of their own, in wider caches."""
    model, _ = build("qwen2")
    engine, _ = engine_of(model, device)
    prompt = np.arange(1, 30)
    engine.begin([0, 1, 4], [prompt] * 3, [7, 7, 9])
    none, most = np.zeros(0, np.int64), np.arange(40)
    alone = Engine(model, rows=2, max_tokens=150, graphs=False)
    alone.begin([0, 1], [prompt] * 2, [7, 9])
    for step in range(60):
        forbidden = [none, most, none] if step % 3 else None
        decoded = engine.decode([4, 1, 0], forbidden)
        expected = alone.decode([1, 0])
        assert decoded.ids[[0, 2]].tolist() == expected.ids.tolist()
        assert np.allclose(decoded.log_probs[[0, 2]], expected.log_probs, atol=1e-3)
        assert forbidden is None or decoded.ids[1] >= 40


@pytest.mark.parametrize("name", MODELS)
def test_decoding_never_waits_for_the_device(name, monkeypatch):
    """With fake tensors, reading a value, which a graph must not do, is an error."""
    monkeypatch.setattr(search_env.agents.inference.sampling, "_is_on_host", lambda logits: False)
    model, _ = build(name)
    sampling = Sampling(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01)
    engine, _ = engine_of(model, "cpu", sampling=sampling, value_head=nn.Linear(32, 1))
    engine.begin([0, 1], [np.arange(40), np.arange(50)], [0, 1])
    engine.decode([0, 1])
    with FakeTensorMode(allow_non_fake_inputs=True):
        sampled = engine._static._run(8)
        assert [tuple(tensor.shape) for tensor in sampled] == [(5,)] * 3
        with pytest.raises(DataDependentOutputException):
            sampled.ids[0].item()


def losses(outputs, rows):
    """A loss that tells rows and positions apart, wherever it is computed."""
    at = torch.arange(1, outputs.mask.shape[1] + 1, device=outputs.mask.device)
    terms = (rows[:, None] + 1) * at * outputs.log_probs - 0.3 * outputs.entropies
    terms = (terms + (outputs.values - 1.0).square()) * outputs.mask
    return terms.sum() / 100, {"tokens": outputs.mask.sum()}


def learnt(device, dtype, **options):
    """Return scores before and after two updates, and the learner's weights."""
    learner = Learner(
        make_model().to(device),
        OptimizerConfig(learning_rate=1e-3, weight_decay=0.1),
        dtype=dtype,
        max_tokens_per_micro_batch=60,
        value_head=True,
        reference=True,
        **options,
    )
    before = learner.score(BATCH)
    for _ in range(2):
        learner.accumulate(BATCH, losses)
        learner.step()
    scores = learner.score(BATCH).log_probs, learner.score(BATCH, reference=True).log_probs
    return before.log_probs, *scores, {k: v.cpu() for k, v in learner.weights().items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_updates_are_those_of_a_cpu(device, checkpointing):
    results = learnt(device, "fp32", gradient_checkpointing=checkpointing)
    torch.testing.assert_close(results, learnt("cpu", "fp32"), atol=2e-5, rtol=0)
    torch.testing.assert_close(results[0], results[2], atol=1e-5, rtol=0)  # the reference stays


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_is_near(device):
    before, after, *_ = learnt(device, "bf16")
    exact, exact_after, *_ = learnt("cpu", "fp32")
    torch.testing.assert_close(before, exact, atol=0.05, rtol=0)
    torch.testing.assert_close(after, exact_after, atol=0.1, rtol=0)


class Metrics(Silent):
    """Keeps what each step measured."""

    def __init__(self):
        self.seen = []

    def step(self, step, metrics, samples):
        self.seen.append(metrics)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "drift"), [("fp32", 1e-5), ("bf16", 0.3)])
def test_a_run_and_its_resumption(device, dtype, drift, tmp_path):
    settings = {"dtype": dtype, "device": device, "eval_every": 2, "algorithm": SMALL}
    metrics_log = Metrics()
    model = tiny_model(hidden=32)
    train(toy_config(tmp_path, steps=2, **settings), model=model.to(device), observer=metrics_log)
    again = tiny_model(hidden=32, seed=1).to(device)
    result = train(
        toy_config(tmp_path, steps=4, **settings), model=again, observer=metrics_log, resume=True
    )
    assert (result.steps, len(metrics_log.seen)) == (4, 4)
    assert all(metrics["policy/drift_max"] < drift for metrics in metrics_log.seen)
    assert all(parameter.isfinite().all() for parameter in again.parameters())
    assert again.device.type == device


@NO_GPU
def test_a_cache_that_does_not_fit_is_named():
    model, _ = build("qwen2")
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        with pytest.raises(DeviceMemoryError, match="Lower rows or max_tokens"):
            Engine(model.cuda(), rows=20_000, max_tokens=150)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
