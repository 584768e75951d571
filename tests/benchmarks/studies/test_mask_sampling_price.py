"""Conditions, and rejection sampling by hand."""

from __future__ import annotations

from dataclasses import replace

import torch

from search_env.benchmarks.studies.mask_sampling_price import (
    conditions,
    kept,
    rejection_sampling,
)
from search_env.benchmarks.suite.experiments import EXPERIMENTS
from search_env.benchmarks.suite.reference import Rollouts
from search_env.benchmarks.suite.task import open_task


def test_right_episodes_are_kept_with_what_was_written():
    rollouts = Rollouts(
        tokens=torch.tensor([[23, 7, 1, 8], [23, 7, 3, 9], [23, 7, 3, 4]]),
        written=torch.tensor([[False, True, True], [False, True, False], [False, True, True]]),
        after_prompt=torch.ones(3, 3, dtype=torch.bool),
        rewards=torch.tensor([1.0, 0.5, 1.0]),
        truncated=torch.zeros(3, dtype=torch.bool),
        groups=torch.zeros(3, dtype=torch.int64),
    )
    right = kept(rollouts)
    assert right.tokens.tolist() == [[23, 7, 1, 8], [23, 7, 3, 4]]
    assert right.written.tolist() == [[False, False, True, True]] * 2


def test_each_question_has_conditions_that_differ_in_one_thing():
    made = conditions()
    assert {name: len(own) for name, own in made.items()} == {"mask": 6, "sampling": 4, "price": 4}
    rewards = {experiment.reward.name for experiment, _ in made["price"].values()}
    assert len(rewards) == 4


def test_rejection_sampling_learns_to_search():
    with open_task(replace(EXPERIMENTS["search"], budget=4000), 0) as task:
        act = rejection_sampling(task)
        assert task.left < 64
        assert task.measure(act).mean() > 0.6
