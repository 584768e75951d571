"""Structures for other libraries: infos that have every key, masks and boxes in observations."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers

from search_env import SearchQAEnv, SearchQAVectorEnv
from search_env.errors import ConfigurationError
from search_env.retrieval.base import FakeRetriever
from search_env.rewards.group import GroupReward
from search_env.testing.runs import row_info
from search_env.types import FaultKind
from search_env.wrappers.staged_reward import StagedReward, VectorStagedReward
from search_env.wrappers.token_window import TokenWindow, VectorTokenWindow

ID = "SearchQA-Toy-v0"
TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy", "max_tokens": 16}
ALL = {"action_mask": "observation", "box_length": True, "stable_infos": True}
FINAL = ("final_obs", "final_info", "_final_obs", "_final_info")
TEXTS = ["<q>key1 key1 </q><a>value0 </a>", "</q><q></q><d><a>", "key1 key1 key1", "<q>key2 </a>"]


def structure(info):
    """Types and shapes of all values; the keys of dictionaries in order of their names."""
    if isinstance(info, dict):
        return {key: structure(info[key]) for key in sorted(info)}
    if isinstance(info, tuple):
        return tuple(map(structure, info))
    if isinstance(info, np.ndarray):
        return info.dtype, info.shape
    return type(info)


def played(env, seeds=range(12)):
    """Every info of some episodes with searches, faults, answers and cut ends."""
    for seed in seeds:
        yield env.reset(seed=seed)[1]
        for token in env.unwrapped.tokenizer.encode(TEXTS[seed % len(TEXTS)], special=True):
            *_, terminated, truncated, info = env.step(token)
            yield info
            if terminated or truncated:
                break


@pytest.mark.parametrize("failing", [False, True])
def test_stable_infos_have_one_structure(failing):
    retriever = FakeRetriever(error=OSError("down")) if failing else None
    env = SearchQAEnv(stable_infos=True, retriever=retriever, on_retrieval_error="truncate", **TOY)
    infos = list(played(env))
    first = structure(infos[0])
    assert all(structure(info) == first for info in infos)
    assert first["num_searches"] is np.int64
    assert first["f1"] is first["reward_parts"]["f1"] is np.float64
    assert first["document_ids"] == (str,) * env.protocol.top_k
    assert first["format_faults"] == (np.int64, (len(FaultKind),))
    seen = [info["format_faults"] for info in infos if info["format_faults"].any()]
    assert seen
    assert any(info["retrieval_error"] for info in infos) == failing


def test_stable_infos_say_what_the_others_say():
    plain, stable = SearchQAEnv(**TOY), SearchQAEnv(stable_infos=True, **TOY)
    kinds = [kind.value for kind in FaultKind]
    for some, every in zip(played(plain), played(stable), strict=True):
        faults = some.pop("format_faults", [])
        assert every["format_faults"].tolist() == [faults.count(kind) for kind in kinds]
        ids = some.pop("document_ids", [])
        assert every["document_ids"] == (*ids, *[""] * (stable.protocol.top_k - len(ids)))
        for key, value in some.items():
            assert every[key] == value
        absent = set(every) - set(some) - {"format_faults", "document_ids", "reward_parts"}
        assert not any(every[key] for key in absent)


def vector_calls(env, seed=0, steps=40):
    yield env.reset(seed=seed)[1]
    random = np.random.default_rng(seed)
    for _ in range(steps):
        *_, terminated, truncated, infos = env.step(random.integers(0, 24, env.num_envs))
        yield infos
        ended = terminated | truncated
        if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            yield env.reset(options={"reset_mask": ended})[1]


def two(group):
    return [{"two": 2.0} for _ in group]


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("groups", [False, True])
def test_stable_infos_of_rows_are_those_of_single_environments(mode, groups):
    arguments = {"group_size": 2, "group_reward": GroupReward("two", ("two",), two)}
    env = SearchQAVectorEnv(
        4, autoreset_mode=mode, stable_infos=True, **(arguments if groups else {}), **TOY
    )
    single = structure(SearchQAEnv(stable_infos=True, **TOY).reset(seed=0)[1])
    keys, ended = None, 0
    for infos in vector_calls(env):
        now = {key for key in infos if key not in FINAL}
        keys = keys or now
        assert now == keys
        for row in range(4):
            info = row_info(infos, row)
            final = info.pop("final_info", None)
            info.pop("final_obs", None)
            if final is not None:
                ended += 1
                assert set(single) <= set(final) <= {*single, "group"}
            for key in ("group", "complete_group", "group_reward", "group_reward_parts"):
                info.pop(key, None)
            if not info:  # not reset
                continue
            assert sorted(info) == sorted(single)
            for key, kind in single.items():
                if key not in ("well_formed", "valid"):
                    assert structure(info[key]) == kind, key
    assert ended or mode is not AutoresetMode.SAME_STEP


def test_stable_infos_keep_phases_strict():
    """An episode that a wrapper cut is not counted as one without a result."""
    env = StagedReward(gym.make(ID, stable_infos=True, max_episode_steps=2), after_episodes=None)
    env.reset(seed=0)
    env.step(1)
    with pytest.raises(ConfigurationError, match="a wrapper such as TimeLimit"):
        env.step(1)
    envs = VectorStagedReward(gym.make_vec(ID, num_envs=2, stable_infos=True), after_episodes=2)
    envs.reset(seed=0)
    *_, infos = envs.step([0, 0])
    assert infos["phase_switched"].tolist() == [False, True]


def test_check_env_of_all_structures_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID, **ALL).unwrapped)


@pytest.mark.parametrize("copy", [True, False])
def test_masks_in_observations_are_those_of_infos(copy):
    seen, told = (SearchQAEnv(action_mask=a, **TOY) for a in ("observation", True))
    rows = SearchQAVectorEnv(2, action_mask="observation", copy=copy, **TOY)
    for env in (seen, told, rows):
        env.reset(seed=0)
    assert isinstance(seen.observation_space, gym.spaces.Dict)
    assert "action_mask" not in told.observation_space.spaces
    for token in seen.tokenizer.encode("<q>key1 </q>"):
        observation, *_, ours = seen.step(token)
        *_, theirs = told.step(token)
        batch, *_, infos = rows.step([token, token])
        np.testing.assert_array_equal(observation["action_mask"], theirs["action_mask"])
        np.testing.assert_array_equal(batch["action_mask"][0], theirs["action_mask"])
        np.testing.assert_array_equal(batch["action_mask"], rows.action_masks())
        assert "action_mask" not in ours
        assert "action_mask" not in infos
        assert batch in rows.observation_space


def test_lengths_as_boxes():
    plain, boxed = SearchQAEnv(**TOY), SearchQAEnv(box_length=True, **TOY)
    rows = SearchQAVectorEnv(2, box_length=True, autoreset_mode="SameStep", **TOY)
    assert boxed.observation_space["length"] == gym.spaces.Box(0, 16, (1,), np.int64)
    assert rows.observation_space["length"].shape == (2, 1)
    length = plain.reset(seed=0)[0]["length"]
    assert boxed.reset(seed=0)[0]["length"].tolist() == [length]
    assert rows.reset(seed=0)[0]["length"][0].tolist() == [length]
    observations, *_, infos = rows.step([0, 5])
    assert infos["final_obs"][0]["length"].tolist() == [length + 1]
    assert infos["final_obs"][0] in rows.single_observation_space
    assert observations in rows.observation_space


def test_wrappers_read_lengths_of_either_shape():
    for box in (False, True):
        window = TokenWindow(gym.make(ID, box_length=box), 5, keep="last")
        windows = VectorTokenWindow(gym.make_vec(ID, num_envs=2, box_length=box), 5, keep="last")
        first, _ = window.reset(seed=0)
        np.testing.assert_array_equal(windows.reset(seed=0)[0][0], first)


def test_stable_baselines3_normalises_and_stacks():
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

    from search_env.agents.bridges.sb3_env import SearchQAVecEnv

    def rows():
        return SearchQAVecEnv(gym.make_vec(ID, num_envs=2, autoreset_mode="SameStep", **ALL))

    normal = VecNormalize(rows(), norm_obs_keys=["length"])
    stacked = VecFrameStack(rows(), n_stack=2)
    for env in (normal, stacked):
        env.reset()
        observations, _, dones, infos = env.step(np.array([0, 5]))
        assert dones.tolist() == [True, False]
    assert observations["length"].shape == (2, 2)
    assert infos[0]["stop_reason"] == "end_of_sequence"


def test_c9_record_video_of_a_vector_environment(tmp_path):
    pytest.importorskip("moviepy")
    env = gym.make_vec(ID, num_envs=2, render_mode="rgb_array")
    env = vector_wrappers.RecordVideo(
        env, str(tmp_path / "videos"), episode_trigger=lambda episode: True
    )
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([0, 5]))
    env.close()
    assert list((tmp_path / "videos").glob("*.mp4"))


@pytest.mark.parametrize("mode", AutoresetMode)
def test_c9_the_mode_is_an_attribute(mode):
    env = SearchQAVectorEnv(2, autoreset_mode=mode.value, **TOY)
    assert env.autoreset_mode is env.metadata["autoreset_mode"] is mode
    assert SearchQAVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("arguments", [{}, ALL], ids=["plain", "all"])
def test_c9_vector_wrappers_of_gymnasium(mode, arguments):
    env = gym.make_vec(ID, num_envs=2, autoreset_mode=mode, reward="f1", **arguments)
    env = vector_wrappers.RecordEpisodeStatistics(env)
    env = vector_wrappers.TransformReward(env, lambda rewards: rewards + 1)
    env = vector_wrappers.DictInfoToList(env)
    env.reset(seed=0)
    _, rewards, _, _, infos = env.step(np.array([0, 5]))
    assert rewards.tolist() == [1, 1]
    assert "episode" in infos[0]
    assert "episode" not in infos[1]
