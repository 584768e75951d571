from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from search_env.agents.learning.learner import Learner
from search_env.agents.learning.update import update
from search_env.agents.reporting.logs import Silent
from search_env.agents.training.train import train
from search_env.agents.types import by_group
from search_env.recording.files import read_episodes
from tests.agents.learning.test_update import PLAIN
from tests.agents.toy_runs import SMALL, tiny_model, toy_config, toy_trajectories


class _Samples(Silent):
    def __init__(self):
        self.of = {}

    def step(self, step, metrics, samples):
        self.of[step] = samples


def _run(out, **changes):
    told = _Samples()
    train(toy_config(out, **changes), model=tiny_model(), observer=told)
    return told.of


def _recorded(out, step):
    return list(read_episodes(out / "episodes" / f"step-{step:06d}.jsonl"))


def test_episodes_of_due_steps_are_written_with_what_was_learnt(tmp_path):
    samples = _run(tmp_path, record_every=2)
    written = sorted(path.name for path in (tmp_path / "episodes").iterdir())
    assert written == ["step-000002.jsonl", "step-000004.jsonl"]
    for step in (2, 4):
        # Independently: the observer's episodes, and GRPO's advantage by its formula.
        found = {
            episode.transcript.tokens.tobytes(): episode for episode in _recorded(tmp_path, step)
        }
        assert sum(len(group) for group in by_group(samples[step]).values()) == 16
        for group in by_group(samples[step]).values():
            rewards = np.array([member.reward for member in group])
            spread = rewards.std(ddof=1)
            for member, reward in zip(group, rewards, strict=True):
                episode = found[member.tokens.tobytes()]
                assert episode.score.total == pytest.approx(reward)
                log_probs = member.log_probs[member.policy]
                np.testing.assert_allclose(episode.signals["log_prob"], log_probs, atol=1e-3)
                expected = (reward - rewards.mean()) / (spread + 1e-6)
                np.testing.assert_allclose(episode.signals["advantage"], expected, atol=1e-3)
                assert len(episode.signals["advantage"]) == member.num_policy_tokens


def test_recording_changes_nothing_that_is_learnt(tmp_path):
    weights = []
    for every in (0, 1):
        out = tmp_path / str(every)
        _run(out, record_every=every, steps=2)
        weights.append(load_file(out / "model" / "model.safetensors"))
    assert not (tmp_path / "0" / "episodes").exists()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_a_critics_values_are_written(tmp_path):
    algorithm = replace(SMALL, advantage="gae", value_coefficient=0.5)
    samples = _run(tmp_path, record_every=1, steps=1, algorithm=algorithm)
    values = {m.tokens.tobytes(): m.values[m.policy] for m in samples[1]}
    for episode in _recorded(tmp_path, 1):
        assert set(episode.signals) == {"log_prob", "value", "advantage"}
        written = values[episode.transcript.tokens.tobytes()]
        np.testing.assert_allclose(episode.signals["value"], written, atol=1e-3)


def test_episodes_that_were_not_learnt_from_have_no_advantage(tmp_path):
    algorithm = replace(SMALL, dynamic_sampling=True, max_batches=3)
    samples = _run(tmp_path, record_every=1, steps=1, algorithm=algorithm)
    recorded = _recorded(tmp_path, 1)
    assert len(recorded) == len(samples[1])
    learnt = [e for e in recorded if "advantage" in e.signals]
    equal = {
        member.tokens.tobytes()
        for group in by_group(samples[1]).values()
        if len({member.reward for member in group}) == 1
        for member in group
    }
    differing = {m.tokens.tobytes() for m in samples[1]} - equal
    assert learnt
    assert {e.transcript.tokens.tobytes() for e in learnt} <= differing
    assert len(learnt) < len(recorded)


@pytest.mark.parametrize("mask_retrieved", [True, False])
def test_advantages_stand_where_their_tokens_do(mask_retrieved):
    episodes = toy_trajectories(tiny_model())
    told = {}

    def watch(trajectories, advantages):
        told["all"] = list(zip(trajectories, advantages, strict=True))

    algorithm = replace(PLAIN, mask_retrieved=mask_retrieved)
    update(Learner(tiny_model()), episodes, algorithm, on_advantages=watch)
    assert len(told["all"]) == len(episodes)
    for episode, (trajectory, advantage) in zip(episodes, told["all"], strict=True):
        assert advantage.shape == episode.tokens.shape
        assert trajectory.tokens is episode.tokens
        assert np.isfinite(advantage[episode.policy]).all()
        assert np.isnan(advantage[~trajectory.policy]).all()
