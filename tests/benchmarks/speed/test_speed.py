"""A guard on the work of a step, and the parts of the speed benchmark that can be wrong.

Work is counted, in calls and in bytes, so that a busy machine shows what an idle one does. The
guard catches work that grows with the episode or with the rows, not percents.
"""

from __future__ import annotations

import sys
from argparse import Namespace

import pytest

from search_env.benchmarks.reports.measurement_page import table
from search_env.benchmarks.speed import retrieval, step, vector
from search_env.benchmarks.speed.measure import (
    Vocabulary,
    env_arguments,
    plain_actions,
    position_times,
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
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.tokens.tokenizer import load_tokenizer
from tests.work import count_calls, peak_bytes

STEP_CALLS = 30  # 24 through `gym.make`, counting included
ROWS_CALLS = 32  # 26, whatever the number of rows
BYTES = Vocabulary("byte", "byte")


@pytest.fixture(scope="module")
def env():
    return make_env(BYTES)


@pytest.fixture(scope="module")
def rows():
    return SearchQAVectorEnv(64, copy=False, **env_arguments(BYTES))


def work_at(env, actions, positions):
    """Return calls and peak bytes of the steps at each position and the one after it."""
    env.reset(seed=0)
    counts = {}
    for place, action in enumerate(actions):
        if place in positions:
            counts[place] = [count_calls(lambda: env.step(action))]  # noqa: B023
        elif place - 1 in positions:
            counts[place - 1].append(peak_bytes(lambda: env.step(action)))  # noqa: B023
        else:
            env.step(action)
    return [counts[place] for place in positions]


def test_a_step_is_a_few_calls(env):
    actions = plain_actions(env.unwrapped.tokenizer, 200)
    ((calls, _),) = work_at(env, actions, [100])
    assert calls <= STEP_CALLS


@pytest.mark.parametrize("side_by_side", [None, 64])
def test_a_step_costs_the_same_at_any_position(env, rows, side_by_side):
    stepped = rows if side_by_side else env.unwrapped
    actions = plain_actions(stepped.tokenizer, 4000, side_by_side)
    (near_calls, near_bytes), (far_calls, far_bytes) = work_at(stepped, actions, [100, 3900])
    assert far_calls == near_calls
    assert far_bytes <= near_bytes + 1000


@pytest.mark.parametrize("num_envs", [2, 64, 256])
def test_rows_of_the_vector_environment_share_the_calls(num_envs):
    rows = SearchQAVectorEnv(num_envs, copy=False, **env_arguments(BYTES))
    ((calls, _),) = work_at(rows, plain_actions(rows.tokenizer, 200, num_envs), [100])
    assert calls <= ROWS_CALLS


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
    assert done.nanoseconds > 0
    with pytest.raises(RuntimeError, match="Expected"):
        check(done._replace(searches=done.searches - 1), episodes)


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
    assert f"* Command: `python -m {module.__name__} {' '.join(arguments)}`" in page
    assert expected in page


def test_rollouts_and_generate_do_the_same_work():
    pytest.importorskip("torch")
    from search_env.benchmarks.speed.rollout import play_in_turn

    args = Namespace(rows=2, questions=1, repeats=1, max_tokens=4096, group=2)
    seconds, episodes, policy_tokens = play_in_turn("fp32", args)  # raises where episodes differ
    assert seconds.shape == (1, 2)
    assert len(episodes) == 2
    assert 0 < policy_tokens < sum(map(len, episodes))


def test_revision_and_rollouts_are_timed_in_turn(tmp_path):
    pytest.importorskip("torch")
    from search_env.agents.models import save_model, tiny_config, untrained
    from search_env.benchmarks.speed.revision import TIMES, play_in_turn

    model = save_model(untrained(tiny_config()), tmp_path / "model")
    args = Namespace(model=str(model), dtype="fp32", rows=4, questions=1, repeats=1)
    args.max_tokens = 1400
    tokens, seconds, times = play_in_turn(args)
    assert tokens.shape == seconds.shape == (1, 2)
    assert (tokens > 0).all()
    assert (seconds > 0).all()
    assert set(times[0]) == set(times[1]) == set(TIMES)
