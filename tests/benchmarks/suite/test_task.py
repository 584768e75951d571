"""What an algorithm gets: budgets that hold, returns that are the experiment's, unseen worlds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from search_env.benchmarks.suite.experiments import EXPERIMENTS
from search_env.benchmarks.suite.task import BudgetSpentError, open_task
from search_env.tokens.tokenizer import load_tokenizer

SHORT = replace(EXPERIMENTS["search"], budget=100)
ENCODE = load_tokenizer("toy").encode


def write(envs, texts):
    """Play an episode in each row of a vector environment."""
    ids = [ENCODE(text) for text in texts]
    for place in range(max(map(len, ids))):
        rows = [row for row, own in enumerate(ids) if place < len(own)]
        envs.send(np.array([ids[row][place] for row in rows]), rows)
        envs.recv(min_ready=len(rows))


def test_tokens_count_in_every_environment_and_the_budget_is_exact():
    with open_task(SHORT, 0) as task:
        envs = task.make_vec(4)
        envs.reset(seed=0)
        write(envs, ["<a>value1 </a>"] * 4)
        assert task.left == 88
        env = task.make_env()
        env.reset(seed=0)
        env.step(1)
        assert task.left == 87
        envs.reset(seed=0)
        envs.send(np.array([7, 8, 9]), [0, 1, 3])
        envs.recv(min_ready=3)
        assert task.left == 84
        rest = task.make_vec(85)
        rest.reset(seed=0)
        with pytest.raises(BudgetSpentError, match=r"at most 100 policy tokens.*task\.left is 0"):
            rest.step(np.zeros(85, np.int64))
        assert task.left == 84  # what was refused costs nothing


def test_episodes_are_noted_with_the_experiments_return_whatever_is_trained_with():
    with open_task(SHORT, 0) as task:
        envs = task.make_vec(8)
        envs.set_reward("r1-searcher-stage1")
        envs.reset(seed=0, options={"index": list(range(8))})
        write(envs, ["<a>value1 </a>"] * 8)
        right = [case.answer == "value1" for case in task.world(0).cases[:8]]
        assert [episode.value for episode in task.episodes] == [float(one) for one in right]
        assert {episode.tokens for episode in task.episodes} == {24}
        env = task.make_env()
        env.reset(seed=0, options={"index": 0})
        for action in ENCODE(f"<a>{task.world(0).cases[0].answer} </a>"):
            env.step(int(action))
        assert task.episodes[-1] == (27, 1.0)


def test_a_policy_is_measured_on_a_world_of_its_own():
    with open_task(SHORT, 0) as task:
        assert task.world(0) != task.world(1)
        know = {case.text: case.answer for case in task.world(1).cases}
        symbols = load_tokenizer("toy")

        def act(observation):
            actions = []
            for tokens, length in zip(observation["tokens"], observation["length"], strict=True):
                question = symbols.decode(tokens[:4]).strip()
                script = ENCODE(f"<a>{know[question]} </a>")
                actions.append(script[int(length) - 4])
            return np.array(actions)

        returns = task.measure(act)
        assert returns.shape == (128,)
        assert returns.mean() == 1.0
        assert task.left == 100


def test_tasks_of_a_seed_are_the_same():
    tasks = []
    for _ in range(2):
        with open_task(EXPERIMENTS["search"], 5) as task:
            shown = task.demonstrations
            tasks.append((task.world(0), task.world(1), shown.tokens.tobytes()))
    assert tasks[0] == tasks[1]
