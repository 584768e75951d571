"""A folder holds a run from the moment that the run can start, and not before."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from search_env.agents.errors import CheckpointError, DeviceMemoryError
from search_env.agents.reporting.logs import JsonLinesLog, Observers, TensorBoardLog, read_log
from search_env.agents.training import checkpoints, run, run_folder
from search_env.agents.training.config import Phase
from search_env.agents.training.train import train
from search_env.errors import ConfigurationError
from tests.agents.toy_runs import tiny_model, toy_config

WRONG = {
    "model": {"model": "no-such-model"},
    "dataset": {"env_options": {"dataset": "no-such-dataset"}},
    "reward": {"phases": (Phase(reward="no-such-reward"),)},
    "tokenizer": {"env_options": {"tokenizer": "byte"}},
    "context": {"max_tokens": 64},
    "difficulties": {"difficulties": "/no/such/file"},
}


def logs(folder, resume_step=None):
    log = JsonLinesLog(folder / "metrics.jsonl", resume_step=resume_step)
    return Observers([log, TensorBoardLog(folder / "tensorboard", resume_step=resume_step)])


@pytest.mark.parametrize("wrong", WRONG)
def test_b7_a_refused_run_leaves_no_folder(tmp_path, wrong):
    config = toy_config(tmp_path / "run", steps=1)
    model = None if wrong == "model" else tiny_model()
    with pytest.raises((ConfigurationError, OSError)):
        train(replace(config, **WRONG[wrong]), model=model, observer=logs(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_b7_a_run_that_fails_in_its_first_step_is_begun_anew(tmp_path, monkeypatch):
    config = toy_config(tmp_path / "run", steps=2, eval_every=1)

    def full(*_, **__):
        raise DeviceMemoryError("Expected room, got none. Lower max_tokens_per_micro_batch.")

    monkeypatch.setattr(run, "update", full)
    with pytest.raises(DeviceMemoryError):
        train(config, model=tiny_model(), observer=logs(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
    monkeypatch.undo()
    config = replace(config, max_tokens_per_micro_batch=64)
    train(config, model=tiny_model(), observer=logs(tmp_path / "run"))
    read = read_log(tmp_path / "run" / "metrics.jsonl")
    assert [row.step for row in read.steps] == [1, 2]
    assert read.end == "all steps are made"
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count('"begin"') == 1
    assert run_folder.load_settings(tmp_path / "run").max_tokens_per_micro_batch == 64


def test_b7_a_run_that_fails_later_keeps_its_settings(tmp_path, monkeypatch):
    config = toy_config(tmp_path / "run", steps=3)
    update, calls = run.update, []

    def fails(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise DeviceMemoryError("Expected room, got none. Lower max_tokens_per_micro_batch.")
        return update(*arguments, **options)

    monkeypatch.setattr(run, "update", fails)
    with pytest.raises(DeviceMemoryError):
        train(config, model=tiny_model())
    assert run_folder.load_settings(tmp_path / "run") == config
    with pytest.raises(ConfigurationError, match=r"holds a run .*--resume"):
        train(config, model=tiny_model())
    assert train(replace(config, steps=4), model=tiny_model(), resume=True).steps == 4
    assert run_folder.load_settings(tmp_path / "run").steps == 4, "those of the newest part"


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path):
    config = toy_config(tmp_path / "run", steps=2)
    with pytest.raises(CheckpointError, match="got none"):
        train(config, model=tiny_model(), resume=True)
    run_folder.save_settings(config)
    log = logs(tmp_path / "run", resume_step=0)
    assert train(config, model=tiny_model(), resume=True, observer=log).steps == 2
    newest = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert checkpoints.settings(newest) == config.resume_settings()


def test_damaged_settings_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"got no config\.json"):
        run_folder.load_settings(tmp_path)
    file = tmp_path / "config.json"
    for content in ("{", "[]", json.dumps({"model": 1})):
        file.write_text(content)
        with pytest.raises(ConfigurationError, match=r"config\.json|settings of a run"):
            run_folder.load_settings(tmp_path)
