"""The reference algorithms: rollouts, masks, and that a right mask is what learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from search_env.benchmarks.suite import policy as policies
from search_env.benchmarks.suite import reference
from search_env.benchmarks.suite.experiments import EXPERIMENTS
from search_env.benchmarks.suite.policy import Decoder, Policy, clone
from search_env.benchmarks.suite.reference import (
    REFERENCES,
    Reference,
    collect,
    enough,
    every_token,
    one_token_late,
    policy_tokens,
    rollout_sets,
)
from search_env.benchmarks.suite.task import open_task

SEARCH = EXPERIMENTS["search"]


@pytest.fixture(scope="module")
def task():
    with open_task(SEARCH, 0) as made:
        yield made


@pytest.fixture(scope="module")
def policy(task):
    return clone(task)


def test_later_tokens_change_nothing_before_them():
    torch.manual_seed(0)
    model = Policy(24, 16)
    tokens = torch.randint(24, (3, 16))
    changed = tokens.clone()
    changed[:, 9:] = 0
    before, after = model(tokens).logits, model(changed).logits
    assert torch.allclose(before[:, :9], after[:, :9], atol=1e-6)
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_a_decoder_says_what_the_whole_forward_says(task, policy):
    envs, seen = task.make_vec(16), []

    class Watched(Decoder):
        def __call__(self, observation, rows):
            logits = super().__call__(observation, rows)
            seen.append((rows, np.ravel(observation["length"])[rows].copy(), logits))
            return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "Decoder", Watched)
        rollouts = collect(envs, policy, torch.Generator().manual_seed(0), 0)
    with torch.no_grad():
        whole = policy(rollouts.tokens).logits
    assert len(seen) >= 8
    for rows, lengths, logits in seen:
        assert torch.allclose(logits, whole[rows, lengths - 1], atol=1e-4)


def test_a_clone_behaves_as_its_base(task, policy):
    envs = task.make_vec(256)
    rollouts = collect(envs, policy, torch.Generator().manual_seed(0), 0)
    searched = (rollouts.tokens == 1).any(1).float().mean()
    assert searched == pytest.approx(SEARCH.habits.search, abs=0.08)
    right = rollouts.rewards[(rollouts.tokens == 1).any(1)].mean()
    assert right == pytest.approx(SEARCH.habits.read, abs=0.15)


def test_a_clone_is_kept_for_other_algorithms(task, policy, monkeypatch):
    monkeypatch.setattr(policies, "imitate", None)  # would fail
    again = clone(task)
    pairs = zip(policy.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_rollouts_tell_who_wrote_a_token(task, policy):
    envs = task.make_vec(32, group_size=8)
    rollouts = collect(envs, policy, torch.Generator().manual_seed(1), 5)
    tokens, written = rollouts.tokens[:, 1:], rollouts.written
    documents = rollouts.after_prompt & ~written
    assert set(tokens[written].tolist()) <= {*range(1, 5), *range(7, 23)}
    assert {5, 6} <= set(tokens[documents].tolist())  # their tags
    assert rollouts.groups.tolist() == [g for g in range(4) for _ in range(8)]
    for group in range(4):
        assert len(rollouts.tokens[rollouts.groups == group, :4].unique(dim=0)) == 1
    assert rollouts.rewards.shape == (32,)


def test_masks_by_hand():
    #                       question  <q> keys </q>  <d> value </d>  <a>
    written = torch.tensor([[False, False, True, True, True, False, False, False, True]])
    after = torch.tensor([[False, False, True, True, True, True, True, True, True]])
    assert policy_tokens(written, after).equal(written)
    assert every_token(written, after).equal(after)
    late = [[False, False, False, True, True, True, False, False, False]]
    assert one_token_late(written, after).tolist() == late


def test_dynamic_sampling_keeps_groups_that_differ_in_their_rewards(task, policy):
    algorithm = REFERENCES["dapo"].settings(64)
    envs = task.make_vec(64, group_size=8)
    sets = rollout_sets(envs, policy, torch.Generator().manual_seed(0), 0)
    rollouts = enough(algorithm, sets)
    assert len(rollouts.rewards) == 64
    for group in rollouts.rewards.reshape(8, 8):
        assert len(group.unique()) > 1
    assert len(rollouts.groups.unique()) == 8
    assert rollouts.groups.bincount().max() == 8


@pytest.mark.parametrize("name", REFERENCES)
def test_settings_keep_the_presets_estimator_and_number_of_updates(name):
    from search_env.agents.algorithms.presets import get_preset

    made, preset = REFERENCES[name].settings(512), get_preset(REFERENCES[name].preset)
    assert (made.advantage, made.surrogate, made.kl) == (
        preset.advantage,
        preset.surrogate,
        preset.kl,
    )
    assert made.sequences == 512
    assert made.updates == preset.updates


def test_a_right_mask_learns_to_search_and_a_late_one_does_not():
    short = replace(SEARCH, budget=6000)
    shares = {}
    for name, mask in (("right", policy_tokens), ("late", one_token_late)):
        with open_task(short, 0) as task:
            act = Reference("grpo", 1e-3, mask)(task)
            shares[name] = task.measure(act).mean()
            assert task.left < 64
    assert shares["right"] > 0.9
    assert shares["late"] < 0.5


def test_a_run_repeats_itself():
    short = replace(SEARCH, budget=1500)
    returns = []
    for _ in range(2):
        with open_task(short, 0) as task:
            act = REFERENCES["dapo"](task)
            returns.append((task.episodes, task.measure(act).tolist()))
    assert returns[0] == returns[1]
    assert np.isfinite(returns[0][1]).all()
