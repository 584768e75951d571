"""Algorithms from elsewhere come in by the same door."""

from __future__ import annotations

import numpy as np
import pytest

from search_env.benchmarks.suite.experiments import EXPERIMENTS
from search_env.benchmarks.suite.plain_networks import WINDOW, cleanrl_ppo, last_tokens, sb3_ppo
from search_env.benchmarks.suite.task import open_task

SEARCH = EXPERIMENTS["search"]


@pytest.mark.parametrize("algorithm", [sb3_ppo, cleanrl_ppo])
def test_a_plain_network_begins_as_the_base_does_and_learns(algorithm):
    if algorithm is sb3_ppo:
        pytest.importorskip("stable_baselines3")
    with open_task(SEARCH, 0) as task:
        act = algorithm(task)
        values = [episode.value for episode in task.episodes]
        assert task.left < 64
        assert 0.1 < np.mean(values[:200]) < 0.5  # .32 of the base; short episodes end first
        assert np.mean(values[-200:]) > np.mean(values[:200]) + 0.1
        assert task.measure(act).mean() > 0.5


def test_windows_hold_the_last_tokens():
    tokens = np.arange(2 * 40).reshape(2, 40)
    windows = last_tokens(tokens, np.array([40, 3]), 99)
    assert windows[0].tolist() == list(range(40 - WINDOW, 40))
    assert windows[1].tolist() == [99] * (WINDOW - 3) + [40, 41, 42]
