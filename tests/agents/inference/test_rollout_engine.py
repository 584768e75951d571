"""Third-party engines: their requirements, a run's calls, and errors for unsuitable ones."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import search_env  # noqa: F401
from search_env.agents.algorithms.presets import PRESETS
from search_env.agents.errors import ModelMismatchError
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.rollout_engine import Decoded, RolloutEngine, check_engine
from search_env.agents.inference.sampling import GREEDY, Sampling
from search_env.agents.reporting.logs import Silent
from search_env.agents.rollouts.collect import collect
from search_env.agents.rollouts.lm_agent import play_questions
from search_env.agents.training.train import train
from search_env.errors import ConfigurationError
from tests.agents.scripted_engine import ScriptedEngine
from tests.agents.toy_runs import SMALL, tiny_model, toy_config


class WholeSequences:
    """A minimal engine: a copy of the model, forwarded over whole sequences at every token."""

    prefill_seconds = 0.0
    has_log_probs = True
    made: ClassVar[list[WholeSequences]] = []

    def __init__(self, model, *, rows, max_tokens, sampling):
        self.model = type(model)(model.config).eval()  # untrained until weights arrive
        self.rows, self.max_tokens, self.sampling = rows, max_tokens, sampling
        self.weights_version, self.versions = -1, []
        self.tokens: dict[int, list[int]] = {}
        self.uniforms: dict[int, np.ndarray] = {}
        self.made.append(self)

    def begin(self, rows, prompts, seeds):
        for row, prompt, seed in zip(rows, prompts, seeds, strict=True):
            self.tokens[int(row)] = list(map(int, prompt))
            drawn = np.random.default_rng(seed).random(self.max_tokens, np.float32)
            self.uniforms[int(row)] = drawn

    def insert(self, rows, tokens):
        for row, ids in zip(rows, tokens, strict=True):
            self.tokens[int(row)] += list(map(int, ids))

    @torch.inference_mode()
    def decode(self, rows):
        draws = [self._next(int(row)) for row in rows]
        ids, log_probs = zip(*draws, strict=True)
        return Decoded(np.array(ids, np.int64), np.array(log_probs, np.float32), None)

    def _next(self, row):
        tokens = self.tokens[row]
        logits = self.model(torch.tensor([tokens])).logits[:, -1]
        log_probs = self.sampling.log_probs(logits)
        uniform = torch.from_numpy(self.uniforms[row][[len(tokens)]])
        drawn = int(self.sampling.draw(log_probs, uniform))
        tokens.append(drawn)
        return drawn, float(log_probs[0, drawn]) if self.has_log_probs else np.nan

    def release(self, rows):
        for row in rows:
            self.tokens.pop(int(row), None)

    def update_weights(self, weights, version):
        assert not self.tokens, "no row is in use"
        self.model.load_state_dict(weights())
        self.weights_version = version
        self.versions.append(version)


class Mute(WholeSequences):
    has_log_probs = False


class _Observer(Silent):
    def __init__(self):
        self.metrics, self.episodes, self.evaluations = [], [], []

    def step(self, step, metrics, samples):
        self.metrics.append(dict(metrics))
        self.episodes += samples

    def evaluated(self, step, metrics):
        self.evaluations.append({n: v for n, v in metrics.items() if n != "eval/seconds"})


@pytest.fixture(autouse=True)
def made():
    WholeSequences.made.clear()
    return WholeSequences.made


def _envs(rows):
    return gym.make_vec("SearchQA-Toy-v0", num_envs=rows, autoreset_mode="Disabled").unwrapped


def _same(one, other, tolerance=1e-5):
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left.tokens, right.tokens)
        np.testing.assert_allclose(left.log_probs, right.log_probs, atol=tolerance)
        assert (left.reward, left.version) == (right.reward, right.version)


def _other(model, rows=8, sampling=None):
    engine = WholeSequences(model, rows=rows, max_tokens=16, sampling=sampling or Sampling())
    engine.update_weights(model.state_dict, 3)
    return engine


def test_engines_are_recognised_by_their_methods():
    model = tiny_model()
    assert isinstance(Engine(model, rows=2, max_tokens=16), RolloutEngine)
    assert isinstance(_other(model), RolloutEngine)
    assert isinstance(ScriptedEngine(2, 24), RolloutEngine)
    assert not isinstance(model, RolloutEngine)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.9, top_k=20, top_p=0.99)])
def test_another_engine_plays_the_same_episodes(sampling):
    model = tiny_model()
    own = Engine(model, rows=8, max_tokens=16, sampling=sampling)
    own.update_weights(model.state_dict, 3)
    ours, theirs = (
        collect(_envs(8), engine, range(12), group_size=4, seed=5).trajectories
        for engine in (own, _other(model, sampling=sampling))
    )
    assert sum(t.num_searches for t in ours) > 0
    assert {t.version for t in ours} == {3}
    _same(ours, theirs)


def test_greedy_evaluation_takes_an_engine():
    model = tiny_model()
    theirs = play_questions(_other(model, sampling=GREEDY), _envs(8), range(12))
    _same(theirs, [replace(t, version=3) for t in play_questions(model, _envs(8), range(12))])
    with pytest.raises(ConfigurationError, match=r"draws from Sampling\(temperature=0.0"):
        play_questions(_other(model), _envs(8), range(12))


def test_an_episode_has_the_version_that_it_began_with():
    class Moving(ScriptedEngine):
        def decode(self, rows):
            self.weights_version += 1
            return super().decode(rows)

    engine = Moving(2, 24)
    trajectories = collect(_envs(2), engine, range(6)).trajectories
    assert [t.version for t in trajectories[:2]] == [0, 0]
    assert all(0 < t.version < engine.weights_version for t in trajectories[2:])


def test_training_with_another_engine_is_the_same_run(tmp_path, made):
    observers, steps = {}, 4
    for name, engine in (("ours", None), ("theirs", WholeSequences)):
        observers[name] = _Observer()
        config = toy_config(tmp_path / name, steps=steps, eval_every=2)
        train(config, model=tiny_model(), engine=engine, observer=observers[name])
    rollouts, *evaluations = made
    assert rollouts.versions == [0, 1, 2, 3, 4]  # before the first step, and after each
    assert (rollouts.rows, rollouts.max_tokens) == (8, 16)
    assert [(e.sampling, e.versions) for e in evaluations] == [(GREEDY, [v]) for v in (0, 2, 4)]
    _same(observers["ours"].episodes, observers["theirs"].episodes, 1e-4)
    assert [t.version for t in observers["theirs"].episodes[::16]] == [0, 1, 2, 3]
    assert all(m["policy/drift_max"] < 1e-4 for m in observers["theirs"].metrics)
    for one, other in zip(
        observers["ours"].evaluations, observers["theirs"].evaluations, strict=True
    ):
        assert one == pytest.approx(other, nan_ok=True)
    ours, theirs = (load_file(tmp_path / name / "model/model.safetensors") for name in observers)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-3)
    before = tiny_model().state_dict()["model.norm.weight"]
    assert not torch.equal(ours["model.norm.weight"], before)


def test_a_resumed_run_tells_the_engine_its_weights_first(tmp_path, made):
    config = toy_config(tmp_path, steps=2)
    train(config, model=tiny_model(), engine=WholeSequences)
    train(replace(config, steps=3), model=tiny_model(), engine=WholeSequences, resume=True)
    assert [engine.versions for engine in made] == [[0, 1, 2], [2, 3]]


def test_a_critic_needs_no_engine_with_values(tmp_path):
    algorithm = replace(PRESETS["ppo"], prompts=4, group_size=4, minibatch=8, learning_rate=1e-3)
    observer = _Observer()
    config = toy_config(tmp_path, algorithm=algorithm, steps=2)
    train(config, model=tiny_model(), engine=WholeSequences, observer=observer)
    assert all(np.isfinite(m["policy/value_loss"]) for m in observer.metrics)
    assert all(t.values is None for t in observer.episodes)


def test_an_engine_without_log_probabilities(tmp_path):
    observer = _Observer()
    config = toy_config(tmp_path / "a", steps=2, algorithm=replace(SMALL, kl="loss"))
    train(config, model=tiny_model(), engine=Mute, observer=observer)
    assert all(np.isfinite(m["policy/loss"]) for m in observer.metrics)
    assert all(np.isnan(m["policy/drift_max"]) for m in observer.metrics)
    corrected = replace(SMALL, importance_correction="tis")
    with pytest.raises(ConfigurationError, match="importance_correction='tis', got Mute without"):
        train(toy_config(tmp_path / "b", algorithm=corrected), model=tiny_model(), engine=Mute)


def test_an_engine_that_draws_otherwise_is_refused_before_anything_is_played(tmp_path):
    def stubborn(model, *, rows, max_tokens, sampling):
        return WholeSequences(model, rows=rows, max_tokens=max_tokens, sampling=Sampling())

    config = toy_config(tmp_path, algorithm=replace(SMALL, top_p=0.9))
    with pytest.raises(ConfigurationError, match=r"top_p=0.9.*got WholeSequences with"):
        train(config, model=tiny_model(), engine=stubborn)
    assert not (tmp_path / "checkpoints").exists()
    check_engine(ScriptedEngine(1, 24), Sampling())


def test_the_built_in_engine_copies_weights_unless_it_shares_them():
    trained, own = tiny_model(seed=1), tiny_model(seed=2)
    engine = Engine(own, rows=2, max_tokens=16)
    engine.update_weights(trained.state_dict, 7)
    assert engine.weights_version == 7
    for name, weight in trained.state_dict().items():
        assert torch.equal(own.state_dict()[name], weight)

    def never():
        raise AssertionError

    shared = Engine(own, rows=2, max_tokens=16, shares_weights=True)
    shared.update_weights(never, 8)
    assert shared.weights_version == 8
    for other in (tiny_model(hidden=32).state_dict(), {"model.norm.weight": torch.zeros(16)}):
        with pytest.raises(ModelMismatchError, match="Build the engine for the trained model"):
            engine.update_weights(lambda other=other: other, 9)
    assert engine.weights_version == 7


def test_several_processes_make_their_engines_from_a_module(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    options = {"tokenizer": "toy"}  # no file can express it
    config = toy_config(
        tmp_path / "run",
        model=str(tmp_path / "base"),
        steps=1,
        processes=2,
        env_options=options,
    )
    lock = threading.Lock()
    with pytest.raises(ConfigurationError, match="class or function of a module"):
        train(config, engine=lambda model, **sizes: lock)
    observer = _Observer()
    train(config, engine=WholeSequences, observer=observer)
    assert observer.metrics[0]["episodes/valid"] == 16.0
    assert observer.metrics[0]["policy/drift_max"] < 1e-4
