"""The base's side of the final test is stored with it, and used only for what it was played on."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import pytest

from search_env.agents.imitation.demonstrations import search_opening
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.opening import OpeningEngine
from search_env.agents.inference.sampling import GREEDY
from search_env.agents.models import bundled_folder, load_model
from search_env.agents.rollouts.lm_agent import play_questions, spread
from search_env.agents.training import base_test, run
from search_env.agents.training.base_test import (
    FILE,
    opening_of,
    store_episodes,
    stored_episodes,
)
from search_env.agents.training.default_run import tiny_run
from search_env.agents.training.run import environment_for
from search_env.agents.training.train import train
from search_env.envs.search_qa import bare_env

CONFIG = replace(tiny_run(), dtype="fp32", num_envs=8)


@pytest.fixture(scope="module")
def base():
    return load_model("tiny-base")


@pytest.fixture(scope="module")
def envs(base):
    return environment_for(CONFIG, base, "test")


def test_what_is_stored_is_what_the_base_does(base, envs):
    every = spread(envs.questions, 200)
    some = every[::25]
    stored, played = stored_episodes(CONFIG, envs, some), play_questions(base, envs, some)
    same = [
        (one.question_id, one.tokens.tolist(), one.scores, one.stop_reason)
        == (other.question_id, other.tokens.tolist(), other.scores, other.stop_reason)
        for one, other in zip(stored, played, strict=True)
    ]
    assert sum(same) >= len(same) - 1  # a tie may fall otherwise on another processor
    for dtype in ("fp32", "bf16"):
        assert len(stored_episodes(replace(CONFIG, dtype=dtype), envs, every)) == 200


def test_forced_to_search_the_base_searches(base, envs):
    every = spread(envs.questions, 200)
    some = every[::50]
    stored = stored_episodes(CONFIG, envs, some, forced=True)
    opening = opening_of(CONFIG)
    env = bare_env(gym.make(CONFIG.env_id, **CONFIG.options_for("test")))
    assert opening.tolist() == search_opening(env).tolist()
    engine = Engine(base, rows=8, max_tokens=envs.protocol.max_tokens, sampling=GREEDY)
    played = play_questions(OpeningEngine(engine, opening), envs, some)
    same = [one.scores == other.scores for one, other in zip(stored, played, strict=True)]
    assert sum(same) >= len(same) - 1  # a tie
    free, forced = (stored_episodes(CONFIG, envs, every, forced=f) for f in (False, True))
    right = [sum(t.scores["exact_match"] for t in side) for side in (free, forced)]
    assert right[1] > right[0] + 25
    assert sum(episode.num_searches > 0 for episode in forced) >= 190
    assert not any(episode.num_searches for episode in free)
    assert opening_of(replace(CONFIG, model="somewhere/else")) is None


def test_it_is_used_only_if_everything_matches(base, envs, tmp_path, monkeypatch):
    indices = spread(envs.questions, 200)
    assert stored_episodes(CONFIG, envs, [1]) is None  # no such question
    assert stored_episodes(replace(CONFIG, model="tiny-trained"), envs, indices) is None
    assert stored_episodes(replace(CONFIG, env_options={"top_k": 5}), envs, indices) is None
    shorter = replace(CONFIG, max_tokens=2048)
    assert stored_episodes(shorter, environment_for(shorter, base, "test"), indices) is None
    folder = bundled_folder("tiny-base")
    for name in ("config.json", "model.safetensors", FILE):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    monkeypatch.setattr(base_test, "bundled_folder", lambda name: tmp_path)
    assert stored_episodes(CONFIG, envs, indices)
    (tmp_path / FILE).write_bytes((folder / FILE).read_bytes()[:-100])
    assert stored_episodes(CONFIG, envs, indices) is None
    store_episodes([(CONFIG, envs, [], [])], [7], tmp_path)
    assert opening_of(CONFIG).tolist() == [7]
    assert stored_episodes(CONFIG, envs, []) == []
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert stored_episodes(CONFIG, envs, []) is None


@pytest.mark.parametrize(("changes", "sides"), [({}, 1), ({"max_tokens": 2048}, 3)])
def test_a_run_plays_the_base_only_if_it_must(tmp_path, monkeypatch, changes, sides):
    played = []

    def counted(player, envs, questions):
        played.append(len(questions))
        return play_questions(player, envs, questions)

    monkeypatch.setattr(run, "play_questions", counted)
    same = {"steps": 0, "eval_every": 0, "processes": 1, "out": str(tmp_path), "threads": 1}
    result = train(replace(CONFIG, **same, **changes), test_questions=2)
    assert played == [2] * sides
    assert all(episode.num_searches for episode in result.test.forced)
    # Nothing was learnt.
    assert [t.answer for t in result.test.before] == [t.answer for t in result.test.after]
