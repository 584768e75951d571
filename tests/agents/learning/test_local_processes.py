"""Processes that train together without torchrun."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.utils import logging

from search_env.agents.errors import NonFiniteError
from search_env.agents.learning.local_processes import local_processes
from search_env.agents.reporting.logs import JsonLinesLog, Observers, Silent, read_log
from search_env.agents.training import checkpoints
from search_env.agents.training.default_run import tiny_run
from search_env.agents.training.train import train
from search_env.errors import ConfigurationError, WorkerDiedError
from search_env.recording.files import read_episodes
from tests.agents.toy_runs import tiny_model, toy_config


def _take_part(ranks, number):
    """Send rank 0 this process's identity."""
    ranks.gather((ranks.rank, ranks.size, os.getpid(), torch.get_num_threads(), number))


def _fail(ranks):
    raise NonFiniteError("Expected a finite loss, got nan. Lower learning_rate.")


def _be_killed(ranks):
    os.kill(os.getpid(), signal.SIGKILL)


def _play_on(ranks):
    """Never reach the collective operation of the other processes."""
    threading.Event().wait()


@contextmanager
def _nothing_left(threads=3):
    """Check that no process is left afterwards, and threads are as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
        assert not multiprocessing.active_children()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_all_take_part_and_share_the_threads():
    with _nothing_left(threads=7), local_processes(3, _take_part, "seven") as ranks:
        own = torch.get_num_threads()
        members = ranks.gather((ranks.rank, ranks.size, os.getpid(), own, "seven"))
    assert [(*member[:2], *member[3:]) for member in members] == [
        (rank, 3, 2, "seven") for rank in range(3)
    ]
    assert len({member[2] for member in members}) == 3


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [(_fail, NonFiniteError, "got nan"), (_be_killed, WorkerDiedError, "number 1 ended .* -9")],
)
def test_what_ended_another_process_is_raised_here(work, error, message):
    with _nothing_left(), pytest.raises(error, match=message), local_processes(2, work) as ranks:
        ranks.sum([1.0])


def test_others_end_with_this_one():
    with _nothing_left(), pytest.raises(RuntimeError, match="here"), local_processes(2, _play_on):
        raise RuntimeError("here")


def test_a_process_that_cannot_start_is_named(monkeypatch, capfd):
    module = types.ModuleType("of_this_process_alone")
    exec("def work(ranks): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with (
        _nothing_left(),
        pytest.raises(WorkerDiedError, match=r"number 1 ended.*exit code 1.*__main__"),
        local_processes(2, module.work),
    ):
        pass
    assert "of_this_process_alone" in capfd.readouterr().err


class _At(Silent):
    """Calls a function after a step."""

    def __init__(self, step, act):
        self._step, self._act = step, act

    def step(self, step, metrics, episodes):
        if step == self._step:
            self._act()


def _interrupt():
    raise KeyboardInterrupt


def _kill_the_other():
    (child,) = multiprocessing.active_children()
    child.kill()
    child.join()


def test_a_run_is_the_same_whatever_happens_to_it(tmp_path, capfd):
    """With one process or two, after Ctrl-C, and resumed after a worker was killed."""
    logging.disable_progress_bar()
    tiny_model().save_pretrained(tmp_path / "base")
    settings = {"model": str(tmp_path / "base"), "processes": 2, "record_every": 2}
    settings["env_options"] = {"tokenizer": "toy"}  # no file can express it
    straight = toy_config(tmp_path / "straight", **settings)
    log = tmp_path / "straight" / "metrics.jsonl"
    with _nothing_left():
        whole = train(straight, observer=JsonLinesLog(log))
    assert [row.step for row in read_log(log).steps] == [1, 2, 3, 4]
    recorded = list(read_episodes(tmp_path / "straight" / "episodes" / "step-000002.jsonl"))
    algorithm = straight.algorithm
    assert len(recorded) == algorithm.prompts * algorithm.group_size
    questions = [episode.transcript.question.id for episode in recorded]
    assert questions == sorted(questions, key=questions.index), "groups stand together"

    alone = train(toy_config(tmp_path / "alone", **{**settings, "processes": 1}))
    for name, weight in load_file(alone.model / "model.safetensors").items():
        near = load_file(whole.model / "model.safetensors")[name]
        torch.testing.assert_close(weight, near, atol=1e-5, rtol=1e-4)

    config = toy_config(tmp_path / "other", **settings)
    with _nothing_left(), pytest.raises(KeyboardInterrupt):
        train(config, observer=Observers([_At(2, _interrupt)]))
    newest = checkpoints.latest(tmp_path / "other" / "checkpoints")
    assert checkpoints.step_of(newest) == 2
    with _nothing_left(), pytest.raises(WorkerDiedError, match="continue with --resume"):
        train(config, observer=Observers([_At(3, _kill_the_other)]), resume=True)
    resumed = train(config, resume=True)
    assert resumed.steps == whole.steps == 4
    left, right = (load_file(run.model / "model.safetensors") for run in (whole, resumed))
    assert left.keys() == right.keys()
    assert not capfd.readouterr().err, "only rank 0 prints"
    for name, weight in left.items():
        np.testing.assert_array_equal(weight.numpy(), right[name].numpy())


@pytest.mark.parametrize("changes", [{"sharded": True}, {"device": "cuda"}])
def test_whole_models_on_the_cpu_only(tmp_path, changes):
    with pytest.raises(ConfigurationError, match=r"processes=2.*torchrun"):
        toy_config(tmp_path, processes=2, **changes)


def test_a_model_in_memory_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="processes=1"):
        train(toy_config(tmp_path, processes=2), model=tiny_model())


def test_the_bundled_run_uses_two_cores(monkeypatch):
    for cores, gpu, processes in ((1, False, 1), (2, False, 2), (8, False, 2), (8, True, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert tiny_run().processes == processes
