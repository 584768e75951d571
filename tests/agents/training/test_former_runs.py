"""Runs of before 2026-11-30: ``data/former_run`` is one, with what it came to after 4 steps.

It was made there, on one thread, by ``search-env train SearchQA-Toy-v0 --model base --out run
--steps 2 --rows 8 --max-tokens 16 --preset grpo --threads 1`` with the settings of ``config.json``.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from search_env.agents.algorithms.presets import get_preset
from search_env.agents.errors import CheckpointError
from search_env.agents.training.config import PHASES, TrainConfig
from search_env.agents.training.train import train
from search_env.cli.main import app
from search_env.errors import ConfigurationError

pytestmark = pytest.mark.filterwarnings("ignore:.*has no checksum:UserWarning")

FORMER = Path(__file__).parent / "data" / "former_run"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(FORMER, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)  # paths in the settings are relative
    return tmp_path


def _config(**changes) -> TrainConfig:
    """Return what the run was configured with, as one would write it today."""
    settings = {
        "model": "base",
        "algorithm": replace(
            get_preset("grpo"),
            prompts=4,
            group_size=4,
            minibatch=None,
            learning_rate=0.01,
            k3_limit=10.0,  # which no setting could change then
        ),
        "env_id": "SearchQA-Toy-v0",
        "env_options": {"tokenizer": "toy"},
        "max_tokens": 16,
        "phases": PHASES,
        "phase_episodes": 40,
        "phase_window": 10,
        "num_envs": 8,
        "steps": 4,
        "eval_every": 0,
        "out": "run",
        "threads": 1,
    }
    return TrainConfig(**{**settings, **changes})


def _assert_as_before(folder) -> None:
    expected = load_file(folder / "weights-after-4-steps.safetensors")
    weights = load_file(folder / "run" / "model" / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name in expected:  # equal to the last bit on the machine that made them
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-5)


def test_the_command_goes_on_with_a_former_run(folder):
    arguments = ("train", "--resume", "--out", "run", "--steps", "4", "--test-questions", "8")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    _assert_as_before(folder)


@pytest.mark.parametrize("evaluation", [{}, {"split": "validation"}])
def test_train_goes_on_with_a_former_run(folder, evaluation):
    result = train(_config(eval_options=evaluation), resume=True)
    assert (result.steps, len(result.switches)) == (4, 1)
    _assert_as_before(folder)


def test_settings_of_then_are_named_as_today(folder):
    config = TrainConfig.from_json(json.loads((folder / "run" / "config.json").read_text()))
    assert config == _config(steps=2, dtype="fp32")


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"num_envs": 4}, "num_envs was 8 and is 4"),
        ({"env_options": {"tokenizer": "toy", "max_searches": 1}}, "env_options was"),
        ({"eval_options": {"split": "test"}}, "eval_options was"),
    ],
)
def test_other_settings_than_then_are_refused(folder, changes, difference):
    with pytest.raises(CheckpointError, match=difference):
        train(_config(**changes), resume=True)


def test_a_model_of_then_needs_its_tokenizer_named(folder):
    with pytest.raises(ConfigurationError, match=r"no tokenizer\.json|--tokenizer NAME"):
        train(_config(env_options={}, out="new"))
