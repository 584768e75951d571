"""A generous guard on the speed of a step, and the parts of the speed benchmark that can be wrong.

The limits are several times what an idle machine shows: they catch work that grows with the
episode or with the vocabulary, not percents. A busy machine gets several attempts.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from search_env.benchmarks.reports.measurement_page import table
from search_env.benchmarks.speed import retrieval, step, vector
from search_env.benchmarks.speed.measure import (
    Vocabulary,
    env_arguments,
    plain_actions,
    position_times,
    step_all,
)
from search_env.benchmarks.speed.peers import (
    Recorded,
    VectorReplay,
    check,
    load_episodes,
    schedule,
    write_questions,
)
from search_env.benchmarks.speed.step import make_env, step_times
from search_env.benchmarks.speed.vector import play, slow_env
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.tokens.tokenizer import load_tokenizer

STEP_US = 40.0  # about 5 on an idle machine
POSITION_RATIO = 1.5  # about 1.0
TOKEN_US = 2.0  # about 0.1 with 64 episodes side by side
SLOW_GAIN = 2.0  # about 7 with a retriever of 50 ms
ATTEMPTS = 3
BYTES = Vocabulary("byte", "byte")


@pytest.fixture(scope="module")
def env():
    return make_env(BYTES)


@pytest.fixture(scope="module")
def rows():
    return SearchQAVectorEnv(64, copy=False, **env_arguments(BYTES))


def least(measure):
    """The least of several attempts: what else runs only ever adds."""
    return min(measure() for _ in range(ATTEMPTS))


def test_a_step_is_quick(env):
    actions = plain_actions(env.unwrapped.tokenizer, 2000)
    assert least(lambda: np.median(step_times(env, actions)) / 1e3) < STEP_US


@pytest.mark.parametrize("side_by_side", [None, 64])
def test_a_step_costs_the_same_at_any_position(env, rows, side_by_side):
    played = rows if side_by_side else env.unwrapped
    actions = plain_actions(played.tokenizer, 4000, side_by_side)

    def ratio():
        times = position_times(played, actions, near=100, far=3900, pairs=40)
        return np.median(times[:, 1] / times[:, 0])

    assert least(ratio) < POSITION_RATIO


def test_rows_of_the_vector_environment_share_the_cost(rows):
    lines = plain_actions(rows.tokenizer, 100, 64)
    assert least(lambda: step_all(rows, lines) / 64e3) < TOKEN_US


def test_rows_that_wait_let_the_others_move():
    arguments = env_arguments(BYTES, 2048)

    def gain():
        env = slow_env(**arguments)
        flowing = play(env, 0.5, think=0.0, min_ready=1)
        env.close()
        return flowing / play(slow_env(**arguments), 0.5, think=0.0, min_ready=None)

    assert max(gain() for _ in range(ATTEMPTS)) > SLOW_GAIN


def test_timed_steps_only_write_a_token(env):
    actions = plain_actions(env.unwrapped.tokenizer, 500)
    times = step_times(env, actions)
    transcript = env.unwrapped.transcript()
    assert times.shape == (500,)
    assert (times > 0).all()
    assert transcript.events == ()
    assert transcript.num_policy_tokens == 500


def test_positions_are_reached(env):
    raw = env.unwrapped
    times = position_times(raw, plain_actions(raw.tokenizer, 4096), near=100, far=4000, pairs=2)
    assert times.shape == (2, 2)
    assert raw.transcript().num_policy_tokens + 14 in {100 + 40, 4000 + 40}  # a prompt of 14 bytes


def test_free_rows_begin_the_next_episode_at_once():
    actions, begins = schedule([[1, 2, 3], [4], [5, 6, 7]], rows=2)
    assert [line.tolist() for line in actions] == [[1, 5], [2, 6], [3, 7], [4, 1]]
    resets = {step: (o["reset_mask"].tolist(), o["index"].tolist()) for step, o in begins.items()}
    # The last row has nothing left to do: it plays an episode that is not counted.
    assert resets == {0: ([True, True], [0, 2]), 3: ([True, True], [1, 0])}


def test_table():
    assert table(["a", "b"], [["c", "1"]]) == "| a | b |\n|---|---:|\n| c | 1 |"


@pytest.mark.parametrize("warm", [False, True])
def test_replays_do_all_the_work(data_dir, tmp_path, warm):
    path = str(data_dir / "tokenizers" / "qwen2.json.xz")
    episodes = load_episodes(data_dir, load_tokenizer(path))[:5]
    questions = write_questions(episodes, tmp_path / "questions.jsonl")
    replay = VectorReplay(
        episodes, Recorded(episodes), questions=questions, tokenizer=path, rows=2, warm=warm
    )
    done = replay.run()
    check(done, episodes)
    assert done.begin > 0
    assert done.steps > 0
    done.searches -= 1
    with pytest.raises(RuntimeError, match="Expected"):
        check(done, episodes)


@pytest.mark.parametrize(
    ("module", "arguments", "expected"),
    [
        (step, ["--repeats", "1"], "through `gym.make`"),
        (vector, ["--repeats", "1", "--seconds", "0.1"], "lock-step, tokens/s"),
        (retrieval, ["300"], "## 300 passages"),
    ],
    ids=["step", "vector", "retrieval"],
)
def test_measurements_as_scripts(tmp_path, monkeypatch, capsys, module, arguments, expected):
    """With next to no work; a page with its command is written and printed."""
    monkeypatch.delenv("SEARCH_ENV_DATA", raising=False)
    monkeypatch.setattr(vector, "TARGETS", {2: ""})
    monkeypatch.setattr(retrieval, "NUM_WORDS", 10_000)
    monkeypatch.setattr(retrieval, "NUM_QUERIES", 20)
    monkeypatch.setattr(sys, "argv", ["x", *arguments, "--output", str(tmp_path / "page.md")])
    module.main()
    page = (tmp_path / "page.md").read_text("utf-8")
    assert capsys.readouterr().out == page
    assert f"python -m {module.__name__}" in page
    assert expected in page
