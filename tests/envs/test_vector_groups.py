"""Group rewards in the vector environment: told in the step that completes a group."""

from __future__ import annotations

import json
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import search_env  # noqa: F401 - registers the ids
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import ConfigurationError, RetrievalError, RewardError
from search_env.retrieval.base import FakeRetriever
from search_env.rewards import GroupReward, Reward
from search_env.testing import check_vector_env
from tests.rewards.groups import FEWEST, SCRIPTS, SPREAD, TOY, ids_of

MODES = list(AutoresetMode)
KEYS = {"group", "complete_group", "group_reward", "group_reward_parts"}


class Writers:
    """A policy for each row that writes scripts of its own choice, one an episode."""

    def __init__(self, env, seed=0):
        self.env, self.random = env, np.random.default_rng(seed)
        self.left = [[] for _ in range(env.num_envs)]

    def next(self, row):
        if not self.left[row]:
            script = SCRIPTS[self.random.integers(len(SCRIPTS))]
            self.left[row] = ids_of(script, self.env.transcript(row), self.env.tokenizer)
        return self.left[row].pop(0)

    def actions(self, rows, ended=()):
        for row in ended:
            self.left[row] = []
        return np.array([self.next(row) for row in rows])


def told(infos, row, key):
    return infos[key][row] if infos.get(f"_{key}", np.zeros(row + 1, bool))[row] else None


class Ledger:
    """What must be told, from nothing but the episodes that ended in each row, in order."""

    def __init__(self, env, reward, size):
        self.env, self.reward, self.size = env, reward, size
        self.ended = [[] for _ in range(env.num_envs)]
        self.complete = 0

    def check(self, infos):
        final = infos.get("final_info", infos)
        blocks = self.env.num_envs // self.size
        expected = {}
        for row, transcript in self.env.transcripts.items():
            self.ended[row].append(transcript)
            block, number = row // self.size, len(self.ended[row]) - 1
            assert told(final, row, "group") == number * blocks + block
            rows = range(block * self.size, (block + 1) * self.size)
            if all(len(self.ended[r]) > number for r in rows):
                self.complete += 1
                scores = self.reward([self.ended[r][number] for r in rows])
                expected.update(
                    {r: (number * blocks + block, s) for r, s in zip(rows, scores, strict=True)}
                )
        for row in range(self.env.num_envs):
            assert (told(final, row, "group") is None) == (row not in self.env.transcripts)
            number, score = expected.get(row, (None, None))
            assert told(infos, row, "complete_group") == number
            assert told(infos, row, "group_reward") == (None if score is None else score.total)
            parts = infos.get("group_reward_parts", {})
            for part in self.reward.parts:
                worth = None if score is None else score.parts.get(part)
                assert told(parts, row, part) == worth


@pytest.mark.parametrize("reward", [FEWEST, SPREAD])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_rows_that_run_ahead_are_told_when_the_last_member_ends(mode, reward):
    env = SearchQAVectorEnv(
        6, group_size=3, group_reward=reward, autoreset_mode=mode, **TOY, reward="f1"
    )
    plain = SearchQAVectorEnv(6, group_size=3, autoreset_mode=mode, **TOY, reward="f1")
    env.reset(seed=5)
    plain.reset(seed=5)
    writers, ledger, ended = Writers(env), Ledger(env, reward, 3), ()
    for _ in range(300):
        idle = ended if mode is AutoresetMode.NEXT_STEP else ()
        actions = np.array([0 if r in idle else writers.next(r) for r in range(6)])
        _, rewards, terminated, truncated, infos = env.step(actions)
        _, alone, *_, without = plain.step(actions)
        np.testing.assert_array_equal(rewards, alone)  # what steps pay is as without groups
        assert {k.lstrip("_") for k in infos} - KEYS == {k.lstrip("_") for k in without} - KEYS
        ledger.check(infos)
        ended = np.flatnonzero(terminated | truncated).tolist()
        for row in ended:
            writers.left[row] = []
    assert ledger.complete > 20
    lengths = [len(row) for row in ledger.ended]
    assert max(lengths) > min(lengths)
    state = env.get_state().rows.groups
    assert len(state.groups) <= 2 * (max(lengths) - min(lengths) + 1)  # what is over is let go


@pytest.mark.parametrize("min_ready", [1, 3])
def test_send_and_recv_tell_it_too(min_ready):
    env = SearchQAVectorEnv(4, group_size=2, group_reward=FEWEST, autoreset_mode="SameStep", **TOY)
    env.reset(seed=1)
    writers, ledger = Writers(env, 3), Ledger(env, FEWEST, 2)
    rows = np.arange(4)
    for _ in range(150):
        env.send(writers.actions(rows), rows)
        _, _, terminated, truncated, infos = env.recv(min_ready)
        ledger.check(infos)
        for row in np.flatnonzero(terminated | truncated):
            writers.left[row] = []
        rows = np.flatnonzero(infos["ready"])
    env.close()
    assert ledger.complete > 5


def write(env, *scripts):
    """Let each row write a script, None for none; return the infos of all steps."""
    left = [
        [] if script is None else ids_of(script, env.transcript(row), env.tokenizer)
        for row, script in enumerate(scripts)
    ]
    ended, infos = np.array([script is None for script in scripts]), []
    while not ended.all():
        rows = np.flatnonzero(~ended)
        env.send(np.array([left[row].pop(0) for row in rows]), rows)
        _, _, terminated, truncated, info = env.recv(len(rows))
        infos.append(info)
        ended |= terminated | truncated
    return infos


def resets(env, *rows, **options):
    mask = np.zeros(env.num_envs, bool)
    mask[list(rows)] = True
    env.reset(options={"reset_mask": mask, **options})


def disabled(count, size, **arguments):
    return SearchQAVectorEnv(
        count,
        group_size=size,
        autoreset_mode="Disabled",
        **{"group_reward": FEWEST, **TOY} | arguments,
    )


def test_groups_that_are_reset_together_and_one_by_one():
    env = disabled(4, 2)
    env.reset(seed=0)
    *before, last = write(env, SCRIPTS[1], SCRIPTS[0], SCRIPTS[2], SCRIPTS[4])
    assert told(last, 2, "complete_group") == 1
    assert [told(last, row, "group_reward") for row in range(4)] == [None, None, 1.0, 0.0]
    (first,) = [infos for infos in before if told(infos, 0, "complete_group") == 0]
    assert [told(first, row, "group_reward") for row in range(2)] == [0.0, 1.0]
    resets(env, 0, 1)
    infos = write(env, SCRIPTS[3], None, None, None)
    assert told(infos[-1], 0, "group") == 2
    resets(env, 0)  # ahead of its neighbour
    infos = write(env, None, SCRIPTS[4], None, None)
    assert [told(infos[-1], row, "group_reward") for row in range(4)] == [1.0, 0.0, None, None]
    assert told(infos[-1], 0, "complete_group") == 2


def test_a_member_that_is_reset_before_its_end_takes_its_group_along():
    env = disabled(2, 2)
    env.reset(seed=0)
    resets(env, 0)
    infos = write(env, SCRIPTS[0], SCRIPTS[0])
    assert [told(infos[-1], row, "group") for row in (0, 1)] == [1, 0]
    assert not any("complete_group" in info for info in infos)
    resets(env, 1)
    infos = write(env, None, SCRIPTS[1])
    assert told(infos[-1], 0, "complete_group") == 1
    assert [told(infos[-1], row, "group_reward") for row in (0, 1)] == [1.0, 0.0]
    assert not env.get_state().rows.groups.groups


def test_a_group_of_one_is_told_at_its_end():
    env = disabled(2, 1)
    env.reset(seed=0)
    infos = write(env, SCRIPTS[3], SCRIPTS[4])
    assert [told(infos[-1], row, "group_reward") for row in (0, 1)] == [1.0, None]
    assert told(infos[-1], 0, "complete_group") == told(infos[-1], 0, "group") == 0


def test_rows_of_a_group_must_be_asked_the_same():
    env = disabled(4, 2)
    with pytest.raises(ConfigurationError, match="rows 2 to 3, one group"):
        env.reset(seed=0, options={"index": [5, 5, 6, 7]})
    env.reset(options={"index": [5, 5, 6, 6]})
    write(env, *SCRIPTS[:4])


def test_a_member_whose_retrieval_failed_is_left_out():
    retriever = FakeRetriever(error=RetrievalError("down"))
    env = disabled(3, 3, retriever=retriever, on_retrieval_error="truncate")
    env.reset(seed=0)
    infos = write(env, SCRIPTS[0], SCRIPTS[1], SCRIPTS[4])
    (last,) = [info for info in infos if "complete_group" in info]
    assert [told(last, row, "group_reward") for row in range(3)] == [1.0, 0.0, 0.0]
    parts = last["group_reward_parts"]
    assert parts["_frugal"].tolist() == [True, False, True]


def test_a_group_reward_that_fails_breaks_the_step_off():
    env = disabled(2, 2, group_reward=GroupReward("mine", ("x",), lambda group: 1 / 0))
    env.reset(seed=0)
    with pytest.raises(RewardError, match="group reward 'mine' to score 2 episodes"):
        write(env, SCRIPTS[0], SCRIPTS[0])
    env.reset(seed=0)
    write(env, SCRIPTS[0], None)


@pytest.mark.parametrize("mode", MODES)
def test_the_conformance_kit_finds_nothing(mode):
    """With groups of one, for rows of larger ones do not have seeds of their own."""

    def make(num_envs, autoreset_mode):
        return SearchQAVectorEnv(
            num_envs, group_reward=FEWEST, autoreset_mode=autoreset_mode, **TOY
        )

    check_vector_env(make, modes=[mode], num_envs=4, steps=200)


@pytest.mark.parametrize("cut", [3, 10, 40])
def test_a_restored_environment_tells_what_the_saved_one_would_have(cut):
    def make():
        return SearchQAVectorEnv(
            4, group_size=2, group_reward=FEWEST, autoreset_mode="SameStep", **TOY
        )

    env, other = make(), make()
    env.reset(seed=0)
    writers = Writers(env)
    for step in range(100):
        if step == cut:
            other.set_state(pickle.loads(pickle.dumps(env.get_state())))
        actions = writers.actions(range(4))
        _, _, terminated, truncated, infos = env.step(actions)
        for row in np.flatnonzero(terminated | truncated):
            writers.left[row] = []
        if step >= cut:
            again = other.step(actions)[-1]
            assert again.keys() == infos.keys()
            for key in KEYS & infos.keys():
                assert str(again[key]) == str(infos[key])
    with pytest.raises(ConfigurationError, match="group_reward"):
        SearchQAVectorEnv(4, group_size=2, **TOY).set_state(env.get_state())


def test_names_and_refusals():
    env = gym.make_vec(
        "SearchQA-Toy-v0", num_envs=4, group_size=2, group_reward="test-fewest-searches"
    )
    assert json.loads(env.spec.to_json())["kwargs"]["group_reward"] == "test-fewest-searches"
    with pytest.raises(ConfigurationError, match="Expected group_reward among"):
        gym.make_vec("SearchQA-Toy-v0", num_envs=4, group_reward="nobody")
    taken = Reward("taken", ("frugal",), len)
    with pytest.raises(ConfigurationError, match=r"got \['frugal'\] in both"):
        SearchQAVectorEnv(2, group_reward=FEWEST, reward=taken, **TOY)
    with pytest.raises(ConfigurationError, match=r"got \['frugal'\] in both"):
        env.unwrapped.set_reward(taken)
    assert env.unwrapped.reward_name != "taken"
    with pytest.raises(TypeError, match="unexpected keyword argument 'group_reward'"):
        gym.make("SearchQA-Toy-v0", group_reward="test-fewest-searches")


def test_rows_of_a_group_that_happen_to_end_together_keep_their_own_questions():
    """The usual loop resets what has ended: sometimes a whole group, whose rows are not level."""
    env = disabled(2, 2)
    env.reset(seed=0)
    write(env, SCRIPTS[0], SCRIPTS[3])  # the first row ends long before the second
    resets(env, 0)
    asked = [env.transcript(row).question.id for row in range(2)]
    assert asked[0] != asked[1]
    write(env, SCRIPTS[0], None)
    resets(env, 0, 1)  # row 0 begins its third episode, row 1 its second
    assert env.transcript(1).question.id == asked[0]
    env.reset()  # as the loop above, in all rows
    infos = env.reset(seed=3)[1]
    assert infos["question_id"][0] == infos["question_id"][1]
