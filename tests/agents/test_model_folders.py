"""Folders and names of models as users have them: loaded, or refused with the next step."""

from __future__ import annotations

import json
import logging

import pytest
import torch

import search_env.hub
from search_env.agents.errors import ModelMismatchError
from search_env.agents.inference.engine import Engine
from search_env.agents.models import load_model, save_model
from search_env.errors import ConfigurationError
from tests.agents.learning.test_learner import assert_same, make_model


@pytest.fixture
def folder(tmp_path):
    return save_model(make_model(), tmp_path / "model")


def change(folder, **entries):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def test_weights_in_parts_or_in_pytorchs_own_files(tmp_path, folder):
    model = make_model()
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    assert_same(load_model(tmp_path / "parts").state_dict(), model.state_dict())
    lost = sorted((tmp_path / "parts").glob("*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(ConfigurationError, match=lost.name):
        load_model(tmp_path / "parts")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert_same(load_model(folder).state_dict(), model.state_dict())


def test_buffers_of_old_checkpoints_are_ignored(folder):
    weights = make_model().state_dict()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert_same(load_model(folder).state_dict(), make_model().state_dict())
    weights["model.layers.0.extra.weight"] = torch.ones(4)
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelMismatchError, match=r"unexpected_keys: model\.layers\.0\.extra"):
        load_model(folder)


@pytest.mark.parametrize(
    ("entries", "error", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, ConfigurationError, "'gptq'"),
        (
            {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}},
            ConfigurationError,
            r"code of its own \(auto_map\), which is never run",
        ),
        ({"model_type": "t5"}, ModelMismatchError, "causal language model.*'t5'"),
        ({"model_type": None}, ConfigurationError, "model_type None"),
    ],
)
def test_other_kinds_of_models_are_named(folder, entries, error, words):
    change(folder, **entries)
    with pytest.raises(error, match=words):
        load_model(folder)


def test_code_beside_a_known_model_is_not_run(folder):
    change(folder, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('was run')")
    assert isinstance(load_model(folder), type(make_model()))


def test_damaged_files_are_named(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content in (b"", whole[:100], whole[:-50], b"\xff" * 50):
        weights.write_bytes(content)
        with pytest.raises(ConfigurationError):
            load_model(folder)
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ConfigurationError, match="git lfs pull"):
        load_model(folder)
    for text in ("", "[]", "{", "[" * 100_000):
        (folder / "config.json").write_text(text)
        with pytest.raises(ConfigurationError, match=r"config\.json to be a JSON object"):
            load_model(folder)


def test_what_a_folder_without_a_config_is(tmp_path):
    (tmp_path / "adapters").mkdir()
    adapter = tmp_path / "adapters" / "adapter_config.json"
    adapter.write_text('{"base_model_name_or_path": "Qwen/Qwen3-0.6B"}')
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "a.gguf").touch()
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "consolidated.00.pth").touch()
    save_model(make_model(), tmp_path / "run" / "model")
    for name, words in (
        ("adapters", r"adapters of 'Qwen/Qwen3-0\.6B' alone.*merge"),
        ("gguf", r"Pass a file in it: .*a\.gguf"),
        ("meta", "Meta's format"),
        ("run", r"Pass a folder in it: .*run/model"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            load_model(tmp_path / name)


def test_c8_a_misspelt_model_fails_at_once_without_a_network(tmp_path, monkeypatch, caplog):
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    connections = []

    def refuse(address, timeout=None):
        connections.append(address)
        raise OSError("no network")

    monkeypatch.setattr("search_env.hub.socket.create_connection", refuse)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("a request"))
    for name, hint in (
        ("tiny-trainde", "Did you mean 'tiny-trained'"),
        ("my-modle", "Did you mean 'my-model'"),
        ("./my-modle", "Did you mean 'my-model'"),
        ("Qwen/Qwen2.5-0.5", "hf download ID"),
        ("not a name", "folder with config.json"),
    ):
        connections.clear()
        with caplog.at_level(logging.DEBUG), pytest.raises(ConfigurationError, match=hint):
            load_model(name)
        assert len(connections) <= 1
    assert not [record for record in caplog.records if record.name.startswith("huggingface_hub")]


def test_c8_the_way_to_the_hub_may_be_a_proxy(monkeypatch):
    asked = []

    def refuse(address, timeout=None):
        asked.append(address)
        raise OSError("refused")

    monkeypatch.setattr("search_env.hub.socket.create_connection", refuse)
    monkeypatch.setattr("search_env.hub.urllib.request.proxy_bypass", lambda host: False)
    for proxy in ("http://proxy:3128", "proxy:3128", "http://user:secret@proxy:3128"):
        monkeypatch.setattr(
            "search_env.hub.urllib.request.getproxies", lambda proxy=proxy: {"https": proxy}
        )
        assert not search_env.hub.hub_reachable()
    assert asked == [("proxy", 3128)] * 3


def test_generation_settings_and_ties_survive(tmp_path):
    model = make_model()
    model.generation_config.temperature, model.generation_config.do_sample = 0.7, True
    model.generation_config.eos_token_id = [2, 5]
    again = load_model(save_model(model, tmp_path / "m"))
    assert again.generation_config.temperature == 0.7
    assert again.generation_config.eos_token_id == [2, 5]
    assert again.config.tie_word_embeddings == model.config.tie_word_embeddings


def test_a_text_model_inside_a_multimodal_one():
    """Gemma 3's own configuration holds that of its decoder."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    text |= {"max_position_embeddings": 160, "sliding_window": 64}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    config.image_token_index = 60
    torch.manual_seed(0)
    Engine(Gemma3ForConditionalGeneration(config).eval(), rows=1, max_tokens=40)
