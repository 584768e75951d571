"""A model keeps its tokenizer: in use, when saved, and for other libraries."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2ForCausalLM,
)
from typer.testing import CliRunner

import search_env.agents.models
from search_env.agents.baselines.scripted import make_baseline
from search_env.agents.errors import ModelMismatchError
from search_env.agents.models import (
    check_fits,
    load_model,
    own_tokenizer,
    save_model,
    tiny_config,
    with_lora,
    with_tokenizer,
)
from search_env.agents.reporting.logs import read_log
from search_env.agents.training.train import train
from search_env.benchmarks.players.local_model import ModelAgent
from search_env.cli.main import app
from search_env.errors import ConfigurationError, TokenizerError
from search_env.tokens.tokenizer import load_tokenizer
from search_env.wrappers.record_episodes import RecordEpisodes
from tests.agents.toy_runs import SMALL, tiny_model, toy_config

ASSETS = Path(search_env.agents.models.__file__).parent / "assets"
TEXTS = (
    "Who  wrote\n\nit?\n <|begin_of_query|> Ibsen's 1882 play <|end_of_query|>",
    "a ,b . n't é 日本 \t</answer>  ",
)
OLD_NAMES = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


def run(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, " ".join((done.output + done.stderr).split())


@pytest.fixture
def made_up(tmp_path):
    """A byte-level tokenizer of 261 ids with three merges and two ends, in a file of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("i", "t"), ("Ġ", "w"), ("e", "r")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *map("".join, merges)])}
    library = Library(models.BPE(vocab=vocabulary, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    path = tmp_path / "made-up" / "tokenizer.json"
    path.parent.mkdir()
    library.save(str(path))
    return path


def small_model(ids: int, positions: int = 2048):
    config = tiny_config(ids, hidden_size=16, intermediate_size=16, layers=1, heads=4)
    config.max_position_embeddings = positions
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config)


def agrees(folder, tokenizer) -> None:
    """Check that transformers and this package read a folder's tokenizer as it was."""
    theirs, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(str(folder))
    for text in TEXTS:
        ids = tokenizer.encode(text).tolist()
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text).tolist() == ids
        assert theirs.decode(ids) == ours.decode(ids) == text
    assert ours.digest == tokenizer.digest
    assert theirs.eos_token_id in tokenizer.eos_ids
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    assert ({ends} if isinstance(ends, int) else set(ends)) == tokenizer.eos_ids


@pytest.mark.parametrize("kind", ["world-1k", "byte", "made-up"])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a3_saved_models_keep_their_tokenizer(tmp_path, made_up, kind, family):
    tokenizer = load_tokenizer(str(made_up) if kind == "made-up" else kind)
    model = small_model(tokenizer.size + 3)
    if family == "llama":
        shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "vocab_size": tokenizer.size + 3}
        model = LlamaForCausalLM(LlamaConfig(**shape, **heads))
    padded = tokenizer.padded(tokenizer.size + 3)
    folder = save_model(model, tmp_path / "model", tokenizer=padded)
    agrees(folder, tokenizer)
    loaded = load_model(folder)
    check_fits(loaded, padded)
    assert own_tokenizer(loaded) == str(folder)
    agrees(save_model(loaded, tmp_path / "again"), tokenizer)  # without passing it


@pytest.mark.parametrize("name", search_env.agents.models.BUNDLED)
def test_a3_bundled_models_ship_theirs(name):
    asset = Path(search_env.__file__).parent / "tokens" / "world_1k.json"
    assert (ASSETS / name / "tokenizer.json").read_bytes() == asset.read_bytes()
    agrees(ASSETS / name, load_tokenizer("world-1k"))
    assert own_tokenizer(name) == own_tokenizer(ASSETS / name) == "world-1k"


def test_files_beside_a_tokenizer_are_kept(tmp_path, made_up):
    config = '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}'
    (made_up.parent / "tokenizer_config.json").write_text(config)
    (made_up.parent / "chat_template.jinja").write_text("{{ messages }}")
    folder = save_model(small_model(261), tmp_path / "m", tokenizer=load_tokenizer(str(made_up)))
    assert (folder / "tokenizer_config.json").read_text() == config
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"


def test_a_tokenizer_without_a_file_format_writes_no_file(tmp_path):
    folder = save_model(tiny_model(), tmp_path / "model", tokenizer=load_tokenizer("toy"))
    assert not list(folder.glob("tokenizer*"))
    assert own_tokenizer(folder) is None


def test_a2_a_tokenizer_that_is_not_the_models_is_refused(tmp_path, made_up):
    base = load_model("tiny-base")
    with pytest.raises(
        ModelMismatchError, match=r"'world-1k', in which id 0 .*'byte'.*--tokenizer"
    ):
        check_fits(base, load_tokenizer("byte", 1024))
    same = tmp_path / "same.json"
    same.write_bytes((ASSETS / "tiny-base" / "tokenizer.json").read_bytes())
    check_fits(base, load_tokenizer(str(same)))
    model = load_model(
        save_model(small_model(300), tmp_path / "m", tokenizer=load_tokenizer(str(made_up)))
    )
    with pytest.raises(ModelMismatchError, match="id 0 "):
        check_fits(model, load_tokenizer("byte", 300))
    check_fits(model, load_tokenizer(str(made_up), 300))
    check_fits(small_model(300), load_tokenizer("byte", 300))  # a model in memory has no tokenizer


def test_a_tokenizer_larger_than_the_model_is_not_its_own(tmp_path, made_up):
    """Only its configuration is from there, with a smaller vocabulary."""
    save_model(small_model(261), tmp_path / "m", tokenizer=load_tokenizer(str(made_up)))
    model = small_model(257)
    model.config.name_or_path = model.name_or_path = str(tmp_path / "m")
    check_fits(model, load_tokenizer("byte"))


@OLD_NAMES
def test_adapters_do_not_hide_where_a_model_is_from():
    adapted = with_lora(load_model("tiny-base"), rank=2)
    assert with_tokenizer({}, adapted) == {"tokenizer": "world-1k"}
    with pytest.raises(ModelMismatchError):
        check_fits(adapted, load_tokenizer("byte", 1024))


def test_a2_the_models_own_is_the_default(tmp_path, made_up, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert with_tokenizer({"top_k": 1}, "tiny-base") == {"top_k": 1, "tokenizer": "world-1k"}
    assert with_tokenizer({"tokenizer": "byte"}, "tiny-base") == {"tokenizer": "byte"}
    assert with_tokenizer({}, tiny_model()) == {}
    bare = save_model(tiny_model(), tmp_path / "bare")
    for model in (bare, load_model(bare), "nobody/has-this-model"):
        with pytest.raises(ConfigurationError, match=r"tokenizer\.json with.*--tokenizer NAME"):
            with_tokenizer({}, model)
    assert with_tokenizer({"tokenizer": "toy"}, bare) == {"tokenizer": "toy"}


def test_a2_commands_say_that_a_tokenizer_is_missing_or_another_ones(tmp_path):
    bare = save_model(tiny_model(), tmp_path / "bare")
    toy = ("SearchQA-Toy-v0", "--model", bare, "--max-tokens", 16)
    for words in (
        ("train", *toy, "--preset", "grpo", "--out", tmp_path / "run"),
        ("label", *toy, "--out", tmp_path / "labels.jsonl"),
        ("sft", "--env", "SearchQA-Toy-v0", "--model", bare, "--out", tmp_path / "sft"),
        ("pretrain", "--model", bare, "--out", tmp_path / "pretrained"),
    ):
        code, output = run(*words)
        assert code == 2, output
        assert f"tokenizer.json with the model {bare}" in output
        assert "--tokenizer NAME" in output
    wrong = ("--tokenizer", "byte", "--model", "tiny-base")
    for words in (
        ("train", *wrong, "--processes", 1, "--out", tmp_path / "other"),
        ("label", *wrong, "--out", tmp_path / "labels.jsonl"),
        ("sft", *wrong, "--out", tmp_path / "sft"),
    ):
        code, output = run(*words)
        assert code == 2, output
        assert "model's own tokenizer 'world-1k'" in output
        assert "Leave --tokenizer" in output
    with pytest.raises(ConfigurationError, match="tokenizer="):
        ModelAgent(str(bare))


def test_bench_plays_with_the_models_own(tmp_path, made_up):
    tokenizer = load_tokenizer(str(made_up))
    folder = save_model(small_model(261), tmp_path / "model", tokenizer=tokenizer)
    assert ModelAgent(str(folder))._options == {"tokenizer": str(folder)}
    assert ModelAgent("tiny-base")._options == {"tokenizer": "world-1k"}


@pytest.mark.parametrize("large", [False, True])
def test_a2_a_folder_is_trained_on_its_own_ids(tmp_path, made_up, data_dir, large):
    source, ids = made_up, 264
    if large:
        source, ids = tmp_path / "qwen2" / "tokenizer.json", 151_936
        source.parent.mkdir()
        packed = data_dir / "tokenizers" / "qwen2.json.xz"
        source.write_bytes(lzma.decompress(packed.read_bytes()))
    model = small_model(ids, positions=1024)
    base = save_model(model, tmp_path / "base", tokenizer=load_tokenizer(str(source)))
    settings = {"env_id": "SearchQA-v0", "max_tokens": 1024, "steps": 1, "num_envs": 4}
    settings |= {"algorithm": SMALL, "env_options": {"max_policy_tokens": 4}}
    seen = []

    class Told(search_env.agents.training.train.Observers):
        def step(self, step, metrics, samples):
            seen.extend(samples)

    result = train(toy_config(tmp_path / "run", model=str(base), **settings), observer=Told([]))
    own = load_tokenizer(str(base))
    assert all("solve the question" in own.decode(trajectory.tokens) for trajectory in seen)
    assert len(seen) == 16
    assert load_tokenizer(str(result.model)).digest == own.digest
    settings["env_options"] = {"tokenizer": "world-1k" if large else "byte"}
    with pytest.raises(ModelMismatchError, match="in which id"):
        train(toy_config(tmp_path / "other", model=str(base), **settings))


def test_sft_refuses_episodes_in_other_ids(tmp_path, made_up):
    env = RecordEpisodes(gym.make("SearchQA-Toy-v0"), tmp_path / "episodes.jsonl")
    agent = make_baseline("oracle")
    observation, _ = env.reset(options={"index": 0})
    agent.begin(env.unwrapped, observation)
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(agent.act(observation))
        over = terminated or truncated
    env.close()
    base = save_model(small_model(261), tmp_path / "base", tokenizer=load_tokenizer(str(made_up)))
    words = ("sft", tmp_path / "episodes.jsonl", "--model", base, "--out", tmp_path / "sft")
    code, output = run(*words)
    assert code == 2, output
    assert "in which id 0 is" in output
    assert "'toy'" in output


def test_sft_imitates_oracles_in_the_models_ids_and_keeps_them(tmp_path, made_up):
    tokenizer = load_tokenizer(str(made_up))
    base = save_model(small_model(264, 4096), tmp_path / "base", tokenizer=tokenizer)
    out = tmp_path / "sft"
    words = ("--count", 2, "--steps", 1, "--tokens-per-step", 64, "--threads", 1)
    code, output = run("sft", "--model", base, "--out", out, *words)
    assert code == 0, output
    description = read_log(out / "metrics.jsonl").description
    assert description["tokenizer"] == str(base)
    assert description["dtype"].startswith(("fp32 (", "bf16 ("))
    agrees(out / "model", tokenizer)


def test_the_byte_file_is_read_as_the_byte_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text(load_tokenizer("byte").files["tokenizer.json"])
    again = load_tokenizer(str(tmp_path))
    assert again.token_bytes == load_tokenizer("byte").token_bytes
    assert json.loads(again.files["tokenizer.json"])["model"]["merges"] == []
    with pytest.raises(TokenizerError):
        again.padded(3)
    assert torch.equal(*(torch.tensor(t.encode("é")) for t in (again, load_tokenizer("byte"))))
