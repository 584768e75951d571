"""Architectures agree with themselves in the engine and the learner, or are refused by name.

``scripts/check_families.py`` tries all of transformers; here are those that once failed otherwise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.check_families import AGREES, REFUSED, build, engine_error, learner_error, outcome
from search_env.agents.errors import ModelMismatchError
from search_env.agents.inference.engine import Engine
from search_env.agents.learning.learner import Learner

EXPECTED = {
    "deepseek_v2": AGREES,
    "deepseek_v3": AGREES,
    "youtu": AGREES,
    "gemma2": AGREES,
    "gpt_neo": AGREES,
    "gptj": AGREES,
    "codegen": AGREES,
    "bert": AGREES,  # configured as a decoder
    "mpt": REFUSED,
    "bart": REFUSED,
    "roberta": REFUSED,
    "whisper": REFUSED,
    "rwkv": REFUSED,
    "mamba": REFUSED,
    "gpt_oss": REFUSED,
    "stablelm": REFUSED,
}


@pytest.mark.parametrize("family", EXPECTED)
@pytest.mark.filterwarnings("ignore")  # transformers' own, of rarely used classes
def test_c2_families_agree_or_are_refused(family):
    model = build(family)
    for check in (engine_error, learner_error):
        state, detail = outcome(check, model)
        assert state == EXPECTED[family], detail
        if state == REFUSED:
            assert type(model).__name__ in detail or "Attention" in detail
            assert "Use " in detail or "cannot be packed" in detail


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("bert", {"is_decoder": False}, "tokens see later ones"),
        ("falcon", {"alibi": True}, "not transformers' interface"),
        ("phimoe", {"sliding_window": 9}, r"pass their window of 9 tokens"),
        ("bart", {}, "counts positions by itself"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_c2_the_message_names_what_differs(family, options, words):
    model = build(family, **options)
    with pytest.raises(ModelMismatchError, match=words):
        Engine(model, rows=1, max_tokens=40)
    with pytest.raises(ModelMismatchError, match=type(model).__name__):
        Learner(model)


@pytest.mark.parametrize("family", ["llama", "deepseek_v3", "gptj", "gemma2"])
@pytest.mark.filterwarnings("ignore")
def test_c1_bfloat16_is_compared_within_its_rounding(family):
    model = build(family).bfloat16()
    engine = Engine(model, rows=2, max_tokens=40)
    engine.begin([0, 1], [np.arange(3, 9), np.arange(20, 31)], [0, 1])
    assert np.isfinite(engine.decode([0, 1]).log_probs).all()
    Learner(model, dtype="bf16")


@pytest.mark.filterwarnings("ignore")
def test_c1_recomputed_layers_keep_the_replaced_attention():
    model = build("gpt_neo")
    expected = learner_error(model)
    Learner(model, gradient_checkpointing=True)  # compares gradients
    assert learner_error(model) == pytest.approx(expected, abs=1e-6)
    assert not any("_attn" in vars(module) for module in model.modules())


def test_c1_nothing_is_left_of_the_comparison():
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = Engine(model, rows=1, max_tokens=3)  # shorter than the compared sequences
    assert model.training
    assert not engine.lengths.any()
    assert engine.timings.prefill_tokens == engine.timings.decode_tokens == 0
    learner = Learner(model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert learner.updates == 0
    Engine(model, rows=2, max_tokens=1)


def test_c1_weights_that_are_not_finite_are_not_called_another_architecture():
    model = build("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    Engine(model, rows=1, max_tokens=20)
    Learner(model)
