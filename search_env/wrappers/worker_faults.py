"""An explicit error when a worker process of a vector environment dies.

Gymnasium 1.4 does not handle the death of a worker of its ``AsyncVectorEnv``: the caller sees a
bare ``BrokenPipeError``, ``ConnectionResetError`` or ``EOFError``, ``close`` raises a similar one
or waits forever, and with ``max_concurrency`` a worker that dies while it holds the permit blocks
the others. This wrapper watches the processes while it waits. It restarts no worker: continuing
without the episodes of a dead one would bias training.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from gymnasium.vector import AsyncVectorEnv

from search_env.errors import ConfigurationError, WorkerDiedError
from search_env.wrappers.vector_base import AnyVectorWrapper

_CHECK_S = 0.1  # interval of checks for dead processes while waiting for an answer
_GRACE_S = 5.0  # time for a process to exit after its pipe broke, or after SIGTERM


class WorkerFaults(AnyVectorWrapper):
    """Raises :class:`~search_env.errors.WorkerDiedError` when a worker process dies.

    Wraps an ``AsyncVectorEnv`` directly, below other vector wrappers. Every method but ``close``
    raises if a worker died before or during the call; a step is then lost in all rows. The other
    workers are terminated at once, so that ``close`` returns and no process remains. Errors that an
    environment raises in its worker propagate as without the wrapper; that worker has then exited,
    and the next call raises.

    Args:
        env: The vector environment.

    Raises:
        ConfigurationError: Not an ``AsyncVectorEnv``.
        WorkerDiedError: In a method, once a worker has died.

    Example:
        >>> import gymnasium as gym
        >>> from search_env.wrappers.worker_faults import WorkerFaults
        >>> make = lambda: gym.make("SearchQA-Toy-v0")
        >>> envs = WorkerFaults(gym.vector.AsyncVectorEnv([make, make]))
        >>> _ = envs.reset(seed=0)
        >>> envs.env.processes[1].kill()
        >>> envs.step([8, 8])
        Traceback (most recent call last):
            ...
        search_env.errors.WorkerDiedError: Expected 2 workers to answer, but worker 1 was ended by \
SIGKILL. All have been stopped...
        >>> envs.close()

    Change logs:
        * v0.1.0 - Added.
    """

    env: AsyncVectorEnv[Any, Any]

    def __init__(self, env: AsyncVectorEnv[Any, Any]) -> None:
        if not isinstance(env, AsyncVectorEnv):
            raise ConfigurationError(
                f"Expected an AsyncVectorEnv, got {env!r}. Only it has worker processes: leave "
                "WorkerFaults out, or put it directly around the AsyncVectorEnv."
            )
        super().__init__(env)
        self._fault = ""

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; see ``AsyncVectorEnv.reset``."""
        with self._watched():
            self.env.reset_async(seed=seed, options=options)
            self._await_answers()
            return self.env.reset_wait()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all rows; see ``AsyncVectorEnv.step``."""
        with self._watched():
            self.env.step_async(actions)
            self._await_answers()
            return self.env.step_wait()

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method in every row; see ``AsyncVectorEnv.call``."""
        with self._watched():
            self.env.call_async(name, *args, **kwargs)
            self._await_answers()
            return self.env.call_wait()

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of every row; see ``AsyncVectorEnv.get_attr``."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute in every row; see ``AsyncVectorEnv.set_attr``."""
        with self._watched():
            self.env.set_attr(name, values)

    def render(self) -> tuple[Any, ...] | None:
        """Return the frame of every row."""
        return self.call("render")

    def close(self, **kwargs: Any) -> None:
        """End all workers; those alive close their environments first."""
        try:
            self.env.close(**kwargs)
        except (EOFError, OSError):  # a worker has died since the last call
            self._stop()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Raise WorkerDiedError if a worker has died before or dies within this block."""
        if self._fault:
            raise WorkerDiedError(self._fault)
        if None in self.env.parent_pipes:  # Gymnasium drops the pipe of a worker that raised
            raise self._died()
        try:
            yield
        except (EOFError, ConnectionError) as error:
            if None in self.env.parent_pipes:  # an environment raised it in its worker
                raise
            # Its frames hold a buffer of the pipe, whose collection crashes Python 3.12.1
            # (cpython#111049) and warns in others (cpython#111331).
            raise self._died() from error.with_traceback(None)

    def _await_answers(self) -> None:
        """Wait until every worker has answered or broken its pipe."""
        for pipe in self.env.parent_pipes:
            while not pipe.poll(_CHECK_S):
                if any(self._dead().values()):  # code 0: exited normally after an error
                    raise EOFError  # the other workers may wait for the permit of the dead one

    def _dead(self, timeout: float = 0) -> dict[int, int | None]:
        """Return the exit code of each worker that has exited, after waiting for the first."""
        exited = wait([process.sentinel for process in self.env.processes], timeout)
        dead = {i: p for i, p in enumerate(self.env.processes) if p.sentinel in exited}
        for process in dead.values():
            process.join(_GRACE_S)  # the sentinel is ready slightly before the exit code
        return {i: process.exitcode for i, process in dead.items()}

    def _died(self) -> WorkerDiedError:
        """Stop the remaining workers and return the error."""
        dead = [f"worker {i} {_ending(code)}" for i, code in self._dead(_GRACE_S).items()]
        self._stop()
        self._fault = (
            f"Expected {self.num_envs} workers to answer, but {', '.join(dead) or 'one broke off'}"
            ". All have been stopped and the step is lost. Make the vector environment again; "
            "after SIGKILL, check whether memory ran out and use fewer workers."
        )
        return WorkerDiedError(self._fault)

    def _stop(self) -> None:
        """End all workers by signals, where ``close`` no longer can."""
        for process in self.env.processes:
            process.terminate()
        for process in self.env.processes:
            process.join(_GRACE_S)
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self.env.parent_pipes:
            if pipe is not None:  # None after an error of that worker's environment
                pipe.close()
        self.env.closed = True


def _ending(code: int | None) -> str:
    if code is None:
        return "stopped answering"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
