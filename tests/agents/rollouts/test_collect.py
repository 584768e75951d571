from __future__ import annotations

import threading

import gymnasium as gym
import numpy as np
import pytest

import search_env
from search_env.agents.errors import ContextLengthError
from search_env.agents.inference.engine import Engine
from search_env.agents.rollouts.collect import Rollouts, collect
from search_env.agents.types import by_group, learnable
from search_env.errors import ConfigurationError, RetrievalError
from search_env.retrieval.async_search import BackgroundSearch
from search_env.retrieval.base import FakeRetriever
from search_env.types import Document, Source, StopReason
from tests.agents.scripted_engine import ScriptedEngine
from tests.agents.toy_runs import tiny_model
from tests.work import HANGS_AFTER


def _envs(rows: int, **arguments):
    return gym.make_vec(
        "SearchQA-Toy-v0", num_envs=rows, autoreset_mode="Disabled", copy=False, **arguments
    ).unwrapped


def _play(rows: int, questions, *, critic: bool = False, **options) -> Rollouts:
    envs = _envs(rows, **options.pop("arguments", {}))
    engine = ScriptedEngine(rows, envs.components.size, critic=critic)
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


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_together_are_what_one_process_plays(size):
    """Also where the repeats of a question go to several processes."""
    questions = [2, 0, 2, 5, 2]
    whole = _play(4, questions, group_size=3, seed=7).trajectories
    shares = [
        _play(4, questions, group_size=3, seed=7, shard=(rank, size)).trajectories
        for rank in range(size)
    ]
    assert [{t.group for t in share} for share in shares] == [
        set(range(rank, 5, size)) for rank in range(size)
    ]
    together = sorted((t for share in shares for t in share), key=lambda t: t.group)
    for one, other in zip(whole, together, strict=True):
        assert one.group == other.group
        np.testing.assert_array_equal(one.tokens, other.tokens)


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
    engine = ScriptedEngine(2, envs.components.size)
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
    engine = ScriptedEngine(4, envs.components.size)
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


class _Patient:
    """Answers its first call only after another token was decoded."""

    def __init__(self):
        self.asked, self.decoded, self.in_time = threading.Event(), threading.Event(), False

    def search(self, queries, k):
        if not self.asked.is_set():
            self.asked.set()
            self.in_time = self.decoded.wait(HANGS_AFTER)
        return [[Document("d", "", "a")] for _ in queries]


class _ToldEngine(ScriptedEngine):
    def decode(self, rows):
        if self.retriever.asked.wait(0):
            self.retriever.decoded.set()
        return super().decode(rows)


def test_rows_go_on_while_others_wait(monkeypatch):
    retriever, submit = _Patient(), BackgroundSearch.submit

    def submit_and_be_heard(search, queries):
        submit(search, queries)
        assert retriever.asked.wait(HANGS_AFTER)  # or a busy machine asks only when no row is left

    monkeypatch.setattr(BackgroundSearch, "submit", submit_and_be_heard)
    envs = _envs(8, retriever=retriever)
    engine = _ToldEngine(8, envs.components.size)
    engine.retriever = retriever
    going_on = collect(envs, engine, range(16), group_size=8, wait_for_all=False)
    assert retriever.in_time
    monkeypatch.undo()
    known = {"retriever": _Patient()}
    known["retriever"].asked.set()
    _same(going_on, _play(8, range(16), group_size=8, arguments=known))


def test_refusals():
    envs = _envs(2)
    engine = ScriptedEngine(2, envs.components.size)
    with pytest.raises(ConfigurationError, match="at least one question"):
        collect(envs, engine, [])
    with pytest.raises(ConfigurationError, match="group_size"):
        collect(envs, engine, [0], group_size=0)
    with pytest.raises(ConfigurationError, match=r"2 groups, got shard=\(2, 3\)"):
        collect(envs, engine, [0, 1], shard=(2, 3))
    with pytest.raises(ConfigurationError, match="at least 2 rows, got 1"):
        collect(envs, ScriptedEngine(1, envs.components.size), [0])
    with pytest.raises(ContextLengthError, match="max_tokens=16"):
        collect(envs, ScriptedEngine(2, envs.components.size, max_tokens=15), [0])
    resetting = search_env.SearchQAVectorEnv(
        num_envs=2, dataset="toy", protocol="toy", tokenizer="toy"
    )
    with pytest.raises(ConfigurationError, match="autoreset_mode='Disabled'"):
        collect(resetting, engine, [0])


def test_a_models_episodes_do_not_depend_on_the_number_of_rows():
    model = tiny_model()
    four, sixteen = (
        collect(
            _envs(rows), Engine(model, rows=rows, max_tokens=16), range(9), group_size=4, seed=3
        )
        for rows in (4, 16)
    )
    assert sum(t.num_searches for t in four.trajectories) > 0
    for one, other in zip(four.trajectories, sixteen.trajectories, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)
