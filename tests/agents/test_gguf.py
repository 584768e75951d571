"""Models in ``.gguf`` files: loaded, saved as folders, or refused by what is wrong with them."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from search_env.agents.errors import ModelMismatchError
from search_env.agents.inference.engine import Engine
from search_env.agents.models import check_fits, load_model, own_tokenizer, save_model
from search_env.errors import ConfigurationError
from search_env.tokens.tokenizer import load_tokenizer

WORDS = [*(chr(c) for c in range(33, 126)), "!!"]  # a byte-level vocabulary with one merge
SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 94,
    "eos_token_id": 95,
    "tie_word_embeddings": True,
}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def make_model(**options):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE | options)).eval()


def permuted(weight, heads):
    """llama.cpp's order of rotary pairs (convert_hf_to_gguf.py, LlamaModel.permute)."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def write(path, model, architecture="llama", settings=(), tensors=(), kind="F32"):
    """Write a model as llama.cpp's converter does."""
    gguf = pytest.importorskip("gguf")
    config, writer = model.config, gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*WORDS, "<|begin|>", "<|end|>"])
    writer.add_token_types([1] * len(WORDS) + [3, 3])
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(94)
    writer.add_eos_token_id(95)
    writer.add_unk_token_id(94)
    writer.add_chat_template("{{ messages }}")
    for name, value in settings:
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(name, value)
    for name, value in model.state_dict().items():
        array = value.numpy()
        if "q_proj" in name:
            array = permuted(array, config.num_attention_heads)
        if "k_proj" in name:
            array = permuted(array, config.num_key_value_heads)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        name = name.replace("model.layers.", "blk.").replace("model.embed_tokens", "token_embd")
        name = name.replace("model.norm", "output_norm").replace("lm_head", "output")
        if name == "output.weight" and config.tie_word_embeddings:
            continue
        to = gguf.GGMLQuantizationType[kind]
        if array.ndim == 2 and kind != "F32":
            writer.add_tensor(name, gguf.quants.quantize(array, to), raw_dtype=to)
        else:
            writer.add_tensor(name, array.astype(np.float32))
    for name, array in tensors:
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model):
    with torch.no_grad():
        return model(torch.arange(40)[None]).logits


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_0"])
def test_a_file_is_loaded_and_saved_as_a_complete_folder(tmp_path, kind):
    model = make_model()
    path = write(tmp_path / "tiny.gguf", model, kind=kind)
    loaded = load_model(path, dtype=torch.bfloat16 if kind == "Q4_0" else torch.float32)
    assert loaded.dtype == (torch.bfloat16 if kind == "Q4_0" else torch.float32)
    largest = {"F32": 1e-6, "Q8_0": 0.02, "Q4_0": 0.2}[kind]
    assert (logits(loaded).float() - logits(model)).abs().max() < largest
    assert own_tokenizer(loaded) == own_tokenizer(str(path)) == str(path)
    check_fits(loaded, load_tokenizer(str(path)))
    folder = save_model(loaded, tmp_path / "folder")
    again = load_model(folder, dtype=loaded.dtype)
    assert torch.equal(logits(again), logits(loaded))
    assert not hasattr(again.config, "quantization_config")
    assert load_tokenizer(str(folder)).digest == load_tokenizer(str(path)).digest
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= {
        file.name for file in folder.iterdir()
    }
    assert load_tokenizer(str(folder)).chat_template.text == "{{ messages }}"
    Engine(loaded, rows=1, max_tokens=20)


def test_the_scaling_of_llama_3_1_is_kept(tmp_path):
    rope = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 500000.0}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = make_model(rope_parameters={**rope, "original_max_position_embeddings": 8192})
    plain = make_model(rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    divisors = (plain.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq).numpy()
    path = write(tmp_path / "a.gguf", model, tensors=[("rope_freqs.weight", divisors)])
    loaded = load_model(path)
    torch.testing.assert_close(
        loaded.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq, rtol=1e-5, atol=0
    )
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=0)
    saved = load_model(save_model(loaded, tmp_path / "saved"))
    torch.testing.assert_close(logits(saved), logits(model), atol=1e-5, rtol=0)
    path = write(tmp_path / "b.gguf", model, tensors=[("rope_freqs.weight", divisors * 2)])
    with pytest.raises(ModelMismatchError, match=r"rotary frequencies as in Llama 3\.1"):
        load_model(path)


def test_what_transformers_would_leave_out_is_refused(tmp_path):
    model = make_model()
    for name, settings, tensors, words in (
        ("arch", (), (), "'rwkv9'"),
        ("scaling", [("llama.rope.scaling.type", "yarn")], (), "scaling 'yarn'"),
        ("bias", (), [("blk.0.attn_q.bias", np.zeros(64, np.float32))], "leaves some out"),
    ):
        architecture = "rwkv9" if name == "arch" else "llama"
        path = write(tmp_path / f"{name}.gguf", model, architecture, settings, tensors)
        with pytest.raises(ModelMismatchError, match=words):
            load_model(path)


def test_split_and_damaged_files_are_named(tmp_path):
    whole = write(tmp_path / "whole.gguf", make_model())
    split = write(tmp_path / "x-00001-of-00002.gguf", make_model(), settings=[("split.count", 2)])
    with pytest.raises(ConfigurationError, match=r"one of 2 parts.*llama-gguf-split --merge"):
        load_model(split)
    raw = whole.read_bytes()
    damaged = tmp_path / "damaged.gguf"
    for content in (
        b"",
        b"<html>not found</html>",
        raw[:3],
        raw[:200],
        raw[:-100],
        raw[: len(raw) // 2],
        raw[:4] + struct.pack(">I", 3) + raw[8:],
        raw[:8] + struct.pack("<Q", 1 << 60) + raw[16:],
    ):
        damaged.write_bytes(content)
        with pytest.raises(ConfigurationError, match="whole GGUF file"):
            load_model(damaged)


def test_the_package_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigurationError, match=r"pip install \"search-env\[gguf\]\""):
        load_model(tmp_path / "a.gguf")
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_model(tmp_path / "b.gguf")
