"""Monitors: each sign is told once, in numbers and with a mend, and healthy runs stay silent."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys

import pytest

from search_env.agents.errors import CheckpointError
from search_env.agents.training.collapse_monitors import DRIFT_LIMITS, Limits, Monitors
from search_env.errors import ConfigurationError

HEALTHY = {
    "reward/mean": 0.3,
    "reward/group_std": 0.3,
    "groups/zero_variance": 0.2,
    "policy/entropy": 0.5,
    "policy/kl": 0.01,
    "policy/grad_norm": 1.0,
    "policy/drift_max": 2e-6,
    "policy/clip_fraction": 0.02,
    "policy/right_log_prob": -0.4,
    "search/rate": 0.9,
    "search/mean": 1.5,
    "format/well_formed": 0.95,
    "stop/truncated": 0.02,
    "answer/exact_match": 0.3,
    "answer/f1": 0.4,
    "answer/cover_exact_match": 0.35,
    "answer/words": 2.0,
}


def feed(monitors, steps=1, **changes):
    """Feed steps that are healthy but for the changes (``a__b`` for ``a/b``)."""
    metrics = HEALTHY | {name.replace("__", "/"): value for name, value in changes.items()}
    return [warning for _ in range(steps) for warning in monitors.update(metrics)]


SIGNS = [
    ("reward__group_std", 0.01, "Rewards in groups hardly differ: standard deviation 0.01",
     "dynamic_sampling"),
    ("policy__entropy", 0.1, "Entropy falls: 0.1 nats a token", "entropy_coefficient"),
    ("policy__grad_norm", 9.0, "The gradient norm jumped to 9, its median is 1",
     "learning_rate"),
    ("policy__right_log_prob", -0.8, "Right episodes become less likely: -0.8 nats a token",
     "kl_coefficient"),
    ("search__rate", 0.1, "The policy stops searching: 10% of episodes search", "first phase"),
    ("search__mean", 3.0, "Searches pay nothing: 3.00 an episode", "search-cost"),
    ("format__well_formed", 0.4, "The format decays: 40% of episodes", "format part"),
    ("groups__zero_variance", 0.9, "90% of groups have no signal", "group_size"),
    ("stop__truncated", 0.5, "50% of episodes are ended by a budget", "overlong_filter"),
    ("answer__words", 7.0, "answers have 7.0 words, 2.0 at the beginning", "exact match"),
    ("answer__cover_exact_match", 0.8, "cover exact match is 0.50 above exact match", "F1"),
    ("policy__drift_max", 1e-3, "a token's log-probability differs by 0.001", "tis"),
    ("policy__kl", 1.0, "far from the reference model: 1 nats", "kl_coefficient"),
    ("policy__clip_fraction", 0.6, "Clips decide 60% of tokens", "minibatch"),
    ("policy__loss", math.inf, "Infinite: policy/loss", "learning_rate"),
]  # fmt: skip


ids = [sign[0] for sign in SIGNS]


@pytest.mark.parametrize(("metric", "value", "text", "mend"), SIGNS, ids=ids)
def test_a_sign_is_told_in_numbers_and_with_a_mend(metric, value, text, mend):
    monitors = Monitors(Limits(window=1))
    assert feed(monitors, 10) == []
    (told,) = feed(monitors, **{metric: value})
    assert text in told
    assert mend in told


@pytest.mark.parametrize(("metric", "value", "text", "mend"), SIGNS, ids=ids)
def test_a_sign_is_told_once_until_it_is_gone(metric, value, text, mend):
    monitors = Monitors(Limits(window=2))
    feed(monitors, 20)
    lasts = 1 if metric == "policy__grad_norm" else 6  # a norm that stays is no jump
    assert len(feed(monitors, lasts, **{metric: value})) == 1
    assert monitors.active
    assert feed(monitors, 10) == []
    assert not monitors.active
    assert len(feed(monitors, lasts, **{metric: value})) == 1


def test_a_noisy_healthy_run_is_silent():
    random.seed(0)
    monitors = Monitors()
    for step in range(300):
        better = step / 300
        noisy = {
            "reward__mean": 0.3 + 0.5 * better + random.gauss(0, 0.05),
            "reward__group_std": 0.35 - 0.2 * better + random.gauss(0, 0.02),
            "groups__zero_variance": 0.2 + 0.4 * better + random.gauss(0, 0.05),
            "policy__entropy": 0.5 - 0.25 * better + random.gauss(0, 0.02),
            "policy__grad_norm": math.exp(random.gauss(0, 0.3)),
            "policy__right_log_prob": -0.4 + 0.2 * better + random.gauss(0, 0.03),
            "search__rate": min(1.0, 0.3 + better),
            "search__mean": 0.4 + 2 * better,
            "answer__words": 2 + random.gauss(0, 0.3),
        }
        assert feed(monitors, **noisy) == []


def test_the_echo_trap_is_named_when_its_three_signs_come_in_order():
    monitors = Monitors(Limits(window=2))
    feed(monitors, 20)
    fallen = {"reward__group_std": 0.01, "policy__entropy": 0.05}
    assert len(feed(monitors, 4, **fallen)) == 2
    (told,) = feed(monitors, policy__grad_norm=30.0, **fallen)
    assert "echo trap" in told
    assert "checkpoint" in told


def test_nothing_is_judged_before_the_window_is_full():
    monitors = Monitors()
    assert feed(monitors, 4, stop__truncated=1.0, groups__zero_variance=1.0) == []
    assert len(feed(monitors, 1, stop__truncated=1.0, groups__zero_variance=1.0)) == 2


def test_what_was_not_measured_is_not_judged_but_told_if_it_lasts():
    monitors = Monitors(Limits(window=3))
    assert feed(monitors, 10, policy__right_log_prob=math.nan) == []
    assert feed(monitors, 2, policy__grad_norm=math.nan) == []
    (told,) = feed(monitors, 5, policy__grad_norm=math.nan)
    assert "Nothing was measured for policy/grad_norm over the last 3 steps" in told
    assert Monitors().update({}) == []


def test_a_sign_that_comes_and_goes_is_told_once():
    monitors = Monitors(Limits(window=3))
    told = []
    for _ in range(20):
        told += feed(monitors, 1, policy__drift_max=1e-3) + feed(monitors, 2)
    assert len(told) == 1


def test_what_is_no_longer_measured_is_no_longer_judged():
    monitors = Monitors(Limits(window=2))
    assert len(feed(monitors, 4, stop__truncated=0.9)) == 1
    assert feed(monitors, 4, stop__truncated=math.nan) == []
    assert not monitors.active


def test_the_first_gradient_after_none_is_no_jump():
    monitors = Monitors()
    assert feed(monitors, 12, policy__grad_norm=0.0) == []
    assert feed(monitors, 1, policy__grad_norm=1.0) == []


def test_drift_is_judged_by_the_limit_of_the_dtype():
    assert feed(Monitors(), policy__drift_max=0.1)
    assert not feed(Monitors(Limits(drift=DRIFT_LIMITS["bf16"])), policy__drift_max=0.1)


def test_a_new_phase_has_a_beginning_of_its_own():
    monitors = Monitors()
    feed(monitors, 10)
    monitors.restart()
    assert feed(monitors, 10, reward__group_std=0.01, policy__entropy=0.05) == []


def test_saved_monitors_go_on_as_if_nothing_had_happened():
    random.seed(1)
    run, copy = Monitors(), Monitors()
    steps = [{name.replace("/", "__"): random.random() * 2 for name in HEALTHY} for _ in range(60)]
    for number, step in enumerate(steps):
        told = feed(run, **step)
        if number == 30:
            copy = Monitors()
            copy.load_state_dict(json.loads(json.dumps(run.state_dict())))
        if number > 30:
            assert feed(copy, **step) == told
    assert copy.state_dict() == run.state_dict()
    assert run.active


@pytest.mark.parametrize("state", [{}, {"version": 2, "active": {}, "trends": {}}, {"version": 1}])
def test_another_version_is_refused(state):
    with pytest.raises(CheckpointError, match="Expected monitors of version 1"):
        Monitors().load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "value"), [("window", 11), ("window", 0), ("kl", 0.0), ("drift", math.nan)]
)
def test_limits_are_checked(name, value):
    with pytest.raises(ConfigurationError, match=f"Expected {name} to be above 0"):
        Limits(**{name: value})


def test_they_need_no_torch():
    code = (
        "import sys, search_env.agents.training.collapse_monitors;assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
