"""The single environment against the model: in wrappers, through states, pickles and records."""

from __future__ import annotations

import copy
import pickle
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from search_env.envs.search_qa import SearchQAEnv, bare_env
from search_env.errors import (
    EpisodeOverError,
    InvalidActionError,
    RetrievalError,
)
from search_env.recording.files import read_episodes
from search_env.recording.replay import replay_episodes
from search_env.retrieval.base import retrieve
from search_env.types import FaultKind
from search_env.wrappers import (
    EpisodeAction,
    RecordEpisodes,
    SegmentAction,
    StagedReward,
    TextAction,
    TokenWindow,
)
from tests.fuzz.checks import Budget, Watched, caught, close_twice, require_same, without_messages
from tests.fuzz.draw import REWARD, Drawn
from tests.fuzz.policy import Writer
from tests.fuzz.retrievers import Interrupted

_BAD_ACTIONS = (-1, 10**9, 1.5, None, "0", np.array([1, 2]))


def finder(drawn: Drawn, env: SearchQAEnv) -> Callable[[str], Any]:
    """Return the function from a query to its documents, None where the search fails."""
    k, moody = env.protocol.top_k, drawn.retriever
    if moody is None:
        return lambda query: retrieve(env.retriever, [query], k)[0]
    return lambda query: None if moody.fails(query) else moody.documents(query, k)


def play_single(rng: random.Random, drawn: Drawn, budget: Budget) -> None:
    """Play the bare environment, saved, restored, cloned and pickled on the way."""
    env = SearchQAEnv(**drawn.arguments)
    _Player(rng, drawn, budget, env, env).play()
    close_twice(env)


def play_wrapped(rng: random.Random, drawn: Drawn, budget: Budget) -> None:
    """Play with wrappers that keep tokens as actions: staged rewards, windows."""
    bare = SearchQAEnv(**drawn.arguments)
    env: gym.Env[Any, Any] = bare
    if rng.random() < 0.7:
        phases = rng.sample(("f1", "exact-match", "answer-found"), 2)
        after = rng.choice((2, 3, None))
        env = StagedReward(env, phases, after_episodes=after, search_rate=0.5, window=2)
    if rng.random() < 0.5:
        size = rng.choice((None, rng.randint(1, bare.protocol.max_tokens)))
        env = TokenWindow(env, size, keep=rng.choice(("first", "last")))
    _Player(rng, drawn, budget, env, bare).play()
    close_twice(env)


def play_recorded(rng: random.Random, drawn: Drawn, budget: Budget) -> None:
    """Record episodes, then execute them again from the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "episodes.jsonl"
        bare = SearchQAEnv(**drawn.arguments)
        player = _Player(rng, drawn, budget, RecordEpisodes(bare, path), bare)
        player.play()
        if not player.ended:
            return
        episodes = list(read_episodes(path))
        assert len(episodes) == player.ended
        replayed = list(replay_episodes(episodes))
        budget.counts["replays"] += len(replayed)


class _Player:
    """Plays an environment step by step and checks each result."""

    def __init__(
        self,
        rng: random.Random,
        drawn: Drawn,
        budget: Budget,
        env: gym.Env[Any, Any],
        bare: SearchQAEnv,
    ) -> None:
        self._rng, self._drawn, self._budget = rng, drawn, budget
        self._env, self._bare = env, bare
        self._watched = Watched(bare, budget)
        self._writer = Writer(rng, bare.protocol, bare.tokenizer)
        self._find = finder(drawn, bare)
        self.ended = 0

    def play(self) -> None:
        """Play until the budget is spent; an episode may be broken off at any time."""
        if self._rng.random() < 0.1:
            with pytest.raises(EpisodeOverError):
                self._env.step(0)
        seed: int | None = self._rng.randrange(2**31)
        while self._budget.left > 0:
            self._begin(seed)
            seed = self._rng.choice((None, None, self._rng.randrange(2**31)))
            breaks_off = self._rng.random() < 0.05
            while self._budget.left > 0 and self._step():
                if breaks_off and self._rng.random() < 0.1:
                    break
                if self._rng.random() < 0.02:
                    self._compare_with_a_twin()

    def _begin(self, seed: int | None) -> None:
        options = None
        if self._rng.random() < 0.2:
            index = self._rng.randrange(len(self._bare.questions))
            options = self._rng.choice(
                ({"index": index}, {"question_id": self._bare.questions[index].id})
            )
        observation, info = self._env.reset(seed=seed, options=options)
        assert observation in self._env.observation_space
        self._writer.begin()
        self._watched.began(self._observed(), info)

    def _observed(self) -> dict[str, Any]:
        """Return the bare environment's observation, whatever the wrappers make of it."""
        transcript = self._bare.transcript()
        size, length = self._bare.protocol.max_tokens, len(transcript.tokens)
        tokens, sources = np.zeros(size, np.int32), np.zeros(size, np.int8)
        tokens[:length], sources[:length] = transcript.tokens, transcript.sources
        return {"tokens": tokens, "length": length, "sources": sources}

    def _step(self) -> bool:
        """Take one step; return whether the episode goes on."""
        watched = self._watched
        assert watched.question is not None
        assert watched.model is not None
        if self._rng.random() < 0.01:
            with pytest.raises(InvalidActionError):
                self._env.step(self._rng.choice(_BAD_ACTIONS))
            self._budget.counts["error InvalidActionError"] += 1
        token = self._writer.next(watched.question)
        reward, faults = self._bare.reward_name, len(watched.model.faults)
        if self._drawn.arguments["action_mask"] and self._rng.random() < 0.05:
            self._check_mask()
        result, error = caught(lambda: self._env.step(self._as_action(token)))
        self._budget.spend()
        query = watched.wrote(token, self._find)
        if error is not None:
            return self._check_error(error, query)
        observation, paid, terminated, truncated, info = result
        assert observation in self._env.observation_space
        shown = observation if self._env is self._bare else self._observed()
        watched.check((shown, paid, terminated, truncated, info), query, faults, reward)
        if terminated or truncated:
            self._end()
            return False
        return True

    def _as_action(self, token: int) -> Any:
        return self._rng.choice((token, np.int64(token), np.int32(token)))

    def _check_error(self, error: BaseException, query: str) -> bool:
        """Check that an error was due; the episode is over."""
        model, moody = self._watched.model, self._drawn.retriever
        assert model is not None
        self._budget.counts[f"error {type(error).__name__}"] += 1
        if isinstance(error, Interrupted):
            assert moody is not None
            assert moody.mood(query) == "interrupt"
        elif isinstance(error, RetrievalError):
            assert self._drawn.raises
            assert moody is not None
            assert moody.fails(query)
        else:
            assert self._bare.reward_name == REWARD
            assert model.stop is not None
        with pytest.raises(EpisodeOverError):
            self._env.step(0)
        return False

    def _end(self) -> None:
        self.ended += 1
        self._budget.saw(self._bare.transcript())
        with pytest.raises(EpisodeOverError):
            self._env.step(0)

    def _check_mask(self) -> None:
        """Check that some allowed id breaks no rule, in a copy."""
        mask = self._bare.action_masks()
        assert mask.shape == (self._bare.action_space.n,)
        assert mask.any()
        twin = self._bare.clone()
        token = twin.action_space.sample(mask=mask)
        result, _ = caught(lambda: twin.step(token))
        if result is not None and mask.sum() < len(mask):
            faults = result[-1].get("format_faults", [])
            # The mask does not plan: the segment's limit may be reached without an action.
            assert set(faults) <= {FaultKind.NO_ACTION.value}, faults

    def _compare_with_a_twin(self) -> None:
        """Play on in a copy of some kind, and in this one again: all must be equal."""
        how = self._rng.choice(("clone", "deepcopy", "pickle", "state", "pickled state"))
        state = self._bare.get_state()
        if how in ("clone", "deepcopy", "pickle"):
            make = {"clone": SearchQAEnv.clone, "deepcopy": copy.deepcopy, "pickle": _pickled}[how]
            twin = make(self._bare)
        else:
            twin = SearchQAEnv(**self._drawn.arguments)
            twin.set_state(state if how == "state" else pickle.loads(pickle.dumps(state)))
        self._budget.counts["restores"] += 1
        assert self._watched.question is not None
        tokens = [self._writer.next(self._watched.question) for _ in range(6)]
        expected = [self._walk(self._bare, token) for token in tokens]
        self._bare.set_state(state)
        require_same([self._walk(twin, token) for token in tokens], expected, how)
        self._writer.begin()

    def _walk(self, env: SearchQAEnv, token: int) -> tuple[Any, ...]:
        try:
            result, error = caught(lambda: env.step(token))
        except EpisodeOverError:
            observation, info = env.reset()
            return observation, info
        if error is not None:
            return (type(error).__name__,)
        return (*result[:-1], without_messages(result[-1]))


def _pickled(env: SearchQAEnv) -> SearchQAEnv:
    twin: SearchQAEnv = pickle.loads(pickle.dumps(env))
    return twin


# Actions of other sizes.


def play_coarse(rng: random.Random, drawn: Drawn, budget: Budget) -> None:
    """Play segments, texts and whole episodes; the tokens they write give the same episode."""
    kind = rng.choice((SegmentAction, TextAction, EpisodeAction))
    env = kind(SearchQAEnv(**drawn.arguments))
    bare, twin = bare_env(env), SearchQAEnv(**drawn.arguments)
    writer = Writer(rng, bare.protocol, bare.tokenizer)
    while budget.left > 0:
        seed = rng.randrange(2**31)
        env.reset(seed=seed)
        writer.begin()
        question = bare.transcript().question
        over = False
        while not over and budget.left > 0:
            count = len(bare.transcript().tokens)
            ids = [writer.next(question) for _ in range(rng.randint(1, 12))]
            action: Any = tuple(ids)
            if kind is TextAction:
                action = bare.tokenizer.decode(ids)
            elif kind is EpisodeAction:
                action = env.action_space.sample()
            try:
                result, error = caught(lambda action=action: env.step(action))
            except InvalidActionError:
                assert kind is TextAction  # a text without tokens
                budget.spend()
                continue
            budget.spend(max(1, len(bare.transcript().tokens) - count))
            over = error is not None or result[2] or result[3]
            if error is None and not over:
                assert result[0] in env.observation_space
        _repeat(twin, bare, seed)
        if bare.transcript().stop_reason is not None:
            budget.saw(bare.transcript())


def _repeat(twin: SearchQAEnv, bare: SearchQAEnv, seed: int) -> None:
    """Write an episode's policy tokens one by one, and compare."""
    transcript = bare.transcript()
    twin.reset(seed=seed)
    for token in transcript.tokens[transcript.sources == 2].tolist():
        caught(lambda token=token: twin.step(token))
    repeated = twin.transcript()
    require_same(repeated.tokens, transcript.tokens, "tokens")
    assert repeated.events == transcript.events
