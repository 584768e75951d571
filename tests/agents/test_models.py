"""Loading, saving and fitting of models."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import search_env  # noqa: F401 - registers the ids
from search_env import paths
from search_env.agents import models
from search_env.agents.errors import ModelMismatchError
from search_env.agents.imitation.demonstrations import oracle_example
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.learning.packing import packed_logits
from search_env.agents.models import (
    check_fits,
    load_model,
    save_model,
    tiny_config,
    untrained,
    with_lora,
)
from search_env.errors import ConfigurationError
from search_env.tokens.tokenizer import load_tokenizer
from tests.agents.learning.test_learner import BATCH, assert_same, loss_of_all, make_model

# peft 0.21 asks models of transformers for what they call otherwise now.
OLD_NAMES = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


def logits(model):
    tokens = torch.arange(12)
    with torch.no_grad():
        return packed_logits(model, [tokens], tokens).float()


def test_the_tiny_shape():
    config = tiny_config()
    model = AutoModelForCausalLM.from_config(config)
    assert 0.9e6 < sum(p.numel() for p in model.parameters()) < 1.1e6
    assert config.eos_token_id in load_tokenizer("world-1k").eos_ids
    check_fits(model, load_tokenizer("world-1k"))


def test_the_bundled_base_is_small_and_fits_its_environment():
    model = load_model("tiny-base")
    folder = Path(models.__file__).parent / "assets" / "tiny-base"
    assert (folder / "model.safetensors").stat().st_size < 8e6
    assert (folder / "README.md").is_file()
    check_fits(model, load_tokenizer("world-1k"))
    shape = tiny_config()
    assert model.config.hidden_size == shape.hidden_size
    assert model.config.num_hidden_layers == shape.num_hidden_layers


def test_the_bundled_base_can_read():
    """Given the oracle's words, most of the next ones are the most likely; it is not noise."""
    env = gym.make("SearchQA-v0", split="test").unwrapped
    model = load_model("tiny-base", dtype=torch.bfloat16)
    right = []
    for index in range(6):
        example = oracle_example(env, index, decisions=False)
        keep = torch.from_numpy(np.flatnonzero(example.weights[1:] > 0))
        ids = torch.from_numpy(example.tokens.astype(np.int64))
        with torch.no_grad():
            right.append(packed_logits(model, [ids], keep).argmax(-1) == ids[keep + 1])
    assert torch.cat(right).float().mean() > 0.85


@pytest.mark.parametrize("key_value_heads", [None, 2, 1])
def test_three_heads_of_a_new_model_look_back(key_value_heads):
    config = tiny_config(key_value_heads=key_value_heads)
    config._attn_implementation = "eager"
    model = untrained(config, seed=3)
    tokens = torch.randint(1, 1024, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attention = model(tokens, output_attentions=True).attentions[0][0]
    for looks, back in zip(attention, (1, 2, 3), strict=False):
        assert torch.equal(looks.argmax(-1)[back:], torch.arange(60 - back))
        assert torch.diagonal(looks, offset=-back).mean() > 0.8
    assert attention[3, 30].max() < 0.1  # the other looks everywhere


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_comes_back_as_it_was_saved(tmp_path, dtype):
    model = make_model().to(dtype)
    folder = save_model(model, tmp_path / "deep" / "model")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]
    loaded = load_model(folder, dtype=dtype)
    assert not loaded.training
    assert_same(loaded.state_dict(), model.state_dict())
    assert load_model(str(folder)).dtype == torch.float32


def test_weights_of_a_learner_keep_their_precision(tmp_path):
    learner = Learner(make_model(), OptimizerConfig(learning_rate=1e-2), dtype="bf16")
    learner.accumulate(BATCH, loss_of_all)
    learner.step()
    loaded = load_model(save_model(learner.model, tmp_path / "m", learner.weights()))
    assert_same(loaded.state_dict(), learner.weights())
    assert (
        loaded.state_dict()["model.norm.weight"].bfloat16().float()
        != learner.weights()["model.norm.weight"]
    ).any()


def test_saving_replaces_and_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    first, second = make_model(0), make_model(1)
    folder = save_model(first, tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setattr(type(second), "save_pretrained", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_model(second, folder)
    assert_same(load_model(folder).state_dict(), first.state_dict())
    save_model(second, folder)
    assert_same(load_model(folder).state_dict(), second.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_fault_at_a_rename_leaves_the_old_model(tmp_path, monkeypatch, failing):
    folder = save_model(make_model(0), tmp_path / "model")
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(paths, "_swap", lambda *folders: False)  # as where two renames are needed
    with pytest.raises(KeyboardInterrupt):
        save_model(make_model(1), folder)
    assert_same(load_model(folder).state_dict(), make_model(0).state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_folders_are_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigurationError, match="has other files"):
        save_model(make_model(), tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_bundled_names(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_ASSETS", tmp_path)
    with pytest.raises(ConfigurationError, match=r"tiny-base.*reinstall"):
        load_model("tiny-base")
    save_model(make_model(), tmp_path / "tiny-base")
    assert_same(load_model("tiny-base").state_dict(), make_model().state_dict())


def test_what_is_not_there_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_model(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match=r"config\.json in"):
        load_model(tmp_path)
    with pytest.raises(ConfigurationError, match=r"hf download ID --local-dir FOLDER"):
        load_model("nobody/has-this-model")
    folder = save_model(make_model(), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"model\.safetensors"):
        load_model(folder)


def test_weights_of_another_shape_are_refused(tmp_path):
    folder = save_model(make_model(), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelMismatchError, match=r"missing_keys: model\.norm\.weight"):
        load_model(folder)
    save_model(make_model(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    with pytest.raises(ModelMismatchError, match=r"mismatched_keys: .*mlp"):
        load_model(folder)


def test_models_must_have_the_actions():
    model = make_model()  # 61 ids
    with pytest.raises(ModelMismatchError, match=r"1024 ids.*'world-1k'.*with 61"):
        check_fits(model, load_tokenizer("world-1k"))
    large = AutoModelForCausalLM.from_config(tiny_config(1088))
    with pytest.raises(ModelMismatchError, match=r"1024 actions.*samples 1088.*vocab_size=1088"):
        check_fits(large, load_tokenizer("world-1k"))
    check_fits(large, load_tokenizer("world-1k", 1088))


@OLD_NAMES
def test_lora_trains_adapters_only(tmp_path):
    base = make_model()
    expected = {name: p.clone() for name, p in base.named_parameters()}
    model = with_lora(base, rank=4)
    learner = Learner(model, OptimizerConfig(learning_rate=1e-2), reference=True)
    before = learner.score(BATCH)
    for _ in range(2):  # half of the adapters are zero at first
        learner.accumulate(BATCH, loss_of_all)
        learner.step()
    changed = set(learner.state_dict()["weights"])
    assert changed
    assert all("lora_" in name for name in changed)
    frozen = {n: p for n, p in base.named_parameters() if "lora_" not in n}
    assert_same({n.replace(".base_layer", ""): p for n, p in frozen.items()}, expected)
    assert (learner.score(BATCH).log_probs - before.log_probs).abs().max() > 1e-3
    assert_same(learner.score(BATCH, reference=True).log_probs, before.log_probs)

    merged = load_model(save_model(model, tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-5, rtol=0)
    again = load_model(save_model(model, tmp_path / "again", learner.weights()))
    assert_same(again.state_dict(), merged.state_dict())


@OLD_NAMES
def test_lora_in_bfloat16_and_checkpointed():
    model = with_lora(make_model(), rank=4)
    learner = Learner(
        model, OptimizerConfig(learning_rate=1e-2), dtype="bf16", gradient_checkpointing=True
    )
    losses = []
    for _ in range(20):
        losses.append(learner.accumulate_examples([BATCH[0].example()]))
        learner.step()
    assert losses[-1] < losses[0] - 0.5


def test_peft_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigurationError, match="pip install peft"):
        with_lora(make_model())
