"""What an algorithm gets: environments that count, a base to start from, and a budget.

An *algorithm* is a function of a :class:`Task` that trains a policy and returns it as a function
from observations to actions. Anything that learns in a Gymnasium environment fits: see
``docs/suite.md``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from search_env.benchmarks.harness.errors import BenchmarkError
from search_env.benchmarks.suite.base import Demonstrations, demonstrate
from search_env.benchmarks.suite.experiments import Experiment
from search_env.benchmarks.suite.worlds import World
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Transcript

Observation = dict[str, NDArray[Any]]
Act = Callable[[Observation], NDArray[np.int64]]
"""A trained policy: actions ``(N,)`` for observations of N rows."""

TRAIN, TEST, BASE = 0, 1, 2  # kinds of worlds
TEST_QUESTIONS = 128
BASE_WORLDS, BASE_EPISODES = 32, 64  # of a base, and episodes in each


class BudgetSpentError(BenchmarkError):
    """An algorithm goes on after its budget; it should return its policy."""


class Ended(NamedTuple):
    """An episode of training."""

    tokens: int  # that the budget had lost when it ended
    value: float  # its return


class Ledger:
    """Counts policy tokens against a budget, and notes the return of every episode."""

    def __init__(self, experiment: Experiment) -> None:
        self.tokens = 0
        self.episodes: list[Ended] = []
        self._experiment = experiment

    @property
    def left(self) -> int:
        """Policy tokens that may still be written."""
        return max(0, self._experiment.budget - self.tokens)

    def charge(self, count: int) -> None:
        """Count tokens before they are written.

        Raises:
            BudgetSpentError: Fewer are left.
        """
        if count > self.left:
            raise BudgetSpentError(
                f"Expected at most {self._experiment.budget:,} policy tokens in training "
                f"{self._experiment.name!r}, got {self.tokens + count:,}. Return the policy when "
                "task.left is 0, or when this error is raised."
            )
        self.tokens += count

    def note(self, transcript: Transcript) -> None:
        """Note an episode that has ended."""
        value = self._experiment.reward(transcript).total
        self.episodes.append(Ended(self.tokens, value))


class CountedVectorEnv(SearchQAVectorEnv):
    """A vector environment whose tokens count.

    Returns are the experiment's, whatever reward is trained with (``set_reward``).
    """

    def __init__(self, ledger: Ledger, **arguments: Any) -> None:
        self._ledger = ledger
        super().__init__(**arguments)

    def step(self, actions: NDArray[np.int64]) -> Any:
        """Count a token of each row; then as the environment does."""
        self._ledger.charge(self.num_envs)
        return self._noted(super().step(actions))

    def send(self, actions: NDArray[np.int64], rows: Any = None) -> None:
        """Count a token of each row that is sent; then as the environment does."""
        self._ledger.charge(self.num_envs if rows is None else len(rows))
        super().send(actions, rows)

    def recv(self, min_ready: int = 1) -> Any:
        """As the environment does."""
        return self._noted(super().recv(min_ready))

    def _noted(self, result: Any) -> Any:
        for transcript in self.transcripts.values():
            self._ledger.note(transcript)
        return result


class CountedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """A single environment whose tokens count."""

    def __init__(self, env: gym.Env[Any, Any], ledger: Ledger) -> None:
        super().__init__(env)
        self._ledger = ledger

    def step(self, action: Any) -> Any:
        """Count a token; then as the environment does."""
        self._ledger.charge(1)
        result = super().step(action)
        if result[2] or result[3]:
            self._ledger.note(self.env.unwrapped.transcript())  # type: ignore[attr-defined]
        return result


class Task:
    """One experiment with one seed, as an algorithm sees it.

    Attributes:
        experiment: Its world, base and budget.
        seed: Of everything random; the algorithm should use it too.
    """

    def __init__(self, experiment: Experiment, seed: int, folder: Path) -> None:
        self.experiment, self.seed = experiment, seed
        self._folder, self._ledger = folder, Ledger(experiment)

    @property
    def left(self) -> int:
        """Policy tokens left of the budget."""
        return self._ledger.left

    @property
    def episodes(self) -> tuple[Ended, ...]:
        """The episodes of training so far."""
        return tuple(self._ledger.episodes)

    @functools.cached_property
    def num_actions(self) -> int:
        """Number of ids that a policy chooses from."""
        return load_tokenizer("toy").size

    def make_vec(
        self, num_envs: int, *, group_size: int = 1, autoreset_mode: str = "Disabled"
    ) -> SearchQAVectorEnv:
        """Return a vector environment to train in.

        Args:
            num_envs: Rows.
            group_size: Neighbouring rows with the same question.
            autoreset_mode: ``Disabled``, ``SameStep`` or ``NextStep``, whose idle steps count.
        """
        return CountedVectorEnv(
            self._ledger,
            num_envs=num_envs,
            group_size=group_size,
            autoreset_mode=autoreset_mode,
            **self.arguments(TRAIN),
        )

    def make_env(self) -> gym.Env[Any, Any]:
        """Return a single environment to train in; several share one budget."""
        return CountedEnv(gym.make("SearchQA-v0", **self.arguments(TRAIN)), self._ledger)

    @functools.cached_property
    def demonstrations(self) -> Demonstrations:
        """Episodes of the base, in worlds of their own. They cost nothing."""
        parts = []
        for number in range(BASE_WORLDS):
            random = self._random(BASE, number)
            arguments = self.arguments(BASE, number)
            with contextlib.closing(gym.make("SearchQA-v0", **arguments)) as env:
                world, habits = self.world(BASE, number), self.experiment.habits
                parts.append(demonstrate(env, world, habits, random, BASE_EPISODES))
        return Demonstrations(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("tokens", "written")
            )
        )

    def measure(self, act: Act) -> NDArray[np.float64]:
        """Return the return of each question of a world that nobody trained in. Costs nothing."""
        return np.array([self.experiment.reward(episode).total for episode in self.play(act)])

    def play(self, act: Act) -> list[Transcript]:
        """Return an episode of each of the questions that a policy is measured on."""
        count, arguments = TEST_QUESTIONS, self.arguments(TEST)
        envs = SearchQAVectorEnv(count, autoreset_mode="SameStep", **arguments)
        with contextlib.closing(envs):
            asked = self._random(TEST, 0, 2).choice(len(envs.questions), count, replace=False)
            observation, _ = envs.reset(seed=self.seed, options={"index": asked.tolist()})
            ended: dict[int, Transcript] = {}
            while len(ended) < count:
                observation, *_ = envs.step(np.asarray(act(observation), np.int64))
                ended = envs.transcripts | ended  # a row's first episode stays
        return [ended[row] for row in range(count)]

    def world(self, kind: int, number: int = 0) -> World:
        """Return a world of a kind: TRAIN, TEST, or one of those of the BASE."""
        return self.experiment.world(self._random(kind, number, 1))

    def _random(self, *path: int) -> np.random.Generator:
        name = zlib.crc32(self.experiment.name.encode())
        return np.random.default_rng([name, self.seed, *path])

    def arguments(self, kind: int, number: int = 0) -> dict[str, Any]:
        """Return the arguments of an environment; its questions are written to a file once."""
        world = self.world(kind, number)
        path = self._folder / f"{self.experiment.name}-{self.seed}-{kind}-{number}.jsonl"
        if not path.exists():
            rows = [
                {"id": f"{i:02d}", "question": case.text, "answers": [case.answer]}
                for i, case in enumerate(world.cases)
            ]
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
        return {
            "dataset": str(path),
            "retriever": world.retriever(),
            "protocol": "toy",
            "tokenizer": "toy",
            "reward": self.experiment.reward,
            "max_tokens": self.experiment.max_tokens,
            "max_searches": 8,
            "top_k": self.experiment.top_k,
        }


@contextlib.contextmanager
def open_task(experiment: Experiment, seed: int) -> Iterator[Task]:
    """Yield a task, whose files last as long."""
    with tempfile.TemporaryDirectory(prefix="search_env_suite_") as folder:
        yield Task(experiment, seed, Path(folder))
