from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from search_env.agents.algorithms.presets import PRESETS
from search_env.agents.errors import (
    CheckpointError,
    ContextLengthError,
    ModelMismatchError,
    NonFiniteError,
)
from search_env.agents.models import load_model
from search_env.agents.reporting.logs import JsonLinesLog, Silent, read_log
from search_env.agents.rollouts.lm_agent import play_questions, spread
from search_env.agents.training import checkpoints, run
from search_env.agents.training.config import Phase, TrainConfig
from search_env.agents.training.train import train
from search_env.agents.types import by_group
from search_env.errors import ConfigurationError, RetrievalError
from search_env.paths import used_alone
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.registry import register_retriever
from search_env.rewards.phases import PhaseSwitch
from tests.agents.toy_runs import ONE_PHASE, SMALL, run_both_phases, tiny_model, toy_config

ROOT = Path(__file__).parents[3]


class _Told(Silent):
    def __init__(self, interrupt_at: int | None = None) -> None:
        self.metrics: list[dict[str, float]] = []
        self.evaluations: list[int] = []
        self.warnings: list[str] = []
        self.ended: tuple[int, str] | None = None
        self.interrupt_at = interrupt_at

    def step(self, step, metrics, samples):
        self.metrics.append(dict(metrics))
        self.samples = samples
        if step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def evaluated(self, step, metrics):
        self.evaluations.append(step)

    def warn(self, step, text):
        self.warnings.append(text)

    def end(self, step, reason):
        self.ended = (step, reason)


def _weights(folder) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model" / "model.safetensors")


def _assert_equal(one, other) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_both_phases(folder, steps=6)
    return _weights(folder)


def test_sigkill_at_a_random_moment_then_resume(tmp_path, uninterrupted):
    """The odds that the kill comes before the first or after the last checkpoint do not matter."""
    command = [sys.executable, "-m", "tests.agents.toy_runs", str(tmp_path), "6"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        while checkpoints.latest(tmp_path / "checkpoints") is None and child.poll() is None:
            time.sleep(0.01)
        time.sleep(random.random() * 0.8)
        child.send_signal(signal.SIGKILL)
    result = run_both_phases(tmp_path, steps=6, resume=True)
    assert (result.steps, len(result.switches)) == (6, 1)
    _assert_equal(_weights(tmp_path), uninterrupted)


@pytest.mark.parametrize("where", ["after a step", "in a collection", "in an update"])
def test_ctrl_c_saves_the_last_whole_step(tmp_path, uninterrupted, monkeypatch, where):
    told = _Told(interrupt_at=3 if where == "after a step" else None)
    name = {"in a collection": "collect", "in an update": "update"}.get(where)
    if name is not None:
        import search_env.agents.training.run as module

        original, calls = getattr(module, name), []

        def interrupted(*arguments, **options):
            calls.append(name)
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_both_phases(tmp_path, steps=6, observer=told, checkpoint_every=100)
    monkeypatch.undo()
    saved = checkpoints.load(checkpoints.latest(tmp_path / "checkpoints"))
    assert told.ended == (saved.step, "interrupted")
    assert 0 < saved.step < 6
    if where == "in an update":
        assert saved.step == 5  # held back until the step was whole
    run_both_phases(tmp_path, steps=6, resume=True)
    _assert_equal(_weights(tmp_path), uninterrupted)


def test_a_run_tells_what_happens_and_leaves_a_model(tmp_path):
    config = toy_config(tmp_path / "run", steps=3, eval_every=2, checkpoint_every=2)
    told, log = _Told(), JsonLinesLog(tmp_path / "metrics.jsonl")

    class Both(_Told):
        def begin(self, *arguments):
            log.begin(*arguments)

        def step(self, *arguments):
            log.step(*arguments)
            told.step(*arguments)

        def evaluated(self, *arguments):
            log.evaluated(*arguments)
            told.evaluated(*arguments)

        def end(self, *arguments):
            log.end(*arguments)

    result = train(config, model=tiny_model(), observer=Both())
    assert told.evaluations == [0, 2, 3]
    assert [step for step, _ in result.evaluations] == [0, 2, 3]
    assert (result.steps, result.reason) == (3, "all steps are made")
    assert len(told.samples) == 16
    for metrics in told.metrics:
        assert metrics["policy/drift_max"] < 1e-5
        assert metrics["phase"] == 1.0
        parts = ("environment", "retrieval", "prefill", "decode")
        assert sum(metrics[f"time/{part}"] for part in parts) == pytest.approx(
            metrics["time/rollout"], rel=0.2, abs=0.05
        )
        assert metrics["reward/mean"] == pytest.approx(
            metrics["reward/retrieval"] + metrics["reward/format"]
        )
    read = read_log(tmp_path / "metrics.jsonl")
    assert [row.step for row in read.steps] == [1, 2, 3]
    assert read.end == "all steps are made"
    again = AutoModelForCausalLM.from_pretrained(result.model)
    saved = checkpoints.load(checkpoints.latest(tmp_path / "run" / "checkpoints"))
    assert saved.step == 3
    for name, weight in saved.weights.items():
        assert torch.equal(again.state_dict()[name], weight)


def test_phases_change_reward_and_rates(tmp_path):
    phases = (
        Phase(reward="r1-searcher-stage1", changes={"learning_rate": 1e-4}),
        Phase(reward="f1"),
    )
    config = toy_config(tmp_path, steps=3, phases=phases, phase_episodes=16)
    told = _Told()
    result = train(config, model=tiny_model(), observer=told)
    assert [m["phase"] for m in told.metrics] == [1.0, 2.0, 2.0]
    assert [m["policy/learning_rate"] for m in told.metrics] == [1e-4, 3e-3, 3e-3]
    assert "reward/f1" not in told.metrics[0]
    assert "reward/f1" in told.metrics[1]
    assert result.switches == (PhaseSwitch(1, 16, "episodes"),)


def test_dynamic_sampling_learns_from_groups_that_differ(tmp_path):
    algorithm = replace(SMALL, dynamic_sampling=True, max_batches=4)
    told = _Told()
    train(toy_config(tmp_path, algorithm=algorithm), model=tiny_model(), observer=told)
    played = [m["episodes/valid"] for m in told.metrics]
    assert all(count % 16 == 0 for count in played)
    assert max(played) > 16
    numbers = [t.group for t in told.samples]
    assert len(by_group(told.samples)) == len(numbers) / 4


def test_failed_retrieval_reaches_no_loss(tmp_path):
    failing = FakeRetriever(error=RetrievalError("Expected an answer, got none. Wait."))
    algorithm = replace(SMALL, prompts=12, group_size=6)
    told = _Told()
    register_retriever("failing", lambda: failing)
    config = toy_config(
        tmp_path, algorithm=algorithm, env_options={"retriever": "failing"}, steps=2
    )
    train(config, model=tiny_model(), observer=told)
    assert sum(m["episodes/invalid"] for m in told.metrics) > 0
    assert all(m["search/rate"] == 0.0 for m in told.metrics)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders")
def test_b4_a_folder_in_use_is_not_trained_in(tmp_path):
    config = toy_config(tmp_path / "run", steps=1)
    with used_alone(Path(config.out)), pytest.raises(ConfigurationError, match="under way"):
        train(config, model=tiny_model())
    assert not any(Path(config.out).iterdir())


@pytest.mark.parametrize("name", ["ppo", "search-r1-grpo", "r1-searcher-llama-stage1"])
def test_presets_train_and_resume_with_critic_and_reference(tmp_path, name):
    algorithm = replace(PRESETS[name], prompts=4, group_size=4, minibatch=8, learning_rate=1e-3)
    config = toy_config(tmp_path / "a", algorithm=algorithm, steps=3)
    train(config, model=tiny_model())
    first = replace(config, out=str(tmp_path / "b"), steps=2)
    train(first, model=tiny_model())
    train(replace(first, steps=3), model=tiny_model(), resume=True)
    _assert_equal(_weights(tmp_path / "a"), _weights(tmp_path / "b"))


def test_bf16_follows_float32_and_tells_its_drift(tmp_path):
    told = _Told()
    algorithm = replace(PRESETS["ppo"], prompts=4, group_size=4, minibatch=8, learning_rate=1e-3)
    algorithm = replace(algorithm, importance_correction="tis")
    train(
        toy_config(tmp_path, dtype="bf16", algorithm=algorithm), model=tiny_model(), observer=told
    )
    drifts = [m["policy/drift_max"] for m in told.metrics]
    assert 0.0 < max(drifts) < 0.25
    assert _weights(tmp_path)["model.norm.weight"].dtype == torch.float32


def test_refusals_are_named(tmp_path):
    config = toy_config(tmp_path / "run", steps=1)
    with pytest.raises(CheckpointError, match="got none"):
        train(config, model=tiny_model(), resume=True)
    with pytest.raises(ModelMismatchError, match="at most the model's 20 ids"):
        train(config, model=tiny_model(vocabulary=20))
    with pytest.raises(ContextLengthError, match="max_tokens"):
        train(replace(config, max_tokens=64), model=tiny_model())
    with pytest.raises(ConfigurationError, match="leave room in max_tokens=2"):
        train(replace(config, max_tokens=2), model=tiny_model())
    with pytest.raises(ConfigurationError, match="Did you mean 'r1-searcher-stage2'"):
        train(replace(config, phases=(Phase(reward="r1-searcher-stage"),)), model=tiny_model())
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"question_id": "x", "rollouts_needed": 1, "level": "easy"}\n')
    with pytest.raises(ConfigurationError, match="got none"):
        train(replace(config, difficulties=str(labels)), model=tiny_model())
    train(config, model=tiny_model())
    with pytest.raises(ConfigurationError, match="has checkpoints"):
        train(config, model=tiny_model())
    with pytest.raises(CheckpointError, match="seed was 0 and is 5"):
        train(replace(config, seed=5), model=tiny_model(), resume=True)
    with pytest.raises(CheckpointError, match="model"):
        train(config, model=tiny_model(hidden=32), resume=True)


def test_a_larger_vocabulary_than_the_tokenizers_is_fine(tmp_path):
    told = _Told()
    train(toy_config(tmp_path, steps=1), model=tiny_model(vocabulary=40), observer=told)
    assert max(int(t.tokens.max()) for t in told.samples) >= 24


def test_nan_ends_the_run_with_the_state_intact(tmp_path, monkeypatch):
    import search_env.agents.training.run as module

    original = module.update

    calls = []

    def poisoned(learner, trajectories, algorithm, *, seed, **others):
        calls.append(seed)
        if len(calls) == 3:
            trajectories = [replace(t, reward=float("nan")) for t in trajectories]
        return original(learner, trajectories, algorithm, seed=seed, **others)

    monkeypatch.setattr(module, "update", poisoned)
    told = _Told()
    config = toy_config(tmp_path, checkpoint_every=100)
    with pytest.raises(NonFiniteError):
        train(config, model=tiny_model(), observer=told)
    saved = checkpoints.load(checkpoints.latest(tmp_path / "checkpoints"))
    assert saved.step == 2
    assert told.ended == (saved.step, "it failed")
    assert all(torch.isfinite(weight).all() for weight in saved.weights.values())
    monkeypatch.undo()
    assert train(config, model=tiny_model(), resume=True).steps == 4


def test_a_configuration_comes_back_from_json_and_refuses_nonsense(tmp_path):
    config = toy_config(tmp_path, hops=((0, 1), (5, 2)), phases=(*ONE_PHASE, Phase(reward="f1")))
    assert TrainConfig.from_json(config.to_json()) == config
    with pytest.raises(
        ConfigurationError, match=r"field of TrainConfig among .* got 'hallucinated'"
    ):
        TrainConfig.from_json({**config.to_json(), "hallucinated": 1})
    with pytest.raises(ConfigurationError, match="Did you mean 'learning_rate'"):
        toy_config(tmp_path, phases=(Phase(reward="f1", changes={"learning_rates": 1.0}),))
    with pytest.raises(ConfigurationError, match="at least one phase"):
        toy_config(tmp_path, phases=())
    with pytest.raises(ConfigurationError, match="num_envs"):
        toy_config(tmp_path, num_envs=0)
    with pytest.raises(ConfigurationError, match="Did you mean 'fp32'"):
        toy_config(tmp_path, dtype="fp23")


def test_minutes_end_a_run_and_a_finished_run_stays_finished(tmp_path, monkeypatch):
    """The clock goes on by a tenth of a second whenever the run looks at it."""
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 0.1 * next(ticks), perf_counter=time.perf_counter)
    monkeypatch.setattr(run, "time", clock)
    config = toy_config(tmp_path, steps=1000, minutes=0.02, eval_every=1000)
    told = _Told()
    result = train(config, model=tiny_model(), observer=told)
    assert result.reason == "0.02 minutes are over"
    assert told.evaluations == [0, result.steps]
    again = train(config, model=tiny_model(), resume=True)
    assert (again.steps, again.evaluations) == (result.steps, ())


def test_learning_to_search(tmp_path):
    """The first phase alone, from nothing: six seeds of six ended above .89."""
    told = _Told()
    algorithm = replace(SMALL, prompts=8, group_size=8, learning_rate=5e-3)
    config = toy_config(tmp_path, algorithm=algorithm, num_envs=64, steps=36, checkpoint_every=1000)
    train(config, model=tiny_model(hidden=64), observer=told)
    assert told.metrics[0]["search/rate"] < 0.15
    assert sum(m["search/rate"] for m in told.metrics[-5:]) / 5 > 0.8


@pytest.mark.slow
def test_two_processes_share_questions_and_a_split_model(tmp_path):
    """That the drift stays small shows that the model that samples follows the split one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = ["-m", "tests.agents.toy_runs", str(tmp_path), "3", "split"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *script], cwd=ROOT, env=environment, check=True)
    steps = [row.metrics for row in read_log(tmp_path / "metrics.jsonl").steps]
    assert [m["episodes/valid"] for m in steps] == [20.0] * 3
    assert sum(m["policy/updates"] for m in steps) >= 2
    assert all(m["policy/drift_max"] < 1e-5 for m in steps)
    assert steps[-1]["policy/kl"] > 0.0
    trained, base = (
        load_file(tmp_path / name / "model.safetensors") for name in ("run/model", "base")
    )
    assert trained.keys() == base.keys()
    assert any(not torch.equal(trained[name], base[name]) for name in base)


def test_all_processes_play_the_final_test(tmp_path, monkeypatch):
    tiny_model().save_pretrained(tmp_path / "base")
    played = []

    def counted(player, envs, questions):
        played.append(len(questions))
        return play_questions(player, envs, questions)

    monkeypatch.setattr(run, "play_questions", counted)  # in this process, one of two
    same = {"model": str(tmp_path / "base"), "env_options": {"tokenizer": "toy"}}
    config = toy_config(tmp_path / "run", steps=3, processes=2, **same)
    result = train(config, test_questions=7)
    assert played == [4, 4]
    envs, *sides, forced = result.test
    assert forced is None  # not a model of the package
    folders = (tmp_path / "base", result.model)
    for folder, episodes in zip(folders, sides, strict=True):
        alone = play_questions(load_model(folder), envs, spread(envs.questions, 7))
        assert [t.question_id for t in episodes] == [t.question_id for t in alone]
        assert [t.tokens.tolist() for t in episodes] == [t.tokens.tolist() for t in alone]
    before, after = ([t.tokens.tolist() for t in side] for side in sides)
    assert before != after


def test_the_final_test_is_in_the_type_of_the_run(tmp_path, monkeypatch):
    tiny_model().save_pretrained(tmp_path / "base")
    engines = []
    original = run.Engine.__init__

    def noted(engine, model, **options):
        engines.append(model.dtype)
        original(engine, model, **options)

    monkeypatch.setattr(run.Engine, "__init__", noted)
    same = {"model": str(tmp_path / "base"), "env_options": {"tokenizer": "toy"}}
    config = toy_config(tmp_path / "run", steps=0, dtype="bf16", **same)
    assert train(config).test is None
    config = replace(config, out=str(tmp_path / "tested"))
    assert len(train(config, test_questions=2).test.after) == 2
    assert engines == [torch.bfloat16] * 4  # of rollouts, and again with one for each side
