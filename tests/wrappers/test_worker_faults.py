"""Worker processes that die: Gymnasium's behaviour, and the explicit error."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv

import search_env
from search_env.errors import ConfigurationError, WorkerDiedError
from search_env.wrappers.staged_reward import VectorStagedReward
from search_env.wrappers.worker_faults import WorkerFaults

CONTEXTS = ["fork", "spawn"]
FILLER, END = 8, 0
IN_BOTH_CONTEXTS = pytest.mark.parametrize("envs", CONTEXTS, indirect=True)
EXIT, HANG, FAIL, FAIL_ALIKE = 1, 2, 3, 4  # actions that do something else to the worker


class Mortal(gym.Wrapper):
    """Dies, hangs or fails in the middle of a step, as its action says."""

    def step(self, action: int) -> Any:
        if action == EXIT:
            os._exit(3)
        if action == HANG:
            threading.Event().wait()
        if action == FAIL:
            raise KeyError("no such luck")
        if action == FAIL_ALIKE:
            raise ConnectionResetError("no such luck")
        return self.env.step(action)

    def pid(self) -> int:
        return os.getpid()


def make() -> gym.Env:
    search_env.register_environments()
    return Mortal(gym.make("SearchQA-Toy-v0"))


@pytest.fixture
def envs(request: pytest.FixtureRequest) -> Iterator[WorkerFaults]:
    """Three rows in forked workers, or as ``IN_BOTH_CONTEXTS`` says; spawned ones start slowly."""
    context = getattr(request, "param", "fork")
    envs = WorkerFaults(AsyncVectorEnv([make] * 3, context=context))
    envs.reset(seed=0)
    yield envs
    close_twice(envs)


def close_twice(envs: gym.vector.VectorEnv) -> None:
    """Close what may hold workers that are dead or hang: that this returns is the point."""
    envs.close()
    envs.close()
    assert not any(process.is_alive() for process in envs.unwrapped.processes)
    assert envs.closed


def kill(envs: WorkerFaults, row: int) -> None:
    os.kill(envs.env.processes[row].pid, signal.SIGKILL)


def step(envs: gym.vector.VectorEnv, *actions: int) -> Any:
    return envs.step(np.array(actions))


@IN_BOTH_CONTEXTS
def test_without_a_fault_nothing_changes(envs):
    plain = AsyncVectorEnv([make] * 3, context="fork")
    first, second = envs.reset(seed=5), plain.reset(seed=5)
    for _ in range(20):
        assert data_equivalence(first, second)
        first, second = step(envs, FILLER, END, 9), step(plain, FILLER, END, 9)
    assert envs.call("pid") == tuple(process.pid for process in envs.env.processes)
    assert envs.get_attr("render_mode") == (None,) * 3
    envs.set_attr("mark", [1, 2, 3])
    assert envs.get_attr("mark") == (1, 2, 3)
    assert envs.reset(options={"reset_mask": np.array([True, False, True])})[1]
    plain.close()


def test_death_between_two_steps(envs):
    step(envs, FILLER, FILLER, FILLER)
    kill(envs, 1)
    with pytest.raises(WorkerDiedError, match="worker 1 was ended by SIGKILL"):
        step(envs, FILLER, FILLER, FILLER)


@IN_BOTH_CONTEXTS
def test_death_in_the_middle_of_a_step(envs):
    with pytest.raises(WorkerDiedError, match=r"Expected 3 workers .* worker 2 exited with code 3"):
        step(envs, FILLER, FILLER, EXIT)
    with pytest.raises(WorkerDiedError, match="Make the vector environment again"):
        envs.reset(seed=0)


def test_two_deaths_at_once(envs):
    kill(envs, 0)
    kill(envs, 2)
    for process in envs.env.processes[::2]:
        process.join()
    with pytest.raises(
        WorkerDiedError, match="worker 0 was ended by SIGKILL, worker 2 was ended by SIGKILL"
    ):
        envs.reset()


@pytest.mark.parametrize("call", ["reset", "call", "get_attr", "set_attr", "render"])
def test_every_call_raises(call):
    envs = WorkerFaults(AsyncVectorEnv([make] * 2, context="fork"))
    kill(envs, 1)
    arguments = {"call": ["pid"], "get_attr": ["spec"], "set_attr": ["mark", 1]}
    with pytest.raises(WorkerDiedError, match="worker 1 was ended by SIGKILL"):
        getattr(envs, call)(*arguments.get(call, []))
    close_twice(envs)


def test_an_unnoticed_death_does_not_stop_close(envs):
    kill(envs, 1)  # the fixture closes


@pytest.mark.skipif(
    "max_concurrency" not in inspect.signature(AsyncVectorEnv).parameters,
    reason="Gymnasium limits concurrency from 1.4 on",
)
def test_a_worker_that_dies_with_the_permit_does_not_block_the_others():
    """Bare, this never returns: the dead worker holds the only permit to run."""
    envs = WorkerFaults(AsyncVectorEnv([make] * 3, context="fork", max_concurrency=1))
    envs.reset(seed=0)
    others = [process.pid for process in envs.env.processes[:2]]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)  # until worker 2 has had its turn

    def wake_others() -> None:
        wait([envs.env.processes[2].sentinel])
        for pid in others:
            os.kill(pid, signal.SIGCONT)

    waker = threading.Thread(target=wake_others)
    waker.start()
    with pytest.raises(WorkerDiedError, match="worker 2 exited with code 3"):
        step(envs, FILLER, FILLER, EXIT)
    waker.join()
    close_twice(envs)


@IN_BOTH_CONTEXTS
def test_workers_that_hang_are_ended_with_the_dead(envs):
    with pytest.raises(WorkerDiedError, match="worker 1 exited with code 3"):
        step(envs, HANG, EXIT, FILLER)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium reports a worker's error so too
@pytest.mark.parametrize(
    ("action", "error"), [(FAIL, KeyError), (FAIL_ALIKE, ConnectionResetError)]
)
def test_errors_of_an_environment_propagate(envs, action, error):
    with pytest.raises(error, match="no such luck"):
        step(envs, FILLER, action, FILLER)
    with pytest.raises(WorkerDiedError, match="worker 1 exited with code 0"):
        step(envs, FILLER, FILLER, FILLER)


@IN_BOTH_CONTEXTS
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_close_after_an_error_of_an_environment(envs):
    with pytest.raises(KeyError, match="no such luck"):
        step(envs, FAIL, FILLER, FILLER)
    envs.close()
    assert [process.exitcode for process in envs.env.processes] == [0, 0, 0]


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_staged_reward_counts_nothing_of_the_step_that_failed(context):
    inner = AsyncVectorEnv([make] * 3, context=context)
    envs = VectorStagedReward(WorkerFaults(inner), ["f1", "exact-match"], after_episodes=2)
    envs.reset(seed=0)
    step(envs, END, FILLER, FILLER)
    before = envs.get_phase_state()
    assert (before.phase, before.total) == (0, 1)
    with pytest.raises(WorkerDiedError):
        step(envs, FILLER, END, EXIT)
    assert envs.get_phase_state() is before
    with pytest.raises(WorkerDiedError):
        envs.set_phase(1)
    assert envs.phase == 0
    close_twice(envs)


def test_another_environment_is_refused():
    envs = gym.make_vec("SearchQA-Toy-v0", num_envs=2, vectorization_mode="sync")
    with pytest.raises(ConfigurationError, match="Expected an AsyncVectorEnv"):
        WorkerFaults(envs)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasiums_behaviour_without_it():
    """If this fails, Gymnasium handles dead workers, and the wrapper can be removed."""
    bare = AsyncVectorEnv([functools.partial(make)] * 2, context="fork")
    bare.reset(seed=0)
    with pytest.raises((EOFError, ConnectionError)):
        step(bare, FILLER, EXIT)
    bare.close(terminate=True)
