"""Players: agents of any origin, asked to play questions and to hand over what came of each.

A player takes the questions in any order and as many side by side as it likes, and tells each
finished episode at once. How an agent is written on the command line, and what makes it, is the
table in :func:`make_player`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agents.baselines import BASELINES, make_baseline
from benchmarks.harness.results_file import Played
from benchmarks.harness.spec import BenchmarkProtocol
from search_env.env import SearchQAEnv
from search_env.episode_record import Recordable
from search_env.errors import ConfigurationError, nearest
from search_env.evaluation import Agent, record_of
from search_env.types import Transcript

Ask = tuple[int, int]
"""Index of a question, number of its sample."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A finished episode as it was played.

    Attributes:
        env: Whose episode it is.
        transcript: All of it.
        seed: What its ``reset`` was given.
        signals: Numbers about each of the policy's tokens, by name.
    """

    env: Recordable
    transcript: Transcript
    seed: int | None
    signals: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


Finished = Callable[[Played, Ending], None]
"""Told of each finished episode."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a model's tokens are chosen.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: Share of the probability that is kept.
        samples: Episodes of each question.
    """

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
class Game:
    """What is played.

    Attributes:
        protocol: Fixes the environment.
        retriever: Name of the one in place of the protocol's, for a control; None for its own.
        seed: Of environment and player.
        decoding: How tokens are chosen.
    """

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
        env = gym.make(self.protocol.env_id, disable_env_checker=True, **self.arguments(**agents))
        bare = env.unwrapped
        if not isinstance(bare, SearchQAEnv):
            raise ConfigurationError(
                f"Expected {self.protocol.env_id} to be a SearchQAEnv, got {type(bare).__name__}."
            )
        return bare


class Player(Protocol):
    """An agent that plays whole question sets.

    Attributes:
        description: JSON values that name the agent and what it is made of: two results with equal
            descriptions come from the same agent.
    """

    @property
    def description(self) -> Mapping[str, Any]:
        """Return what names the agent."""
        ...

    def play(self, game: Game, asked: Sequence[Ask], finished: Finished) -> None:
        """Play the episodes that are asked for.

        Args:
            game: What is played.
            asked: Questions and samples.
            finished: Called with each episode, from this thread, as soon as it is over.
        """
        ...


class AgentPlayer:
    """Plays any :class:`~search_env.evaluation.Agent`, one token after the other.

    Args:
        name: For results.
        agent: Begins and plays every episode.
    """

    def __init__(self, name: str, agent: Agent) -> None:
        self.description: Mapping[str, Any] = {"name": name, "kind": "scripted"}
        self._agent = agent

    def play(self, game: Game, asked: Sequence[Ask], finished: Finished) -> None:
        """Play the episodes in order."""
        env = game.make_env()
        for index, sample in asked:
            start = time.perf_counter()
            observation, _ = env.reset(seed=game.seed + sample, options={"index": index})
            self._agent.begin(env, observation)
            paid, over = 0.0, False
            while not over:
                observation, reward, terminated, truncated, _ = env.step(
                    self._agent.act(observation)
                )
                paid += float(reward)
                over = terminated or truncated
            transcript = env.transcript()
            played = Played(index, sample, record_of(transcript, paid), time.perf_counter() - start)
            finished(played, Ending(env, transcript, game.seed + sample))


def make_player(agent: str, protocol: BenchmarkProtocol, *, seed: int, **options: Any) -> Player:
    """Return the player that a command line names.

    ======================  ====================================================================
    agent                   what plays
    ======================  ====================================================================
    ``oracle`` and others   a scripted baseline of :mod:`agents.baselines`
    ``model:NAME``          a causal language model: bundled name, folder or hub id
    ``python:MODULE:NAME``  a function ``(prompt, stop) -> text``
    ``http://.../v1``       an OpenAI-compatible endpoint; needs ``model``
    ======================  ====================================================================

    Args:
        agent: As above.
        protocol: That will be played.
        seed: Of what a scripted player draws.
        **options: Of :class:`~benchmarks.players.local_model.ModelPlayer`,
            :func:`~benchmarks.players.text.callable_player` or
            :func:`~benchmarks.players.openai_endpoint.endpoint_player`; None leaves one as it is.

    Raises:
        ConfigurationError: No such agent, or an option that it does not take.
    """
    given = {name: value for name, value in options.items() if value is not None}
    kind, _, name = agent.partition(":")
    if agent in BASELINES:
        _only(agent, given, ())
        return AgentPlayer(agent, make_baseline(agent, seed))
    if kind == "model":
        from benchmarks.players.local_model import ModelPlayer

        taken = ("tokenizer", "prompt", "rows", "max_tokens", "dtype", "device")
        return ModelPlayer(name, **_only(agent, given, taken))
    if kind == "python":
        from benchmarks.players.text import callable_player

        return callable_player(name, **_only(agent, given, ("tokenizer", "concurrency")))
    if kind in ("http", "https"):
        return _endpoint(agent, protocol, given)
    known = [*BASELINES, "model:NAME", "python:MODULE:NAME", "http://HOST/v1"]
    raise ConfigurationError(
        f"Expected an agent among {', '.join(known)}, got {agent!r}. {nearest(agent, known)}"
        "Agents of your own run with benchmarks.run.run."
    )


def _endpoint(url: str, protocol: BenchmarkProtocol, given: dict[str, Any]) -> Player:
    from benchmarks.players.openai_endpoint import endpoint_player
    from search_env.protocols import get_protocol

    taken = ("model", "api", "tokenizer", "concurrency", "max_tokens", "timeout", "retries")
    options = _only(url, given, taken)
    if "model" not in options:
        raise ConfigurationError(
            f"Expected the name of a model at {url}, got none. Pass --model as the endpoint "
            "names it."
        )
    rules = get_protocol(str(protocol.environment()["protocol"]))
    return endpoint_player(url, options.pop("model"), protocol=rules, **options)


def _only(agent: str, given: dict[str, Any], taken: Sequence[str]) -> dict[str, Any]:
    """Return the options, if the agent takes all of them."""
    for name in given:
        if name not in taken:
            takes = ", ".join(taken) or "none"
            raise ConfigurationError(
                f"Expected options of {agent} among {takes}, got {name}. Leave it out."
            )
    return given
