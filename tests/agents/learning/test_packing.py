"""Packed sequences are computed as if each were alone."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GptOssConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from search_env.agents.errors import ModelMismatchError
from search_env.agents.learning import packing, varlen_attention
from search_env.agents.learning.packing import (
    lay_out,
    packed_attention,
    packed_forward,
    packed_logits,
)

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 700,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "smollm": LlamaConfig(**SHAPE, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=16),
    "gemma3": Gemma3TextConfig(
        **SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=1024, layer_types=None
    ),
    "gemma2": Gemma2Config(
        **SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=30, attn_logit_softcapping=0.5
    ),
    "deepseek-v2": DeepseekV2Config(**SHAPE, **LATENT),
    "deepseek-v3": DeepseekV3Config(**SHAPE, **LATENT, n_group=1, topk_group=1),
    "gpt-neo": GPTNeoConfig(
        **{**SHAPE, "num_layers": 2, "num_heads": 4, "window_size": 30},
        attention_types=[[["global", "local"], 1]],
    ),
    "gpt2": GPT2Config(
        vocab_size=61,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=700,
        bos_token_id=1,
        eos_token_id=2,
    ),
}
LENGTHS = (5, 300, 1, 40)


def make(name: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = copy.deepcopy(CONFIGS[name])
    # The fused attention does not cap logits, and GPT-Neo has none.
    implementation = "eager" if name in ("gemma2", "gpt-neo") else "sdpa"
    return AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()


def sequences(lengths=LENGTHS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 61, (length,), generator=generator) for length in lengths]


def family() -> list[Tensor]:
    """Sequences with common prefixes, one of them twice and one a prefix of another."""
    a, b, c = sequences((30, 20, 9))
    return [torch.cat(parts) for parts in ((a,), (a, b), (a, b), (a, c), (c,), (a[:5], c))]


@pytest.mark.parametrize(
    ("rows", "keep", "tolerance"),
    [
        (sequences(), [0, 4, 5, 17, 260, 304, 305, 306, 345], 2e-5),
        (family(), [*range(30 + 50 + 50 + 39 + 9 + 14)], 5e-5),
    ],
    ids=["separate", "common prefixes"],
)
@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_c1_logits_and_gradients_are_those_of_separate_passes(
    name, rows, keep, tolerance, rounds, monkeypatch
):
    for module in (packing, varlen_attention):
        monkeypatch.setattr(module, "are_rounded", lambda *_: rounds)
    model, keep = make(name), torch.tensor(keep)
    alone = torch.cat([model(row[None]).logits[0] for row in rows])[keep]
    weight = torch.randn(alone.shape, generator=torch.Generator().manual_seed(2))
    (alone * weight).sum().backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()

    packed = packed_forward(model, rows, keep)
    (packed.logits * weight).sum().backward()

    torch.testing.assert_close(packed.logits, alone, atol=1e-5, rtol=0)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[n], atol=tolerance, rtol=1e-4, msg=n)
    assert model.config._attn_implementation in ("sdpa", "eager")


def test_common_prefixes_are_computed_once():
    row = lay_out(family())
    assert row.new.tolist() == [30, 20, 0, 9, 9, 14]
    assert row.lengths.tolist() == [30, 50, 50, 39, 9, 14]
    assert torch.equal(row.ids[row.index], torch.cat(family()))
    expected = torch.cat([torch.arange(len(sequence)) for sequence in family()])
    assert torch.equal(row.positions[row.index], expected)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8))
def test_a_row_holds_every_sequence(tokens):
    rows = [torch.tensor(ids) for ids in sorted(tokens)]
    row = lay_out(rows)
    assert torch.equal(row.ids[row.index], torch.cat(rows))
    # In sorted order every common prefix is shared, as in a tree of prefixes.
    assert len(row.ids) == len(
        {tuple(ids[:end]) for ids in tokens for end in range(1, 13)[: len(ids)]}
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_states_are_what_the_head_maps(name):
    model, rows = make(name), sequences()
    logits, hidden = packed_forward(model, rows, torch.tensor([3, 200]))
    assert hidden.shape == (2, 32)
    mapped = model.get_output_embeddings()(hidden)
    if name == "gemma2":  # caps its logits
        mapped = 30.0 * torch.tanh(mapped / 30.0)
    torch.testing.assert_close(mapped, logits)


def test_kept_positions_come_in_the_order_asked_for():
    model, rows = make("llama"), sequences()
    keep = torch.tensor([300, 2, 2])
    everything = packed_logits(model, rows, torch.arange(sum(LENGTHS)))
    torch.testing.assert_close(packed_logits(model, rows, keep), everything[keep])


def test_bfloat16_is_near_float32():
    model, rows = make("llama"), sequences()
    keep = torch.arange(sum(LENGTHS))
    exact = packed_logits(model, rows, keep)
    rounded = packed_logits(model.bfloat16(), rows, keep)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0)


def test_the_lengths_of_packed_rows_are_few():
    model, sizes = make("llama").bfloat16(), set()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, inputs, out: sizes.add(out.shape[1]))
    for length in range(1, 300, 7):
        logits = packed_logits(model, sequences((length, 2)), torch.arange(length + 2))
        assert len(logits) == length + 2
    assert sizes == {64, 128, 192, 256, 320}


def test_attention_is_restored_after_an_error():
    model = make("llama")

    def fail():
        with packed_attention(model):
            assert model.config._attn_implementation == "packed"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.config._attn_implementation == "sdpa"


def test_attention_sinks_are_refused():
    config = GptOssConfig(**SHAPE, num_key_value_heads=2, head_dim=8, num_local_experts=2)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with pytest.raises(ModelMismatchError, match=r"s_aux.*GptOssAttention"):
        packed_logits(model, sequences(), torch.tensor([0]))


def test_a_call_without_lengths_is_refused():
    model = make("llama")
    with packed_attention(model), pytest.raises(ModelMismatchError, match="packed_forward"):
        model(sequences()[0][None])


def test_layers_that_are_no_attention_are_refused():
    model = make("qwen2")
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ModelMismatchError, match="linear_attention"):
        packed_logits(model, sequences(), torch.tensor([0]))
