from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from search_env.agents.baselines.scripted import make_baseline
from search_env.agents.cli.imitate import _recorded
from search_env.agents.learning.learner import Learner
from search_env.agents.models import load_model, save_model
from search_env.agents.reporting.logs import read_log
from search_env.cli.main import app
from search_env.errors import RetrievalError
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.registry import register_retriever
from search_env.tokens.tokenizer import load_tokenizer
from search_env.wrappers.record_episodes import RecordEpisodes
from tests.agents.toy_runs import tiny_model


def _run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def base(tmp_path):
    return save_model(tiny_model(), tmp_path / "base")


def _record(path, **arguments):
    env = RecordEpisodes(gym.make("SearchQA-Toy-v0", **arguments), path)
    agent = make_baseline("oracle")
    for index in range(12):
        observation, _ = env.reset(options={"index": index})
        agent.begin(env.unwrapped, observation)
        over = False
        while not over:
            observation, _, terminated, truncated, _ = env.step(agent.act(observation))
            over = terminated or truncated
    env.close()
    return path


def test_sft_on_recorded_episodes_makes_them_likelier(tmp_path, base):
    _record(tmp_path / "episodes.jsonl")
    done = _run(
        *("sft", tmp_path / "episodes.jsonl", "--model", base, "--out", tmp_path / "sft"),
        *("--tokenizer", "toy"),
        *("--steps", 20, "--tokens-per-step", 60, "--learning-rate", 0.01, "--dtype", "fp32"),
    )
    assert done.exit_code == 0, done.output
    log = read_log(tmp_path / "sft" / "metrics.jsonl")
    losses = [row.metrics["eval/loss"] for row in log.evaluations]
    assert losses[-1] < 0.7 * losses[0]
    before, after = (load_model(f).state_dict() for f in (base, tmp_path / "sft" / "model"))
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_episodes_in_which_retrieval_failed_are_not_imitated(tmp_path, base):
    down = FakeRetriever(error=RetrievalError("down"))
    register_retriever("down for sft", lambda: down)
    arguments = {"retriever": "down for sft", "on_retrieval_error": "truncate"}
    path = _record(tmp_path / "episodes.jsonl", **arguments)
    done = _run("sft", path, "--model", base, "--tokenizer", "toy", "--out", tmp_path / "sft")
    assert done.exit_code == 2
    assert "Expected episodes to imitate, got none" in " ".join(done.stderr.split())


def test_a_cold_starts_loss_leaves_documents_out(tmp_path):
    """The mean over the policy's tokens of -log p, as a plain pass of the model has it."""
    arguments = {"protocol": "r1-searcher++", "tokenizer": "byte", "max_tokens": 1500}
    path = _record(tmp_path / "cold.jsonl", **arguments)
    examples = list(_recorded([path], None, None, load_tokenizer("byte")))
    assert len(examples) == 12
    text = load_tokenizer("byte").decode(examples[0].tokens[examples[0].weights > 0])
    assert "<external>" in text
    assert "\\boxed{" in text
    assert "<document>" not in text
    model = tiny_model(vocabulary=257)
    model.config.max_position_embeddings = 1500
    total = count = 0.0
    for example in examples[:2]:
        ids = torch.from_numpy(example.tokens).long()
        with torch.no_grad():
            log_probs = model(ids[None]).logits[0, :-1].log_softmax(-1)
        kept = torch.from_numpy(example.weights[1:]) > 0
        total -= float(log_probs[kept, ids[1:][kept]].sum())
        count += float(kept.sum())
    loss = Learner(model).accumulate_examples(examples[:2])
    assert loss == pytest.approx(total / count, rel=1e-4)


def test_b4_an_interrupted_sft_goes_on_to_the_same_model(tmp_path, base, monkeypatch):
    words = ("sft", "--model", base, "--env", "SearchQA-Toy-v0", "--tokenizer", "toy")
    words += ("--steps", 10, "--tokens-per-step", 60, "--dtype", "fp32", "--threads", 1, "--out")
    assert _run(*words, tmp_path / "whole").exit_code == 0
    step = Learner.step

    def stopped(learner):
        if learner.updates == 7:
            raise KeyboardInterrupt
        return step(learner)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stopped)
        done = _run(*words, tmp_path / "parts")
    assert done.exit_code == 130, done.output
    assert "Run the same command to go on" in done.stderr.replace("\n", " ")
    done = _run(*words, tmp_path / "parts")
    assert done.exit_code == 0, done.output
    whole, parts = (load_model(tmp_path / out / "model").state_dict() for out in ("whole", "parts"))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    assert not (tmp_path / "parts" / "checkpoints").exists()
    done = _run(*words, tmp_path / "parts")
    assert done.exit_code == 2
    assert "finished" in done.stderr


def test_pretrain_makes_a_new_tiny_model(tmp_path):
    done = _run(
        *("pretrain", "--out", tmp_path / "new", "--worlds", 1, "--articles", 100),
        *("--steps", 2, "--tokens-per-step", 600),
    )
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "new" / "model").config.hidden_size == 128


def test_nothing_paid_enough_is_an_error(tmp_path, base):
    episodes = _record(tmp_path / "episodes.jsonl")
    command = ("sft", episodes, "--model", base, "--tokenizer", "toy", "--out", tmp_path / "sft")
    done = _run(*command, "--least", 2)
    assert done.exit_code == 2
    assert "got none in" in " ".join(done.output.split())


def test_a_typo_in_the_optimizer_is_named(tmp_path):
    done = _run("pretrain", "--out", tmp_path, "--articles", 100, "--optimizer", "moun")
    assert done.exit_code == 2
    assert "'muon'" in done.output
