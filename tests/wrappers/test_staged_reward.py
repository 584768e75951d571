"""Staged rewards: every form against the one rule; infos, saved states and errors."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.errors import ConfigurationError, RewardError
from search_env.rewards import Reward, get_reward
from search_env.rewards.phases import PhaseState, PhaseSwitch
from search_env.testing import check_vector_env, check_wrapper
from search_env.wrappers.clocks import SegmentAction
from search_env.wrappers.staged_reward import StagedReward, VectorStagedReward
from tests.wrappers.staged_play import (
    END,
    FILLER,
    IDS,
    MODES,
    PARTS,
    PHASES,
    Player,
    check,
    episodes,
    make,
    make_own,
    make_sync,
    outcome_of,
    play_single,
    rules,
)


def test_the_default_is_r1_searchers_two_phases():
    env = StagedReward(make())
    assert env.phases == ("r1-searcher-stage1", "r1-searcher-stage2")
    assert env.spec.additional_wrappers[-1].kwargs["after_episodes"] == 350 * 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phases": ("r1-searcher-stgae1",)}, "Did you mean 'r1-searcher-stage1'"),
        ({"phases": "f1"}, "Expected phases to be a sequence of rewards, got 'f1'"),
        ({"phases": ()}, "Expected the number of phases to be an integer of at least 1, got 0"),
        ({"phase": 2}, "Expected a phase from 0 to 1, got 2"),
        ({"phase": "f1"}, "Expected a phase from 0 to 1, got 'f1'"),
        ({"after_episodes": 0}, "Expected after_episodes to be an integer of at least 1, got 0"),
        ({"after_episodes": 5.5}, "Expected after_episodes to be an integer"),
        ({"search_rate": 0}, "Expected search_rate to be a share above 0 and at most 1, got 0"),
        ({"format_rate": 90}, "Expected format_rate to be a share above 0 and at most 1, got 90"),
        ({"window": True}, "Expected window to be an integer of at least 1, got True"),
        (
            {"format_rate": 0.9, "after_episodes": 100},
            "Expected a window of at most after_episodes=100 episodes, got 256",
        ),
    ],
)
@pytest.mark.parametrize("form", [lambda **a: StagedReward(make(), **a), None])
def test_bad_arguments_are_reported(form, arguments, message):
    form = form or (lambda **a: VectorStagedReward(make_sync(1, AutoresetMode.NEXT_STEP), **a))
    with pytest.raises(ConfigurationError, match=message):
        form(**arguments)


# Every form switches at the same episode.


FEWER = settings(max_examples=settings().max_examples // 3)  # each builds several environments


@given(st.lists(episodes, min_size=1, max_size=20), rules)
@FEWER
def test_one_stream_switches_at_the_same_episode_in_every_form(stream, rule):
    env = StagedReward(make(), PHASES, **rule)
    single = play_single(env, stream)
    check(single, env.phase_history, rule)
    for mode in MODES:
        for build in (make_sync, make_own):
            envs = VectorStagedReward(build(1, mode), PHASES, **rule)
            envs.reset(seed=0)
            assert Player(envs, [stream]).play() == single
            assert envs.phase_history == env.phase_history
            envs.close()


scripts = st.lists(st.lists(episodes, min_size=1, max_size=6), min_size=2, max_size=4)


@given(scripts, rules, st.sampled_from(MODES))
@FEWER
def test_many_rows_switch_as_the_rule_says(scripts, rule, mode):
    played = []
    for build in (make_sync, make_own):
        envs = VectorStagedReward(build(len(scripts), mode), PHASES, **rule)
        envs.reset(seed=0)
        played.append(Player(envs, scripts).play())
        check(played[-1], envs.phase_history, rule)
        envs.close()
    assert played[0] == played[1]


@given(scripts, rules, st.sampled_from(MODES), st.integers(1, 4))
@FEWER
def test_send_and_recv_switch_as_the_rule_says(scripts, rule, mode, min_ready):
    envs = VectorStagedReward(make_own(len(scripts), mode), PHASES, **rule)
    envs.reset(seed=0)
    groups = Player(envs, scripts).play_async(min_ready)
    check(groups, envs.phase_history, rule)
    count = Counter(episode.kind for group in groups for episode in group)
    assert count == Counter(kind for script in scripts for kind in script)
    envs.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_worker_processes_switch_as_the_rule_says(mode, context):
    rule = {"after_episodes": 4, "search_rate": 0.5, "format_rate": None, "window": 3}
    scripts = [["answers", "rambles", "searches", "fails"], ["rambles", "searches", "answers"]]
    envs = AsyncVectorEnv([make] * 2, context=context, autoreset_mode=mode)
    staged = VectorStagedReward(envs, PHASES, **rule)
    staged.reset(seed=0)
    groups = Player(staged, scripts).play()
    check(groups, staged.phase_history, rule)
    assert staged.phase > 0
    staged.close()


@pytest.mark.parametrize("outermost", [True, False])
def test_coarser_actions_switch_at_the_same_episode(outermost):
    rule = {"after_episodes": 3, "search_rate": 1.0, "window": 2}
    stream = ["answers", "searches", "fails", "searches badly", "rambles", "searches", "answers"]
    token = StagedReward(make(), PHASES, **rule)
    single = play_single(token, stream)
    inner = functools.partial(StagedReward, phases=PHASES, **rule)
    env = inner(SegmentAction(make())) if outermost else SegmentAction(inner(make()))
    for kind, group in zip(stream, single, strict=True):
        env.reset()
        terminated = truncated = False
        left = IDS[kind]
        while not terminated | truncated:
            _, _, terminated, truncated, info = env.step(left)
            left = left[len(left) - info["unused_actions"] :]
        assert [outcome_of(kind, info)] == group
    history = token.phase_history
    assert env.get_wrapper_attr("phase_history") == history
    assert [switch.reason for switch in history] == ["metric", "episodes"]


# Rewards and infos.


def test_rewards_follow_the_phase():
    env = StagedReward(make(), PHASES, after_episodes=2)
    played = play_single(env, ["answers"] * 5)
    assert [group[0].parts for group in played] == [PARTS[i] for i in (0, 0, 1, 1, 2)]
    assert [group[0].phase for group in played] == [0, 0, 1, 1, 2]
    assert env.unwrapped.reward is get_reward("cover-exact-match")


def test_every_info_has_the_phase_and_is_json():
    env = StagedReward(make(), PHASES, after_episodes=1)
    _, info = env.reset(seed=0)
    assert (info["phase"], info["phase_name"]) == (0, "f1")
    for token in IDS["answers"][:-1]:
        info = env.step(token)[-1]
        assert (info["phase"], info["phase_name"]) == (0, "f1")
        assert "phase_switched" not in info
    info = env.step(IDS["answers"][-1])[-1]
    assert json.loads(json.dumps(info)) == info
    assert (info["phase"], info["phase_name"], info["phase_switched"]) == (0, "f1", True)
    assert (env.phase, env.phase_name) == (1, "exact-match")
    assert env.reset()[1]["phase"] == 1


def test_a_reward_object_may_be_a_phase():
    twice = 2 * get_reward("f1")
    env = StagedReward(make(), [twice, "f1"], after_episodes=None)
    assert env.phase_name == "2*f1"
    assert env.unwrapped.reward is twice


def test_a_manual_switch():
    env = StagedReward(make(), PHASES, after_episodes=2)
    play_single(env, ["answers"])
    env.set_phase(0)  # the phase in force: its progress stays
    assert env.phase_history == ()
    env.reset()
    env.set_phase(2)
    assert env.unwrapped.reward.name == "cover-exact-match"
    *_, info = env.step(END)
    assert (info["phase"], info["phase_episodes"]) == (2, 1)  # also for the episode under way
    env.set_phase(np.int64(1))
    play_single(env, ["answers", "answers"])
    assert env.phase_history == (
        PhaseSwitch(2, 1, "manual"),
        PhaseSwitch(1, 2, "manual"),
        PhaseSwitch(2, 4, "episodes"),
    )
    with pytest.raises(ConfigurationError, match="Expected a phase from 0 to 2, got 3"):
        env.set_phase(3)


def test_without_a_condition_only_set_phase_switches():
    env = StagedReward(make(), PHASES, after_episodes=None)
    play_single(env, ["searches"] * 300)
    assert (env.phase, env.phase_history) == (0, ())


@pytest.mark.parametrize("build", [make_sync, make_own])
def test_a_manual_switch_reaches_every_row(build):
    envs = VectorStagedReward(build(3, AutoresetMode.SAME_STEP), PHASES, after_episodes=None)
    envs.reset(seed=0)
    envs.set_phase(1)
    groups = Player(envs, [["answers"], ["searches"], ["rambles"]]).play()
    assert {episode.parts for group in groups for episode in group} == {PARTS[1]}
    assert envs.phase_history == (PhaseSwitch(1, 0, "manual"),)
    envs.close()


def test_set_reward_is_refused():
    env = StagedReward(make())
    with pytest.raises(ConfigurationError, match=r"Expected set_phase\(\), got set_reward\('f1'\)"):
        env.get_wrapper_attr("set_reward")("f1")
    with pytest.raises(ConfigurationError, match="keep one staged wrapper"):
        StagedReward(env)
    envs = VectorStagedReward(make_sync(2, AutoresetMode.NEXT_STEP))
    with pytest.raises(ConfigurationError, match="keep one staged wrapper"):
        VectorStagedReward(envs)


def test_an_environment_of_another_kind_is_refused():
    with pytest.raises(ConfigurationError, match=r"Expected an environment with set_reward\(\)"):
        StagedReward(gym.make("CartPole-v1"))
    for form in ("sync", "vector_entry_point"):
        envs = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode=form)
        with pytest.raises(ConfigurationError, match="Expected an environment with"):
            VectorStagedReward(envs)


def test_an_episode_truncated_by_a_time_limit_is_an_error():
    message = "Pass max_policy_tokens instead of max_episode_steps"
    env = StagedReward(make(max_episode_steps=2))
    env.reset(seed=0)
    env.step(FILLER)
    with pytest.raises(ConfigurationError, match=message):
        env.step(FILLER)
    build = functools.partial(make, max_episode_steps=1)
    envs = VectorStagedReward(SyncVectorEnv([build] * 2))
    envs.reset(seed=0)
    with pytest.raises(ConfigurationError, match=message):
        envs.step(np.array([FILLER, FILLER]))


def test_send_and_recv_need_an_environment_that_has_them():
    envs = VectorStagedReward(make_sync(2, AutoresetMode.NEXT_STEP))
    envs.reset(seed=0)
    with pytest.raises(ConfigurationError, match=r"Expected an environment with send\(\)"):
        envs.send(np.array([FILLER]), [0])
    with pytest.raises(ConfigurationError, match=r"Expected an environment with recv\(\)"):
        envs.recv()
    with pytest.raises(ConfigurationError, match=r"Expected an environment with get_state\(\)"):
        envs.get_state()


# One phase for all rows.


def vector_of_staged(form: type, **arguments: Any) -> gym.vector.VectorEnv:
    return form([functools.partial(make_staged, **arguments)] * 2)


def make_staged(**arguments: Any) -> StagedReward:
    return StagedReward(make(), **arguments)


@pytest.mark.parametrize("form", [SyncVectorEnv, AsyncVectorEnv])
def test_rows_with_separate_phases_report_them(form):
    envs = vector_of_staged(form, phases=PHASES, after_episodes=1)
    envs.reset(seed=0)
    infos = envs.step(np.array([END, FILLER]))[-1]
    assert infos["phase_switched"].tolist() == [True, False]
    infos = envs.step(np.array([FILLER, FILLER]))[-1]
    assert infos["phase"].tolist() == [1, 0]
    envs.close()


@pytest.mark.parametrize("form", [SyncVectorEnv, AsyncVectorEnv])
def test_rows_without_a_condition_are_switched_together(form):
    envs = vector_of_staged(form, phases=PHASES, after_episodes=None)
    envs.reset(seed=0)
    envs.call("set_phase", 1)
    infos = envs.step(np.array([END, END]))[-1]
    assert infos["phase"].tolist() == [1, 1]
    assert infos["phase_name"].tolist() == ["exact-match"] * 2
    envs.close()
    envs = vector_of_staged(SyncVectorEnv, phase=1)  # the last phase: nothing is left to drift
    envs.reset(seed=0)


# Saved, restored, copied.


stream_and_cut = st.lists(episodes, min_size=2, max_size=12).flatmap(
    lambda stream: st.tuples(st.just(stream), st.integers(0, len(stream) - 1))
)


@given(stream_and_cut, rules)
@FEWER
def test_a_restored_run_switches_at_the_same_episode(stream_and_cut, rule):
    stream, cut = stream_and_cut
    env = StagedReward(make(), PHASES, **rule)
    play_single(env, stream[:cut])
    env.reset(seed=cut)
    env.step(IDS[stream[cut]][0])  # in the middle of an episode
    saved = pickle.loads(pickle.dumps(env.get_state()))
    others = [copy.deepcopy(env), pickle.loads(pickle.dumps(env)), env.clone(), env]
    fresh = StagedReward(make(), PHASES, **rule)
    fresh.reset(seed=99)
    fresh.set_state(saved)
    ends = []
    for other in [fresh, *others]:
        for token in IDS[stream[cut]][1:]:
            info = other.step(token)[-1]
        rest = play_single(other, stream[cut + 1 :], seed=None)
        questions = [other.reset()[1]["question_id"] for _ in range(2)]
        ends.append((info, rest, other.phase_history, questions, other.unwrapped.reward.name))
    assert all(end == ends[0] for end in ends)


def test_a_restored_environment_pays_the_restored_phase():
    env = StagedReward(make(), PHASES, after_episodes=1)
    env.reset(seed=0)
    saved = env.get_state()
    play_single(env, ["answers"])
    env.set_state(saved)
    assert (env.phase, env.unwrapped.reward.name) == (0, "f1")
    env.set_phase_state(PhaseState(2, 7))
    assert (env.phase, env.unwrapped.reward.name) == (2, "cover-exact-match")
    with pytest.raises(ConfigurationError, match="Expected a phase from 0 to 2, got 3"):
        env.set_phase_state(PhaseState(3))


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_environment_is_restored_with_its_phase(mode):
    rule = {"after_episodes": 3}
    scripts = [["answers", "searches", "answers"], ["searches", "answers", "rambles"]]
    envs = VectorStagedReward(make_own(2, mode), PHASES, **rule)
    envs.reset(seed=0)
    player = Player(envs, scripts)
    for _ in range(4):
        player.receive(envs.step(np.array([player.action(row) for row in range(2)])), range(2))
    twin = copy.copy(player)
    twin.scripts, twin.tokens = copy.deepcopy((player.scripts, player.tokens))
    twin.resetting = player.resetting.copy()
    twin.envs = VectorStagedReward(make_own(2, mode), PHASES, **rule)
    twin.envs.set_state(pickle.loads(pickle.dumps(envs.get_state())))
    assert envs.get_phase_state().total == 1
    assert twin.play() == player.play()
    assert twin.envs.get_phase_state() == envs.get_phase_state()
    assert envs.phase_history == (PhaseSwitch(1, 3, "episodes"),)


def test_progress_alone_is_carried_over_to_worker_forms():
    envs = VectorStagedReward(make_sync(2, AutoresetMode.SAME_STEP), PHASES, after_episodes=3)
    envs.reset(seed=0)
    Player(envs, [["answers"], ["answers"]]).play()
    resumed = VectorStagedReward(make_sync(2, AutoresetMode.SAME_STEP), PHASES, after_episodes=3)
    resumed.set_phase_state(envs.get_phase_state())
    resumed.reset(seed=1)
    Player(resumed, [["answers"], ["answers"]]).play()
    assert resumed.phase_history == (PhaseSwitch(1, 3, "episodes"),)


def test_the_spec_rebuilds_the_wrapper():
    arguments = {"phases": list(PHASES), "search_rate": 0.5, "window": 3, "phase": 1}
    env = StagedReward(gym.make("SearchQA-Toy-v0"), **arguments)
    env.set_phase(2)  # arguments are recorded, not where the run stands
    text = env.spec.to_json()
    again = gym.make(gym.envs.registration.EnvSpec.from_json(text))
    assert isinstance(again, StagedReward)
    assert again.spec.to_json() == text
    assert (again.phase, again.phase_name) == (1, "exact-match")
    assert again.unwrapped.reward.name == "exact-match"
    kwargs = again.spec.additional_wrappers[-1].kwargs
    assert kwargs == {**arguments, "after_episodes": 5600, "format_rate": None}


def test_it_keeps_gymnasiums_contract():
    check_wrapper(StagedReward, env_id="SearchQA-v0", picklable=True)


def test_other_wrappers_may_stand_between():
    env = StagedReward(gym.wrappers.RecordEpisodeStatistics(make()), PHASES, after_episodes=1)
    play_single(env, ["answers", "answers"])
    env.set_state(env.get_state())
    assert env.unwrapped.reward.name == "cover-exact-match"
    for build in (make_sync, make_own):
        inner = gym.wrappers.vector.RecordEpisodeStatistics(build(2, AutoresetMode.NEXT_STEP))
        envs = VectorStagedReward(inner, PHASES, after_episodes=1)
        envs.reset(seed=0)
        Player(envs, [["answers"], ["answers"]]).play()
        assert envs.phase == 1
        envs.close()


# Faults.


def _nan(transcript: Any) -> dict[str, float]:
    return {"nan": float("nan")}


NAN = Reward("nan", ("nan",), _nan)


@pytest.mark.parametrize("build", [make_sync, make_own])
def test_a_step_that_raises_counts_nothing(build):
    envs = VectorStagedReward(build(2, AutoresetMode.NEXT_STEP), ["f1", NAN], after_episodes=1)
    envs.reset(seed=0)
    envs.step(np.array([END, FILLER]))
    before = envs.get_phase_state()
    assert before.phase == 1
    with pytest.raises(RewardError):
        envs.step(np.array([END, END]))
    assert envs.get_phase_state() is before


def test_a_failed_switch_counts_nothing():
    envs = VectorStagedReward(make_sync(2, AutoresetMode.NEXT_STEP), PHASES, after_episodes=1)
    envs.reset(seed=0)
    before = envs.get_phase_state()

    def broken(*arguments: Any) -> None:
        raise BrokenPipeError

    envs.env.call = broken
    with pytest.raises(BrokenPipeError):
        envs.step(np.array([END, END]))
    assert envs.get_phase_state() is before


def test_it_keeps_the_contract_of_vector_environments():
    def make(num_envs, autoreset_mode):
        env = gym.make_vec("SearchQA-Toy-v0", num_envs=num_envs, autoreset_mode=autoreset_mode)
        return VectorStagedReward(env)

    check_vector_env(make)
