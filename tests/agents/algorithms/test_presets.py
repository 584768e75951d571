"""Algorithms and presets: every field is checked by name, published numbers are as published."""

from __future__ import annotations

import dataclasses
import inspect
import math
import subprocess
import sys
from pathlib import Path

import pytest

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.algorithms.presets import PRESETS, get_preset
from search_env.errors import ConfigurationError

BAD = {
    "advantage": "gro",
    "surrogate": "PPO",
    "aggregation": None,
    "gdpo_whitening": "rollouts",
    "k3_limit": 0.0,
    "horizon": 0,
    "prompts": 0,
    "group_size": 2.0,
    "epochs": -1,
    "minibatch": 0,
    "gamma": 1.1,
    "lam": -0.1,
    "normalize_std": "yes",
    "eps_low": 1.0,
    "eps_high": 0.0,
    "dual_clip": 1.0,
    "value_clip": 0.0,
    "value_coefficient": -1.0,
    "kl": "k1",
    "kl_estimator": "k4",
    "kl_coefficient": math.nan,
    "entropy_coefficient": math.inf,
    "dynamic_sampling": 1,
    "max_batches": True,
    "mask_retrieved": None,
    "overlong_filter": None,
    "importance_correction": "mis",
    "importance_cap": 0.5,
    "learning_rate": "1e-6",
    "value_learning_rate": -1.0,
    "warmup_steps": 0.285,
    "temperature": 0.0,
    "top_p": 1.5,
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Algorithm)])
def test_a_bad_value_is_named(field):
    with pytest.raises(ConfigurationError, match=rf"^Expected {field} to be .*, got .*{field}\.$"):
        Algorithm(**{field: BAD[field]})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"advantage": "rloo", "group_size": 1}, "Expected group_size to be at least 2"),
        ({"aggregation": "const_norm"}, "Expected horizon to be a length"),
        ({"horizon": 8}, "Expected horizon to be None"),
        ({"kl": "reward", "kl_coefficient": 0.1}, r"Expected kl_estimator to be one of \('k1',\)"),
        ({"kl": "loss", "kl_estimator": "k1"}, "Expected kl_estimator to be one of"),
        ({"kl_coefficient": 0.1}, "Expected kl_coefficient to be 0 with kl='none'"),
        ({"advantage": "gae", "dynamic_sampling": True}, "Expected dynamic_sampling to be False"),
        ({"surrogate": "cispo"}, "Expected eps_high to be at least 1 with surrogate='cispo'"),
        ({"prompts": 2, "group_size": 2, "minibatch": 5}, "Expected minibatch to be at most"),
    ],
)
def test_fields_that_contradict_each_other(fields, message):
    with pytest.raises(ConfigurationError, match=message):
        Algorithm(**fields)


def test_every_field_is_documented():
    for field in dataclasses.fields(Algorithm):
        assert f"\n    {field.name}: " in inspect.cleandoc(Algorithm.__doc__)


@pytest.mark.parametrize(
    ("fields", "updates"),
    [
        ({"prompts": 64, "group_size": 16, "minibatch": 256}, 4),
        ({"prompts": 64, "group_size": 16}, 1),
        ({"prompts": 3, "group_size": 3, "minibatch": 4, "epochs": 2}, 6),
    ],
)
def test_updates_of_a_rollout_set(fields, updates):
    assert Algorithm(**fields).updates == updates


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        # r1_searcher.md 9.2 and 9.1: the three scripts
        ("r1-searcher", {"advantage": "reinforce_pp_baseline", "prompts": 64, "group_size": 16,
                         "minibatch": 256, "updates": 4, "kl": "none", "learning_rate": 2e-6,
                         "gamma": 1.0, "eps_low": 0.2, "eps_high": 0.2, "temperature": 1.0,
                         "warmup_steps": 0, "uses_values": False, "uses_reference": False}),
        ("r1-searcher-llama-stage1", {"advantage": "grpo", "prompts": 15, "group_size": 16,
                                      "minibatch": 60, "updates": 4, "kl": "reward",
                                      "kl_coefficient": 1e-4, "learning_rate": 2e-6}),
        ("r1-searcher-llama-stage2", {"advantage": "reinforce_pp_baseline", "prompts": 65,
                                      "group_size": 16, "minibatch": 260, "updates": 4,
                                      "kl": "reward", "kl_coefficient": 1e-4,
                                      "learning_rate": 2e-6, "uses_reference": True}),
        # r1_searcher.md 19: one update of 64 x 16 rollouts, KL 1e-4
        ("r1-searcher++", {"advantage": "reinforce_pp_baseline", "prompts": 64, "group_size": 16,
                           "updates": 1, "kl": "reward", "kl_estimator": "k1",
                           "kl_coefficient": 1e-4, "learning_rate": 2e-6, "gamma": 1.0,
                           "temperature": 1.0, "uses_reference": True}),
        # search_r1.md 1.6
        ("search-r1-ppo", {"advantage": "gae", "prompts": 512, "group_size": 1, "minibatch": 256,
                           "gamma": 1.0, "lam": 1.0, "eps_low": 0.2, "value_clip": 0.5,
                           "kl": "reward", "kl_estimator": "k1", "kl_coefficient": 0.001,
                           "entropy_coefficient": 0.001, "learning_rate": 1e-6,
                           "value_learning_rate": 1e-5, "warmup_steps": 286, "top_p": 1.0,
                           "uses_values": True}),
        ("search-r1-grpo", {"advantage": "grpo", "prompts": 512, "group_size": 5, "minibatch": 256,
                            "kl": "loss", "kl_estimator": "k3", "kl_coefficient": 0.001,
                            "learning_rate": 1e-6, "warmup_steps": 286, "top_p": 0.95}),
        # algorithms.md 3.1 and the table in 3.5
        ("dapo", {"advantage": "grpo", "eps_low": 0.2, "eps_high": 0.28, "kl": "none",
                  "aggregation": "token_mean", "group_size": 16, "prompts": 512, "minibatch": 512,
                  "updates": 16, "dynamic_sampling": True, "overlong_filter": True,
                  "learning_rate": 1e-6, "warmup_steps": 20, "dual_clip": None}),
        ("ppo", {"advantage": "gae", "gamma": 1.0, "lam": 1.0, "normalize_std": True,
                 "value_clip": 0.5, "aggregation": "token_mean", "kl": "reward",
                 "kl_coefficient": 0.001, "minibatch": 256, "value_learning_rate": 1e-5}),
        ("grpo", {"advantage": "grpo", "aggregation": "seq_mean_token_mean", "kl": "loss",
                  "kl_estimator": "k3", "kl_coefficient": 0.001, "eps_high": 0.2}),
        ("dr-grpo", {"advantage": "mean_only", "aggregation": "const_norm", "kl": "none"}),
        ("rloo", {"advantage": "rloo", "kl": "reward", "kl_coefficient": 0.03, "group_size": 4}),
        ("reinforce++", {"advantage": "reinforce_pp", "kl": "reward", "kl_coefficient": 0.01,
                         "gamma": 1.0, "aggregation": "token_mean"}),
        ("reinforce++-baseline", {"advantage": "reinforce_pp_baseline", "kl": "loss",
                                  "kl_estimator": "k2", "kl_coefficient": 1e-5,
                                  "learning_rate": 5e-7, "group_size": 16}),
        ("gspo", {"surrogate": "gspo", "eps_low": 3e-4, "eps_high": 4e-4, "kl": "none",
                  "aggregation": "seq_mean_token_mean", "updates": 4}),
        ("cispo", {"surrogate": "cispo", "eps_high": 5.0, "aggregation": "token_mean"}),
    ],
)  # fmt: skip
def test_published_numbers(name, fields):
    preset = get_preset(name)
    assert {field: getattr(preset, field) for field in fields} == fields


def test_the_nearest_name_is_suggested():
    with pytest.raises(ConfigurationError, match=r"got 'r1-seacher'\. Did you mean 'r1-searcher'"):
        get_preset("r1-seacher")


def test_presets_cannot_be_changed():
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["ppo"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["ppo"].gamma = 0.5
    assert dataclasses.replace(PRESETS["ppo"], gamma=0.5).gamma == 0.5


def test_they_are_read_without_torch():
    code = "import sys, search_env.agents.algorithms.presets; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def row(name, preset):
    """The line of the page's table that says what a preset is."""
    surrogate = preset.surrogate
    if surrogate in ("ppo", "gspo"):
        surrogate += f" {preset.eps_low:g}/{preset.eps_high:g}"
    elif surrogate == "cispo":
        surrogate += f" {preset.eps_high:g}"
    divergence = "-"
    if preset.kl != "none":
        divergence = f"{preset.kl} {preset.kl_estimator} {preset.kl_coefficient:g}"
    default = Algorithm()
    beside = [
        f"{name} {getattr(preset, field):g}"
        for field, name in (
            ("dual_clip", "dual clip"),
            ("horizon", "horizon"),
            ("value_learning_rate", "critic"),
            ("entropy_coefficient", "entropy"),
            ("warmup_steps", "warm-up"),
            ("top_p", "top-p"),
        )
        if getattr(preset, field) != getattr(default, field)
    ]
    beside += ["dynamic sampling"] * preset.dynamic_sampling
    beside += ["overlong filter"] * preset.overlong_filter
    cells = (
        f"`{name}`",
        f"`{preset.advantage}`",
        surrogate,
        f"`{preset.aggregation}`",
        divergence,
        f"{preset.prompts} x {preset.group_size}",
        str(preset.updates),
        f"{preset.learning_rate:g}",
        ", ".join(beside),
    )
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def test_the_page_says_what_the_presets_are():
    page = (Path(__file__).parents[3] / "docs" / "algorithms.md").read_text("utf-8")
    table = page.split("## Presets")[1].split("\n\n")[2].splitlines()
    assert table[2:] == [row(name, preset) for name, preset in PRESETS.items()]
