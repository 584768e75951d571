from __future__ import annotations

from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

import search_env
from agents.errors import ContextLengthError
from agents.rollout import Rollouts, by_group, collect, learnable
from search_env.errors import ConfigurationError, RetrievalError
from search_env.retrieval.base import FakeRetriever
from search_env.types import Document, Source, StopReason


@dataclass
class _Decoded:
    ids: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    values: NDArray[np.float32] | None


@dataclass
class _ScriptedEngine:
    """Writes a row's own random ids, each with a log-probability that tells where it stands."""

    rows: int
    size: int
    max_tokens: int = 16
    critic: bool = False
    inserted: list[tuple[int, list[int]]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"prefill": 0.0, "decode": 0.0})

    def __post_init__(self) -> None:
        self.lengths = np.zeros(self.rows, np.int64)
        self.random = [np.random.default_rng(0)] * self.rows
        self.released: set[int] = set(range(self.rows))

    def begin(self, rows, prompts, seeds):
        for row, prompt, seed in zip(rows, prompts, seeds, strict=True):
            assert row in self.released
            self.released.discard(row)
            self.lengths[row] = len(prompt)
            self.random[row] = np.random.default_rng(seed)

    def insert(self, rows, tokens):
        for row, ids in zip(rows, tokens, strict=True):
            self.inserted.append((int(row), ids.tolist()))
            self.lengths[row] += len(ids)

    def decode(self, rows):
        ids = np.array([self.random[row].integers(self.size) for row in rows])
        log_probs = -self.lengths[rows].astype(np.float32)
        self.lengths[rows] += 1
        return _Decoded(ids, log_probs, 10 * log_probs if self.critic else None)

    def release(self, rows):
        self.released.update(int(row) for row in rows)


def _envs(rows: int, **arguments):
    return gym.make_vec(
        "SearchQA-Toy-v0", num_envs=rows, autoreset_mode="Disabled", copy=False, **arguments
    ).unwrapped


def _play(rows: int, questions, *, critic: bool = False, **options) -> Rollouts:
    envs = _envs(rows, **options.pop("arguments", {}))
    engine = _ScriptedEngine(rows, envs.setting.size, critic=critic)
    return collect(envs, engine, questions, **options)


def _same(one: Rollouts, other: Rollouts) -> None:
    for a, b in zip(one.trajectories, other.trajectories, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_array_equal(a.log_probs, b.log_probs)
        assert (a.question_id, a.group, a.reward, a.stop_reason) == (
            b.question_id,
            b.group,
            b.reward,
            b.stop_reason,
        )


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("rows", [1, 4, 16])
def test_an_episode_does_not_depend_on_its_row(rows, wait):
    reference = _play(3, [2, 0, 2, 5], group_size=5, seed=7)
    played = _play(rows, [2, 0, 2, 5], group_size=5, seed=7, wait_for_all=wait)
    _same(reference, played)
    assert len(played.trajectories) == 20
    assert played.policy_tokens == sum(t.num_policy_tokens for t in played.trajectories)
    assert set(played.seconds) == {"environment", "retrieval", "prefill", "decode"}


def test_members_and_repeated_questions_differ():
    rollouts = _play(4, [3, 3], group_size=8, seed=1)
    groups = by_group(rollouts.trajectories)
    assert [t.group for t in rollouts.trajectories] == [0] * 8 + [1] * 8
    texts = {t.tokens.tobytes() for t in rollouts.trajectories}
    assert len(texts) > 8
    assert len(groups[0]) == len(groups[1]) == 8


def test_log_probs_stand_at_the_policys_tokens():
    rollouts = _play(4, range(12), group_size=4, critic=True)
    searched = 0
    for trajectory in rollouts.trajectories:
        expected = np.where(trajectory.policy, -np.arange(len(trajectory.tokens)), np.nan)
        np.testing.assert_array_equal(trajectory.log_probs, expected.astype(np.float32))
        np.testing.assert_array_equal(trajectory.values, (10 * expected).astype(np.float32))
        searched += trajectory.num_searches
        assert len(trajectory.queries) == trajectory.num_searches
    assert searched > 0


def test_the_engine_gets_what_the_environment_inserts():
    envs = _envs(2)
    engine = _ScriptedEngine(2, envs.setting.size)
    rollouts = collect(envs, engine, range(20), group_size=2)
    inserted = [ids for _, ids in engine.inserted]
    told = []
    for trajectory in rollouts.trajectories:
        runs = np.split(
            np.arange(len(trajectory.tokens)), np.flatnonzero(np.diff(trajectory.sources)) + 1
        )
        told += [
            trajectory.tokens[run].tolist()
            for run in runs
            if trajectory.sources[run[0]] == Source.RETRIEVED
            and run[-1] + 1 < len(trajectory.tokens)
        ]
    assert sorted(inserted) == sorted(told)
    assert inserted


def test_it_can_be_called_again_after_an_error():
    envs = _envs(4)
    engine = _ScriptedEngine(4, envs.setting.size)
    calls = []

    def interrupt(done: int, total: int) -> None:
        calls.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(envs, engine, range(5), group_size=2, progress=interrupt)
    assert calls == [(1, 10), (2, 10), (3, 10)]
    assert engine.released == set(range(4))
    _same(collect(envs, engine, range(5), group_size=2), _play(4, range(5), group_size=2))


def test_a_token_limit_ends_after_whole_groups():
    everything = _play(4, range(10), group_size=3)
    some = _play(4, range(10), group_size=3, token_limit=40)
    groups = by_group(some.trajectories)
    assert 1 <= len(groups) < 10
    assert all(len(members) == 3 for members in groups.values())
    _same(
        some,
        Rollouts(everything.trajectories[: len(some.trajectories)], {}, 0, 0, 0),
    )


def test_failed_retrieval_is_marked_and_never_learnt_from():
    failing = FakeRetriever(error=RetrievalError("Expected an answer, got none. Wait."))
    rollouts = _play(
        4,
        range(12),
        group_size=4,
        arguments={"retriever": failing, "on_retrieval_error": "truncate"},
    )
    bad = [t for t in rollouts.trajectories if not t.valid]
    assert rollouts.num_invalid == len(bad) > 0
    assert {t.stop_reason for t in bad} == {StopReason.RETRIEVAL_ERROR}
    assert all(t.reward == 0.0 and t.reward_parts == {} for t in bad)
    kept = learnable(rollouts.trajectories)
    assert all(t.valid for t in kept)
    assert all(len(members) >= 2 for members in by_group(kept).values())
    assert len(learnable(rollouts.trajectories, at_least=1)) >= len(kept)


def test_groups_with_one_valid_member_are_left_out():
    trajectories = _play(4, [0, 1], group_size=2).trajectories
    object.__setattr__(trajectories[1], "valid", False)
    assert [t.group for t in learnable(trajectories)] == [1, 1]
    assert [t.group for t in learnable(trajectories, at_least=1)] == [0, 1, 1]


class _Slow:
    """Answers each query after all rows that do not wait have gone on."""

    def search(self, queries, k):
        import time

        time.sleep(0.02)
        return [[Document("d", "", "a")] for _ in queries]


def test_rows_go_on_while_others_wait():
    waiting = _play(8, range(16), arguments={"retriever": _Slow()}, wait_for_all=True)
    going_on = _play(8, range(16), arguments={"retriever": _Slow()}, wait_for_all=False)
    _same(waiting, going_on)
    assert going_on.seconds["retrieval"] < waiting.seconds["retrieval"]


def test_refusals():
    envs = _envs(2)
    engine = _ScriptedEngine(2, envs.setting.size)
    with pytest.raises(ConfigurationError, match="at least one question"):
        collect(envs, engine, [])
    with pytest.raises(ConfigurationError, match="group_size"):
        collect(envs, engine, [0], group_size=0)
    with pytest.raises(ConfigurationError, match="at least 2 rows, got 1"):
        collect(envs, _ScriptedEngine(1, envs.setting.size), [0])
    with pytest.raises(ContextLengthError, match="max_tokens=16"):
        collect(envs, _ScriptedEngine(2, envs.setting.size, max_tokens=15), [0])
    resetting = search_env.SearchQAVectorEnv(
        num_envs=2, dataset="toy", protocol="toy", tokenizer="toy"
    )
    with pytest.raises(ConfigurationError, match="autoreset_mode='Disabled'"):
        collect(resetting, engine, [0])
