"""The learner's numbers, gradients and steps, against plain PyTorch on one sequence at a time."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig

from search_env.agents.errors import (
    CheckpointError,
    ContextLengthError,
    DeviceMemoryError,
    ModelMismatchError,
    NonFiniteError,
)
from search_env.agents.inference.sampling import Sampling
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.learning.probe import probe
from search_env.agents.models import tiny_config, untrained
from search_env.agents.types import Example, Trajectory
from search_env.errors import ConfigurationError
from search_env.types import Source, StopReason

VOCABULARY = 61
LENGTHS = (30, 17, 44, 9, 25)


def make_model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def make_trajectory(length: int, seed: int = 0) -> Trajectory:
    """A prompt of 4 tokens, then two turns of the policy around retrieved tokens."""
    random = np.random.default_rng(seed)
    sources = np.full(length, Source.RETRIEVED, np.int8)
    sources[:4] = Source.PROMPT
    sources[4:7] = sources[-2:] = Source.POLICY
    log_probs = np.where(sources == Source.POLICY, -2.0, np.nan).astype(np.float32)
    return Trajectory(
        question_id=f"q{seed}",
        group=0,
        tokens=random.integers(0, VOCABULARY, length).astype(np.int32),
        sources=sources,
        log_probs=log_probs,
        values=None,
        reward=1.0,
        reward_parts={},
        stop_reason=StopReason.ANSWERED,
        valid=True,
        well_formed=True,
        answer="",
        scores={},
        num_searches=1,
        hops=1,
        kind="",
    )


BATCH = [make_trajectory(length, seed) for seed, length in enumerate(LENGTHS)]
"""Five policy tokens each."""


def loss_of_all(outputs, rows):
    """A loss that differs by row, position, log-probability and entropy."""
    weights = (rows[:, None] + 1) * torch.arange(1, outputs.mask.shape[1] + 1)
    terms = (weights * outputs.log_probs - 0.3 * outputs.entropies) * outputs.mask
    if outputs.values is not None:
        terms = terms + (outputs.values - 1.0).square() * outputs.mask
    return terms.sum() / 100, {"tokens": outputs.mask.sum(), "rows": rows.sum()}


def plain_outputs(model, trajectory, temperature=1.0):
    """Log-probabilities and entropies of policy tokens by one unpadded pass."""
    tokens = torch.from_numpy(trajectory.tokens).long()
    log_probs = (model(tokens[None]).logits[0] / temperature).log_softmax(-1)
    at = torch.from_numpy(np.flatnonzero(trajectory.policy))
    rows = log_probs[at - 1]
    return rows.gather(1, tokens[at][:, None])[:, 0], -(rows.exp() * rows).sum(-1)


def gradients(learner):
    return {name: p.grad.clone() for name, p in learner.model.named_parameters()}


def snapshot(learner):
    return copy.deepcopy((learner.weights(), learner.state_dict()))


def assert_same(left, right):
    torch.testing.assert_close(left, right, atol=0, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_are_those_of_single_passes(temperature):
    model = make_model()
    scores = Learner(
        model, sampling=Sampling(temperature=temperature), max_tokens_per_micro_batch=60
    ).score(BATCH)
    assert scores.mask.all()
    assert scores.log_probs.shape == (5, 5)
    assert scores.values is None
    for row, trajectory in enumerate(BATCH):
        with torch.no_grad():
            log_probs, entropies = plain_outputs(model, trajectory, temperature)
        torch.testing.assert_close(scores.log_probs[row], log_probs, atol=1e-5, rtol=0)
        torch.testing.assert_close(scores.entropies[row], entropies, atol=1e-5, rtol=0)


def test_scores_are_padded_on_the_right():
    short, silent = make_trajectory(12, 7), make_trajectory(10, 8)
    short.sources[-2:] = Source.NOTICE
    silent.sources[:] = Source.PROMPT
    scores = Learner(make_model()).score([short, silent, BATCH[0]])
    assert scores.mask.tolist() == [[True] * 3 + [False] * 2, [False] * 5, [True] * 5]
    assert scores.log_probs[~scores.mask].eq(0).all()
    assert scores.log_probs[scores.mask].lt(0).all()


def test_gradient_is_that_of_plain_passes():
    model = make_model()
    loss = 0.0
    for row, trajectory in enumerate(BATCH):
        log_probs, entropies = plain_outputs(model, trajectory)
        weights = (row + 1) * torch.arange(1, 6)
        loss = loss + (weights * log_probs - 0.3 * entropies).sum() / 100
    loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    learner = Learner(model)
    statistics = learner.accumulate(BATCH, loss_of_all)
    assert statistics == pytest.approx({"loss": loss.item(), "tokens": 25, "rows": 10}, abs=1e-4)
    torch.testing.assert_close(gradients(learner), expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=12)
@given(max_tokens_per_micro_batch=st.integers(1, 200), order=st.permutations(range(5)))
def test_micro_batches_do_not_change_the_gradient(max_tokens_per_micro_batch, order):
    def loss_by_row(outputs, rows):
        return loss_of_all(outputs, torch.tensor(order)[rows])

    whole = Learner(make_model(), max_tokens_per_micro_batch=1000, value_head=True)
    parts = Learner(
        make_model(), max_tokens_per_micro_batch=max_tokens_per_micro_batch, value_head=True
    )
    expected = whole.accumulate(BATCH, loss_of_all)
    assert parts.accumulate([BATCH[i] for i in order], loss_by_row) == pytest.approx(
        expected, abs=1e-5
    )
    torch.testing.assert_close(gradients(parts), gradients(whole), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        parts.value_head.weight.grad, whole.value_head.weight.grad, atol=1e-5, rtol=1e-4
    )


def test_values_at_other_positions_have_no_effect():
    other = copy.deepcopy(BATCH)
    for trajectory in other:
        assert np.isnan(trajectory.log_probs[~trajectory.policy]).all()
        trajectory.log_probs[~trajectory.policy] = 3.0
    left, right = Learner(make_model()), Learner(make_model())
    assert left.accumulate(BATCH, loss_of_all) == right.accumulate(other, loss_of_all)
    assert_same(gradients(left), gradients(right))
    assert all(gradient.isfinite().all() for gradient in gradients(left).values())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_checkpointing_gives_the_same_gradient(dtype):
    plain = Learner(make_model(), dtype=dtype)
    checkpointed = Learner(make_model(), dtype=dtype, gradient_checkpointing=True)
    plain.accumulate(BATCH, loss_of_all)
    checkpointed.accumulate(BATCH, loss_of_all)
    assert plain.step() == checkpointed.step()
    assert_same(plain.weights(), checkpointed.weights())
    assert not any(module.training for module in checkpointed.model.modules())


def test_large_vocabularies_are_done_in_chunks(monkeypatch):
    whole, chunked = Learner(make_model()), Learner(make_model())
    whole.accumulate(BATCH, loss_of_all)
    monkeypatch.setattr("search_env.agents.learning.packing._LOGITS_AT_ONCE", 7 * VOCABULARY)
    chunked.accumulate(BATCH, loss_of_all)
    torch.testing.assert_close(gradients(chunked), gradients(whole), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(bad):
    learner = Learner(
        make_model(), OptimizerConfig(learning_rate=1e-2), max_tokens_per_micro_batch=60
    )
    learner.accumulate(BATCH, loss_of_all)
    learner.step()
    before = snapshot(learner)

    def loss_fn(outputs, rows):
        loss, statistics = loss_of_all(outputs, rows)
        return loss * (bad if 1 in rows else 1.0), statistics

    with pytest.raises(NonFiniteError, match=r"got (nan|-?inf) in micro-batch \d of 3"):
        learner.accumulate(BATCH, loss_fn)
    assert all(p.grad is None for p in learner.model.parameters())
    assert_same(snapshot(learner), before)


def test_a_gradient_that_is_not_finite_changes_nothing():
    learner = Learner(make_model(), OptimizerConfig(learning_rate=1e-2), dtype="bf16")
    learner.accumulate(BATCH, loss_of_all)
    learner.step()
    before = snapshot(learner)

    def loss_fn(outputs, rows):
        return (outputs.log_probs * 0.0).sqrt().sum() * outputs.mask.sum(), {}

    learner.accumulate(BATCH, loss_fn)
    with pytest.raises(NonFiniteError, match="norm, got nan at update 1"):
        learner.step()
    assert_same(snapshot(learner), before)
    learner.accumulate(BATCH, loss_of_all)
    assert math.isfinite(learner.step())


def test_after_an_error_in_the_middle_nothing_is_left():
    learner = Learner(make_model(), max_tokens_per_micro_batch=40)
    calls = []

    def loss_fn(outputs, rows):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss_of_all(outputs, rows)

    with pytest.raises(KeyboardInterrupt):
        learner.accumulate(BATCH, loss_fn)
    assert all(p.grad is None for p in learner.model.parameters())
    assert learner.model.config._attn_implementation == "sdpa"


def test_an_interrupted_step_counts():
    """So that no checkpoint is taken of half a step."""
    learner = Learner(make_model())
    learner.accumulate(BATCH, loss_of_all)
    (optimizer,) = learner._optimizers
    optimizer.register_step_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        learner.step()
    assert learner.updates == 1


def test_the_configuration_may_change_between_steps():
    learner = Learner(
        make_model(), OptimizerConfig(learning_rate=0.1, max_grad_norm=1e-9), value_head=True
    )
    learner.config = OptimizerConfig(learning_rate=1e-4, value_learning_rate=1e-2)
    before = learner.weights()["model.norm.weight"].clone()
    learner.accumulate(BATCH, loss_of_all)
    learner.step()
    moved = (learner.weights()["model.norm.weight"] - before).abs().max().item()
    assert moved == pytest.approx(1e-4, rel=1e-2)
    assert learner.value_head.bias.abs().item() == pytest.approx(1e-2, rel=1e-2)


def test_updates_too_small_for_bfloat16_add_up():
    learner = Learner(make_model(), OptimizerConfig(learning_rate=1e-6), dtype="bf16")
    assert learner.model.dtype == torch.bfloat16
    first = {name: value.clone() for name, value in learner.model.state_dict().items()}
    name = "model.layers.0.mlp.up_proj.weight"
    changed = []
    for _ in range(60):
        learner.accumulate(BATCH, loss_of_all)
        learner.step()
        changed.append(int((learner.model.state_dict()[name] != first[name]).sum()))
    assert changed[0] < 0.05 * first[name].numel()
    assert changed[-1] > 5 * max(changed[0], 1)
    torch.testing.assert_close(
        learner.weights()[name].bfloat16(), learner.model.state_dict()[name], atol=0, rtol=0
    )


def test_rotary_frequencies_keep_their_precision():
    learner = Learner(make_model(), dtype="bf16")
    assert learner.model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_steps_are_clipped_and_follow_the_schedule():
    config = OptimizerConfig(
        learning_rate=0.1, max_grad_norm=1e-3, warmup_steps=2, schedule="cosine", total_steps=4
    )
    learner = Learner(make_model(), config)
    rates = []
    for _ in range(5):
        rates.append(learner.learning_rate)
        learner.accumulate(BATCH, loss_of_all)
        assert learner.step() > 1e-2
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.05, 0.0])
    assert learner.updates == 5


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_continues_exactly_from_its_state(optimizer, dtype):
    config = OptimizerConfig(
        learning_rate=1e-2, optimizer=optimizer, weight_decay=0.1, schedule="linear", total_steps=9
    )

    def steps(learner, count):
        for _ in range(count):
            learner.accumulate(BATCH, loss_of_all)
            learner.step()

    one = Learner(make_model(), config, dtype=dtype, value_head=True)
    steps(one, 2)
    state = copy.deepcopy(one.state_dict())
    steps(one, 2)
    other = Learner(make_model(), config, dtype=dtype, value_head=True)
    other.load_state_dict(state)
    assert other.updates == 2
    steps(other, 2)
    assert_same(one.weights(), other.weights())
    assert_same(one.value_head.state_dict(), other.value_head.state_dict())
    assert_same(one.model.state_dict(), other.model.state_dict())


def test_a_state_of_another_kind_is_refused():
    learner = Learner(make_model())
    before = snapshot(learner)
    for other, match in (
        (Learner(make_model(), value_head=True), "value_head"),
        (Learner(make_model(), OptimizerConfig(optimizer="muon")), "optimizer"),
        (Learner(half_frozen_model()), "model"),
    ):
        with pytest.raises(CheckpointError, match=match):
            learner.load_state_dict(other.state_dict())
    assert_same(snapshot(learner), before)


def half_frozen_model():
    model = make_model()
    model.model.layers[0].requires_grad_(False)
    return model


def test_frozen_parameters_stay():
    model = half_frozen_model()
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    learner = Learner(model, OptimizerConfig(learning_rate=0.1))
    learner.accumulate(BATCH, loss_of_all)
    learner.step()
    assert frozen
    assert_same({n: p for n, p in model.named_parameters() if n in frozen}, frozen)


def test_the_critic_starts_at_zero_and_learns():
    def loss_fn(outputs, rows):
        return ((outputs.values - 1.0).square() * outputs.mask).sum() / 25, {}

    learner = Learner(make_model(), OptimizerConfig(learning_rate=1e-2), value_head=True)
    assert learner.score(BATCH).values.eq(0).all()
    for _ in range(60):
        learner.accumulate(BATCH, loss_fn)
        learner.step()
    torch.testing.assert_close(learner.score(BATCH).values, torch.ones(5, 5), atol=0.1, rtol=0)


def test_the_critic_has_a_learning_rate_of_its_own():
    config = OptimizerConfig(learning_rate=1e-3, value_learning_rate=1e-1)
    learner = Learner(make_model(), config, value_head=True)
    before = learner.weights()["model.norm.weight"].clone()
    learner.accumulate(BATCH, loss_of_all)
    learner.step()
    # The first step of AdamW moves each weight by its learning rate.
    assert learner.value_head.bias.abs().item() == pytest.approx(1e-1, rel=1e-3)
    moved = (learner.weights()["model.norm.weight"] - before).abs().max().item()
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_values_belong_to_the_state_before_the_token():
    learner = Learner(make_model(), value_head=True)
    torch.nn.init.normal_(learner.value_head.weight)
    values = learner.score(BATCH).values
    for row, trajectory in enumerate(BATCH):
        tokens = torch.from_numpy(trajectory.tokens).long()
        hidden = learner.model.model(tokens[None]).last_hidden_state[0]
        expected = learner.value_head(hidden)[np.flatnonzero(trajectory.policy) - 1, 0]
        torch.testing.assert_close(values[row], expected, atol=1e-5, rtol=0)


def test_the_reference_stays_where_it_was():
    learner = Learner(make_model(), OptimizerConfig(learning_rate=1e-2), reference=True)
    before = learner.score(BATCH)
    learner.accumulate(BATCH, loss_of_all)
    learner.step()
    assert_same(learner.score(BATCH, reference=True).log_probs, before.log_probs)
    assert (learner.score(BATCH).log_probs - before.log_probs).abs().max() > 1e-3
    with pytest.raises(ConfigurationError, match="reference=True"):
        Learner(make_model()).score(BATCH, reference=True)


def test_examples_are_imitated_by_their_weights():
    model = make_model()
    random = np.random.default_rng(3)
    examples = [
        Example(
            random.integers(0, VOCABULARY, length).astype(np.int32),
            random.choice([0.0, 1.0, 2.5], length).astype(np.float32),
        )
        for length in LENGTHS
    ]
    total = loss = 0.0
    for example in examples:
        tokens = torch.from_numpy(example.tokens).long()
        weights = torch.from_numpy(example.weights)[1:]
        log_probs = model(tokens[None]).logits[0].log_softmax(-1)[:-1]
        loss = loss - (weights * log_probs.gather(1, tokens[1:, None])[:, 0]).sum()
        total += weights.sum().item()
    (loss / total).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    learner = Learner(model, max_tokens_per_micro_batch=50, sampling=Sampling(temperature=0.5))
    mean_loss = learner.accumulate_examples(examples)
    assert mean_loss == pytest.approx(loss.item() / total, abs=1e-5)
    torch.testing.assert_close(gradients(learner), expected, atol=1e-5, rtol=1e-4)
    assert learner.accumulate_examples(examples, 2.0) == pytest.approx(loss.item() / 2.0, rel=1e-5)


def test_examples_need_a_weight():
    first_only = Example(np.arange(5, dtype=np.int32), np.eye(5, dtype=np.float32)[0])
    with pytest.raises(ConfigurationError, match="above 0, got 0"):
        Learner(make_model()).accumulate_examples([first_only])


def test_training_on_an_example_makes_it_likely():
    example = BATCH[0].example()
    for dtype, optimizer in (("fp32", "adamw"), ("bf16", "muon")):
        config = OptimizerConfig(learning_rate=1e-2, optimizer=optimizer, weight_decay=0.01)
        learner = Learner(make_model(), config, dtype=dtype)
        losses = []
        for _ in range(30):
            losses.append(learner.accumulate_examples([example]))
            learner.step()
        assert losses[0] > 3.5
        assert losses[-1] < 0.2


def test_too_long_for_the_model():
    learner = Learner(make_model())
    with pytest.raises(ContextLengthError, match=r"at most 64 tokens.*got 65"):
        learner.score([BATCH[0], make_trajectory(66)])
    assert learner.score([make_trajectory(65)]).mask.sum() == 5


@pytest.mark.parametrize("on_host", [False, True])
def test_out_of_memory_names_the_setting(on_host):
    learner = Learner(make_model(), max_tokens_per_micro_batch=48)

    def loss_fn(outputs, rows):
        if on_host:
            raise MemoryError  # Python's own, without a message
        torch.empty(2**60, dtype=torch.int8)

    learner.accumulate(BATCH, loss_of_all)
    with pytest.raises(DeviceMemoryError, match=r"48 tokens.*Lower max_tokens_per_micro_batch"):
        learner.accumulate(BATCH, loss_fn)
    assert all(p.grad is None for p in learner.model.parameters())


def test_bad_arguments():
    with pytest.raises(
        ConfigurationError,
        match="Expected max_tokens_per_micro_batch to be an integer of at least 1",
    ):
        Learner(make_model(), max_tokens_per_micro_batch=0)
    with pytest.raises(ConfigurationError, match=r"among \['auto', 'fp32', 'bf16'\], got 'fp16'"):
        Learner(make_model(), dtype="fp16")
    with pytest.raises(ConfigurationError, match="all are frozen"):
        Learner(make_model().requires_grad_(False))
    with pytest.raises(ConfigurationError, match="total_steps"):
        OptimizerConfig(schedule="cosine", warmup_steps=10, total_steps=10)
    unprompted = make_trajectory(12)
    unprompted.sources[0] = Source.POLICY
    with pytest.raises(ConfigurationError, match="prompt before"):
        Learner(make_model()).score([unprompted])


def test_an_empty_batch_is_nothing():
    learner = Learner(make_model())
    assert learner.accumulate([], loss_of_all) == {}
    assert learner.score([]).mask.shape == (0, 0)


def test_c1_gradients_are_compared_before_they_are_rounded():
    """In bfloat16 the gradients of two right passes can differ by more than a wrong one's."""
    refused = 0
    for seed in range(12):
        model = untrained(tiny_config(), seed).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("proj.weight"):
                    parameter.mul_(20)
        try:
            probe(copy.deepcopy(model).bfloat16(), [], backward=True)
        except ModelMismatchError:
            Learner(model, dtype="bf16")
            refused += 1
    assert refused
