"""What plays a question set: an agent that is handed episodes and reports each as it ends.

Episodes are played in any order, as many side by side as the agent likes. What a command line
calls an agent is :mod:`search_env.benchmarks.players.factory`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from search_env.benchmarks.harness.results_file import EpisodeResult
from search_env.benchmarks.harness.spec import BenchmarkProtocol
from search_env.envs.search_qa import SearchQAEnv, bare_env
from search_env.errors import ConfigurationError
from search_env.evaluation.agent import Agent
from search_env.evaluation.evaluate import measure_episode
from search_env.recording.record import Recordable
from search_env.types import Transcript

__all__ = ["TokenAgent"]

EpisodeKey = tuple[int, int]  # index of a question, number of its sample


@dataclass(frozen=True, slots=True)
class EpisodeToRecord:
    """A finished episode, its ``reset`` seed, and numbers about each of the policy's tokens."""

    env: Recordable
    transcript: Transcript
    seed: int | None
    signals: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


OnEpisode = Callable[[EpisodeResult, EpisodeToRecord], None]  # called with each finished episode


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a model's tokens are chosen (0 is greedy), and how often each question is played."""

    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1

    def __post_init__(self) -> None:
        if self.samples > 1 and not self.temperature:
            raise ConfigurationError(
                f"Expected a temperature above 0 for {self.samples} samples of a question, got 0. "
                "They would all be the same; pass --temperature 1."
            )

    @property
    def label(self) -> str:
        """Return what an id says of it: nothing where it is greedy."""
        if not self.temperature:
            return ""
        nucleus = f"p{self.top_p:g}" if self.top_p < 1 else ""
        return f"t{self.temperature:g}{nucleus}x{self.samples}"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What all episodes of one evaluation share; ``retriever`` names an ablation's, if any."""

    protocol: BenchmarkProtocol
    retriever: str | None = None
    seed: int = 0
    decoding: Decoding = field(default_factory=Decoding)

    def arguments(self, **agents: Any) -> dict[str, Any]:
        """Return the environment's arguments; see :meth:`BenchmarkProtocol.environment`."""
        arguments = self.protocol.environment(on_retrieval_error="truncate", **agents)
        return arguments if self.retriever is None else {**arguments, "retriever": self.retriever}

    def make_env(self, **agents: Any) -> SearchQAEnv:
        """Return a single environment."""
        arguments = self.arguments(**agents)
        return bare_env(gym.make(self.protocol.env_id, disable_env_checker=True, **arguments))


class BenchmarkAgent(Protocol):
    """An agent that plays whole question sets."""

    @property
    def description(self) -> Mapping[str, Any]:
        """Return JSON values that name the agent and its parts; equal ones mean the same agent."""
        ...

    def play(
        self, evaluation: Evaluation, keys: Sequence[EpisodeKey], on_episode: OnEpisode
    ) -> None:
        """Play episodes in any order; hand on each in this thread as soon as it is over."""
        ...


class TokenAgent:
    """Plays any :class:`~search_env.evaluation.agent.Agent`, one token after the other."""

    def __init__(self, name: str, agent: Agent) -> None:
        self.description: Mapping[str, Any] = {"name": name, "kind": "scripted"}
        self._agent = agent

    def play(
        self, evaluation: Evaluation, keys: Sequence[EpisodeKey], on_episode: OnEpisode
    ) -> None:
        """Play the episodes in order."""
        env = evaluation.make_env()
        for index, sample in keys:
            start, seed = time.perf_counter(), evaluation.seed + sample
            observation, _ = env.reset(seed=seed, options={"index": index})
            self._agent.begin(env, observation)
            total, over = 0.0, False
            while not over:
                action = self._agent.act(observation)
                observation, reward, terminated, truncated, _ = env.step(action)
                total += float(reward)
                over = terminated or truncated
            transcript, seconds = env.transcript(), time.perf_counter() - start
            result = EpisodeResult(index, sample, measure_episode(transcript, total), seconds)
            on_episode(result, EpisodeToRecord(env, transcript, seed))
