"""Memorisation in a run: when, by whom, what is logged, and runs that are gone on with."""

from __future__ import annotations

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2ForCausalLM

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.errors import CheckpointError
from search_env.agents.imitation.sft import SupervisedConfig, fit
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.models import save_model
from search_env.agents.reporting.logs import Silent
from search_env.agents.rollouts.memorisation import MemorisationConfig
from search_env.agents.training import memorisation
from search_env.agents.training.checks import check_run
from search_env.agents.training.config import PLUS_PLUS_PHASES, TrainConfig
from search_env.agents.training.settings import configure
from search_env.agents.training.train import train
from search_env.agents.types import Example
from search_env.errors import ConfigurationError
from search_env.types import Source
from tests.agents.toy_runs import tiny_model, toy_config
from tests.benchmarks.players.endpoint_server import chat_reply, serving

SETTINGS = Algorithm(
    advantage="mean_only", aggregation="token_mean", prompts=6, group_size=6, learning_rate=2e-3
)
TASK = "{question} {documents} "
ORACLE = MemorisationConfig(weight=0.1, source="oracle", min_searches=1)
BY_MODEL = MemorisationConfig(weight=0.1, min_searches=1, prompt=TASK, max_tokens=6, tries=2)


def shown(text: str, policy: int = 0, index: int = 0) -> Example:
    """Return an example of the toy in which the policy writes a text after its prompt."""
    env = gym.make("SearchQA-Toy-v0").unwrapped
    env.reset(seed=0, options={"index": index})
    for token in env.tokenizer.encode(text):
        env.step(int(token))
    transcript = env.transcript()
    weights = (transcript.sources == Source.POLICY).astype(np.float32)
    return Example(transcript.tokens, weights)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model that answers some questions by a search and some without, and rewrites."""
    env = gym.make("SearchQA-Toy-v0").unwrapped
    examples = []
    for index, question in enumerate(env.questions):
        gold = question.answers[0]
        examples += [
            shown(f"<q>{question.hops[0].query}</q><a>{gold}</a>", index=index),
            shown(f"<a>{gold}</a>", index=index),
        ]
        asked = TASK.replace("{question}", question.text).replace("{documents}", gold)
        prompt, path = (env.tokenizer.encode(text) for text in (asked, f"<a>{gold}</a>"))
        weights = np.r_[np.zeros(len(prompt)), np.ones(len(path))].astype(np.float32)
        examples.append(Example(np.concatenate([prompt, path]), weights))
    torch.manual_seed(0)
    learner = Learner(tiny_model(hidden=64), OptimizerConfig(learning_rate=5e-3))
    fit(learner, examples, SupervisedConfig(150, 800))
    folder = tmp_path_factory.mktemp("memory") / "base"
    save_model(learner.model, folder)
    return folder


class Told(Silent):
    def __init__(self):
        self.metrics = []

    def step(self, step, metrics, samples):
        self.metrics.append(dict(metrics))


def config_of(out, memorisation, **changes) -> TrainConfig:
    settings = {"algorithm": SETTINGS, "phases": PLUS_PLUS_PHASES, "num_envs": 12, "steps": 4}
    settings |= {"env_options": {"tokenizer": "toy"}, "memorisation": memorisation}
    return toy_config(out, **{**settings, **changes})


def run(out, base, memorisation, **changes):
    told, resume = Told(), changes.pop("resume", False)
    config = config_of(out, memorisation, **changes)
    model = Qwen2ForCausalLM.from_pretrained(base)
    train(config, model=model, observer=told, resume=resume)
    return told.metrics, load_file(out / "model" / "model.safetensors")


@pytest.mark.parametrize("memorisation", [ORACLE, BY_MODEL], ids=["oracle", "model"])
def test_paths_are_learnt_logged_apart_and_the_same_after_a_stop(tmp_path, base, memorisation):
    memorisation = replace(memorisation, first_step=1, every=2)
    metrics, whole = run(tmp_path / "whole", base, memorisation)
    for step, row in enumerate(metrics):
        due = step in (1, 3)
        counts = [row[f"memory/{name}"] for name in ("right", "chosen", "written", "kept")]
        assert row["memory/examples"] == row["memory/kept"]
        assert due or not any(counts)
        assert np.isfinite(row["memory/loss"]) == (row["memory/kept"] > 0)
        assert {"reward/answer", "reward/format", "reward/group"} <= row.keys()
        assert row["time/rewrite"] >= 0
        assert row["time/memory_loss"] <= row["time/learn"]
        assert SETTINGS.prompts >= counts[1] >= counts[3]
        assert counts[0] >= counts[1]
    assert sum(row["memory/kept"] for row in metrics) > 0
    assert sum(row["reward/group"] for row in metrics) > 0
    first = run(tmp_path / "parts", base, memorisation, steps=2)[0]
    rest, parts = run(tmp_path / "parts", base, memorisation, resume=True)
    names = [name for name in metrics[0] if not name.startswith("time/")]
    for one, other in zip(metrics, first + rest, strict=True):
        np.testing.assert_equal([one[n] for n in names], [other[n] for n in names])
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    without, _ = run(tmp_path / "none", base, MemorisationConfig(), steps=2)
    assert not any(name.startswith("memory/") for name in without[0])
    assert without[0]["reward/mean"] == metrics[0]["reward/mean"]  # the same first rollouts
    assert without[1]["reward/mean"] == metrics[1]["reward/mean"]


def test_a_run_that_fails_in_a_step_asks_an_endpoint_nothing_twice(tmp_path, base, monkeypatch):
    pytest.importorskip("openai")
    replies = []

    def reply(_, request):
        replies.append(request["messages"][-1]["content"])
        value = replies[-1].split()[-1]
        return chat_reply(f"<a>{value}</a>")

    update, calls = memorisation.memorise, []

    def killed(*arguments):
        found = update(*arguments)
        calls.append(found)
        if len(calls) == 2:
            raise RuntimeError("killed")
        return found

    with serving(reply) as (url, requests):
        by_endpoint = replace(
            ORACLE, source=url, endpoint_model="m", prompt="{question} {documents}", retries=0
        )
        metrics, whole = run(tmp_path / "whole", base, by_endpoint, steps=2)
        asked = len(requests)
        assert asked == sum(row["memory/chosen"] for row in metrics) > 0
        monkeypatch.setattr(memorisation, "memorise", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(tmp_path / "parts", base, by_endpoint, steps=2)
        monkeypatch.undo()
        assert len(requests) == 2 * asked
        _, parts = run(tmp_path / "parts", base, by_endpoint, steps=2, resume=True)
        assert len(requests) == 2 * asked
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rows = (tmp_path / "parts" / "rewrites.jsonl").read_text().splitlines()
    assert len({json.loads(row)["key"] for row in rows}) == len(rows) > 0


def test_processes_memorise_what_one_does(tmp_path, base):
    told = []
    for processes in (1, 2):
        told.append(Told())
        config = config_of(
            tmp_path / str(processes),
            BY_MODEL,
            model=str(base),
            steps=1,
            processes=processes,
        )
        train(config, observer=told[-1])
    one, two = (observer.metrics[0] for observer in told)
    for name in ("right", "chosen", "written", "kept", "examples"):
        assert one[f"memory/{name}"] == two[f"memory/{name}"]
    assert one["memory/kept"] > 0
    for name in ("memory/loss", "policy/loss", "policy/grad_norm"):
        assert one[name] == pytest.approx(two[name], rel=1e-4)


def test_a_resumed_run_memorises_as_before(tmp_path, base):
    run(tmp_path, base, ORACLE, steps=1)
    for other in (replace(ORACLE, weight=0.2), MemorisationConfig()):
        with pytest.raises(CheckpointError, match="memorisation was"):
            run(tmp_path, base, other, steps=2, resume=True)
    run(tmp_path, base, ORACLE, steps=2, resume=True)
    run(tmp_path / "none", base, MemorisationConfig(), steps=1)
    with pytest.raises(CheckpointError, match="memorisation was None"):
        run(tmp_path / "none", base, ORACLE, steps=2, resume=True)


def test_the_preset_is_the_whole_system():
    config = configure(preset="r1-searcher++")
    assert config.env_options["protocol"] == "r1-searcher++"
    assert config.phases == PLUS_PLUS_PHASES
    assert config.memorisation == MemorisationConfig(weight=0.1)
    assert config.algorithm.updates == 1
    check_run(config)
    changed = configure(
        preset="r1-searcher++",
        values={"memorisation.source": "oracle"},
        texts=["memorisation.weight=0.2", "memorisation.last_step=30", "group_size=4"],
    )
    assert changed.memorisation == MemorisationConfig(weight=0.2, source="oracle", last_step=30)
    assert TrainConfig.from_json(changed.to_json()) == changed
    both = configure(preset="r1-searcher++", values={"phases": "both"})
    assert both.phases == PLUS_PLUS_PHASES
    with pytest.raises(ConfigurationError, match=r"memorisation.*Did you mean 'weight'"):
        configure(texts=["memorisation.wieght=1"])
    with pytest.raises(ConfigurationError, match="weight"):
        configure(texts=["memorisation.weight=much"])


def test_settings_of_before_have_no_memorisation():
    config = configure(preset="grpo")
    settings = config.to_json()
    del settings["memorisation"]
    assert TrainConfig.from_json(settings) == config
    assert config.resume_settings()["memorisation"] is None


def test_what_cannot_be_memorised_is_said_before_the_run(tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"id": "1", "question": "Who?", "golden_answers": ["Ada"]}\n')
    values = {"env_options.dataset": str(questions), "env_options.retriever": "bm25"}
    values |= {"env_options.corpus": str(tmp_path / "corpus.jsonl"), "out": str(tmp_path / "run")}
    values |= {"eval_every": 0, "memorisation.weight": 0.1, "memorisation.source": "oracle"}
    (tmp_path / "corpus.jsonl").write_text('{"id": "d", "contents": "Ada\\nAda wrote."}\n')
    config = configure(preset="grpo", values=values)
    with pytest.raises(ConfigurationError, match="known hops for memorisation"):
        check_run(config)
    check_run(replace(config, memorisation=MemorisationConfig(weight=0.1)))
    odd = MemorisationConfig(weight=0.1, source="http://", endpoint_model="m")
    pytest.importorskip("openai")
    with pytest.raises(ConfigurationError, match="address of an endpoint"):
        check_run(replace(config, memorisation=odd))
