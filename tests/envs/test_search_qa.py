"""SearchQAEnv: Gymnasium's contract, determinism, state, failures, arguments."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_match import check_environments_match

import search_env
from search_env.envs.registration import ENVIRONMENTS
from search_env.errors import (
    ConfigurationError,
    EpisodeOverError,
    InvalidActionError,
    InvalidRetrievalError,
    RetrievalError,
    RetrievalTimeoutError,
)
from search_env.retrieval.base import FakeRetriever
from search_env.types import Document, Source, StopReason, TagRole

GENERATED = ("SearchQA-v0", "SearchQA-Toy-v0")
PUBLISHED = ("bamboogle", "musique", "hotpotqa", "2wikimultihopqa")


@pytest.fixture(params=sorted(ENVIRONMENTS))
def env_id(request) -> str:
    """Each id; those on published data are skipped without it."""
    if request.param not in GENERATED:
        request.getfixturevalue("data_dir")
    return request.param


def small(env_id: str, monkeypatch, tmp_path_factory) -> dict:
    """Keyword arguments that spare the test the index of 81,405 passages."""
    if ENVIRONMENTS[env_id].get("dataset") not in PUBLISHED:
        return {}
    corpus = tmp_path_factory.getbasetemp() / "few.jsonl"
    rows = [{"id": str(i), "title": f"T{i}", "text": f"word{i} text"} for i in range(9)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"corpus": str(corpus)}


@pytest.fixture
def arguments(env_id, monkeypatch, tmp_path_factory) -> dict:
    return small(env_id, monkeypatch, tmp_path_factory)


def test_check_env_without_a_warning(env_id, arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, **arguments).unwrapped)


def test_stable_baselines3_check_env(env_id, arguments):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(gym.make(env_id, **arguments))


def test_fifty_steps_of_two_environments_agree(env_id, arguments):
    a, b = gym.make(env_id, **arguments), gym.make(env_id, **arguments)
    check_environments_match(a, b, num_steps=50, seed=7)


def test_spec_survives_json_and_a_fresh_process(env_id, arguments):
    spec = gym.make(env_id, **arguments).spec
    text = spec.to_json()
    assert EnvSpec.from_json(text) == spec
    a, b = gym.make(spec), gym.make(EnvSpec.from_json(text))
    (one, info_a), (two, info_b) = a.reset(seed=3), b.reset(seed=3)
    np.testing.assert_array_equal(one["tokens"], two["tokens"])
    assert info_a == info_b


def test_reachable_by_module_prefix_in_a_fresh_process():
    code = (
        "import gymnasium as gym, sys\n"
        "env = gym.make('search_env:SearchQA-Toy-v0')\n"
        "env.reset(seed=0)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_is_light():
    code = (
        "import sys, search_env\n"
        "heavy = {'torch', 'transformers', 'bm25s', 'PIL', 'rich', 'typer', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_arguments_are_json(env_id, arguments):
    env = gym.make(env_id, **arguments)
    json.dumps(env.spec.kwargs)


def written(env, text: str):
    """Step through a text; return the last step's result."""
    result = None
    for token in env.unwrapped.tokenizer.encode(text):
        result = env.step(token)
    return result


def gold_text(env) -> str:
    """Search the first hop, then answer with the gold answer."""
    question, protocol = env.unwrapped.transcript().question, env.unwrapped.protocol
    search, answer = protocol.pair(TagRole.TOOL), protocol.pair(TagRole.ANSWER)
    query = question.hops[0].query if question.hops else question.text
    return f"{search.open}{query}{search.close}{answer.open}{question.answers[0]}{answer.close}"


@pytest.mark.parametrize("env_id", GENERATED)
def test_an_episode_that_searches_and_answers(env_id):
    env = gym.make(env_id)
    observation, info = env.reset(seed=1)
    assert info["num_searches"] == 0
    assert observation["length"] == np.count_nonzero(observation["sources"])
    observation, reward, terminated, truncated, info = written(env, gold_text(env))
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert type(reward) is float
    assert (info["stop_reason"], info["num_searches"], info["valid"]) == ("answered", 1, True)
    assert info["f1"] == info["exact_match"] == info["cover_exact_match"] == 1.0
    assert Source.RETRIEVED in observation["sources"]
    json.dumps(info)


def test_the_first_search_of_the_world_finds_its_article():
    env = gym.make("SearchQA-v0")
    hits = 0
    for seed in range(20):
        env.reset(seed=seed)
        hop = env.unwrapped.transcript().question.hops[0]
        search = env.unwrapped.protocol.pair(TagRole.TOOL)
        *_, info = written(env, f"{search.open}{hop.query}{search.close}")
        hits += hop.document_id in info["document_ids"]
    assert hits >= 18


def toy(**arguments):
    return gym.make("SearchQA-Toy-v0", **arguments)


def test_questions_come_from_np_random_and_can_be_chosen():
    env = toy()
    drawn = [env.reset(seed=5)[1]["question_id"], *(env.reset()[1]["question_id"] for _ in "abc")]
    again = [env.reset(seed=5)[1]["question_id"], *(env.reset()[1]["question_id"] for _ in "abc")]
    assert drawn == again
    assert len(set(drawn)) > 1
    assert env.reset(options={"index": 7})[1]["question_id"] == "toy-train-07"
    assert env.reset(options={"question_id": "toy-train-33"})[1]["question_id"] == "toy-train-33"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": 64}, "from 0 to 63"),
        ({"index": -1}, "from 0 to 63"),
        ({"question_id": "toy-train-5"}, "Did you mean 'toy-train-5"),
        ({"question": "x"}, "Did you mean 'question_id'"),
    ],
)
def test_bad_reset_options(options, message):
    with pytest.raises(ConfigurationError, match=message):
        toy().reset(options=options)


def test_observations_are_fresh_and_new_tokens_are_at_the_end():
    env = toy()
    first, _ = env.reset(seed=0)
    kept = {key: np.copy(value) for key, value in first.items()}
    second, *_ = env.step(1)
    for key, value in kept.items():
        np.testing.assert_array_equal(first[key], value)
    assert second["tokens"][first["length"] : second["length"]].tolist() == [1]


def test_best_return_of_the_toy_needs_the_search():
    """Enumerate: with the search every question pays 1; without it the best guess pays 1/8."""
    env = toy(split="test")
    searched, guesses = [], []
    for index in range(64):
        env.reset(options={"index": index})
        searched.append(written(env, gold_text(env))[1])
        guesses.append(env.unwrapped.transcript().question.answers[0])
    assert np.mean(searched) == 1.0
    assert len(set(guesses)) == 8
    train = [q.answers[0] for q in toy(split="train").unwrapped.questions]
    assert np.mean([a == b for a, b in zip(train, guesses, strict=True)]) < 0.3


def test_steps_out_of_turn():
    env = search_env.SearchQAEnv(dataset="toy", protocol="toy", tokenizer="toy")
    with pytest.raises(EpisodeOverError, match=r"Call reset\(\)"):
        env.step(0)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    assert env.step(0)[2]  # end of sequence
    with pytest.raises(EpisodeOverError):
        env.step(1)


@pytest.mark.parametrize("action", [-1, 24, 1.5, "1", None, np.int64(99), [1]])
def test_actions_outside_the_vocabulary(action):
    env = toy().unwrapped
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="from 0 to 23"):
        env.step(action)
    env.step(np.int64(1))  # the episode is unharmed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "wrld"}, "Did you mean 'world'"),
        ({"split": "dev"}, "train"),
        ({"protocol": "search-r2"}, "Did you mean 'search-r1'"),
        ({"prompt": "chatlm"}, "Did you mean 'chatml'"),
        ({"tokenizer": "bite"}, "Did you mean 'byte'"),
        ({"retriever": "bm52"}, "Did you mean 'bm25'"),
        ({"top_k": 0}, "at least 1"),
        ({"max_tokens": 2.5}, "integer"),
        ({"max_searches": -1}, "at least 0"),
        ({"on_retrieval_error": "raised"}, "Did you mean 'raise'"),
        ({"render_mode": "ascii"}, "Did you mean 'ansi'"),
        ({"vocab_size": 3}, "at least 24"),
        ({"dataset_options": {"articles": 10}}, "of 'toy' among"),
        ({"max_tokens": 2}, "Raise max_tokens"),
        ({"retriever": "bm25"}, "Pass corpus="),
    ],
)
def test_bad_values_say_what_to_do(arguments, message):
    with pytest.raises((ConfigurationError, search_env.SearchEnvError), match=message):
        search_env.SearchQAEnv(
            **{"dataset": "toy", "protocol": "toy", "tokenizer": "toy", **arguments}
        ).reset(seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"article": 5}, "Did you mean 'articles'"), ({"articles": 3}, "100")],
)
def test_bad_world_options(options, message):
    with pytest.raises(ConfigurationError, match=message):
        search_env.SearchQAEnv(dataset_options=options)


class Broken:
    """A retriever that does not keep its contract."""

    def __init__(self, result) -> None:
        self.result = result

    def search(self, queries, k):
        return self.result


def failing(retriever, **arguments):
    env = search_env.SearchQAEnv(
        dataset="toy", protocol="toy", tokenizer="toy", retriever=retriever, **arguments
    )
    env.reset(seed=0)
    return env


RUBBISH = [None, [], [["text"]], [[{"id": "1"}]], "abc", [[Document("1", "", "x")] * 2]]


@pytest.mark.parametrize("result", RUBBISH, ids=repr)
def test_a_retriever_that_returns_rubbish(result):
    with pytest.raises(InvalidRetrievalError, match="Expected"):
        written(failing(Broken(result)), "<q>key1 key2 </q>")


def test_a_retriever_that_raises():
    env = failing(FakeRetriever(error=ValueError("no route")))
    with pytest.raises(RetrievalError, match="no route") as caught:
        written(env, "<q>key1 key2 </q>")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(EpisodeOverError):
        env.step(1)
    env.reset()
    env.step(1)


def test_an_interrupted_search_ends_the_episode():
    class Interrupted:
        def search(self, queries, k):
            raise KeyboardInterrupt

    env = failing(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        written(env, "<q>key1 key2 </q>")
    with pytest.raises(EpisodeOverError):
        env.step(1)
    env.reset()
    env.step(1)


def test_worlds_are_shared_by_their_questions_options():
    two, four = (
        search_env.SearchQAEnv(dataset_options={"hops": [n], "questions": 20}) for n in (2, 4)
    )
    assert two.retriever is four.retriever
    assert {q.kind[-4:] for q in two.questions} == {"2hop"}


def test_a_retriever_that_hangs():
    import threading

    from search_env.retrieval.retrying import RetryingRetriever

    class Hanging:
        def search(self, queries, k):
            threading.Event().wait()

    env = failing(RetryingRetriever(Hanging(), timeout=0.05, retries=0))
    with pytest.raises(RetrievalTimeoutError):
        written(env, "<q>key1 key2 </q>")


def test_a_failed_search_can_truncate():
    env = failing(FakeRetriever(error=OSError("down")), on_retrieval_error="truncate")
    observation, reward, terminated, truncated, info = written(env, "<q>key1 key2 </q>")
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info["stop_reason"], info["valid"]) == ("retrieval_error", False)
    assert "down" in info["retrieval_error"]
    assert Source.RETRIEVED not in observation["sources"]
    assert env.transcript().stop_reason is StopReason.RETRIEVAL_ERROR


def random_walk(env, rng, steps: int) -> list:
    """Random steps with resets; everything that was seen."""
    seen = []
    for token in rng.integers(0, 24, size=steps):
        observation, *rest = env.step(int(token))
        seen.append((observation["tokens"].tolist(), observation["sources"].tolist(), rest))
        if rest[1] or rest[2]:
            seen.append(env.reset()[1])
    return seen


@pytest.mark.parametrize("how", ["set_state", "clone", "pickle"])
def test_saved_states_go_on_identically(how):
    env = toy().unwrapped
    for seed in range(30):
        env.reset(seed=seed)
        random_walk(env, np.random.default_rng(seed), seed)
        if how == "clone":
            other = env.clone()
        elif how == "pickle":
            other = pickle.loads(pickle.dumps(env))
        else:
            other, state = toy().unwrapped, pickle.loads(pickle.dumps(env.get_state()))
            other.reset(seed=99)
            other.set_state(state)
        before = pickle.dumps(env.get_state())
        futures = [random_walk(e, np.random.default_rng(1), 40) for e in (other, env)]
        assert futures[0] == futures[1]
        env.set_state(pickle.loads(before))
        assert random_walk(env, np.random.default_rng(1), 40) == futures[0]


def test_pickle_of_a_made_environment_keeps_its_spec():
    env = toy()
    copy = pickle.loads(pickle.dumps(env))
    assert copy.spec == env.spec
    copy.reset(seed=0)


def test_registered_retrievers_are_named():
    search_env.register_retriever("nothing", FakeRetriever)
    env = toy(retriever="nothing")
    env.reset(seed=0)
    assert written(env, "<q>key1 key2 </q>")[-1]["document_ids"] == []
    assert json.loads(env.spec.to_json())["kwargs"]["retriever"] == "nothing"


def test_registered_protocols_are_named():
    import dataclasses

    protocol = dataclasses.replace(search_env.get_protocol("toy"), name="toy-two", top_k=2)
    search_env.register_protocol(protocol, replace=True)
    assert toy(protocol="toy-two").unwrapped.protocol.top_k == 2
    with pytest.raises(ConfigurationError, match="replace=True"):
        search_env.register_protocol(protocol)


def test_chat_prompt_uses_the_models_markers(data_dir):
    env = gym.make(
        "SearchQA-v0", tokenizer=str(data_dir / "tokenizers" / "qwen2.json.xz"), prompt="chatml"
    )
    observation, _ = env.reset(seed=0)
    ids = observation["tokens"][: observation["length"]].tolist()
    assert (ids.count(151644), ids.count(151645)) == (3, 2)  # im_start, im_end
    text = env.unwrapped.tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("<|im_start|>assistant\n<think>")


def test_vocab_size_pads_the_action_space():
    env = toy(vocab_size=32)
    assert env.action_space.n == 32
    env.reset(seed=0)
    observation, _, terminated, _, _ = env.step(31)
    assert not terminated
    assert env.observation_space.contains(observation)


def test_missing_data_says_what_to_put_where(monkeypatch, tmp_path):
    monkeypatch.delenv("SEARCH_ENV_DATA", raising=False)
    monkeypatch.setenv("SEARCH_ENV_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = "import gymnasium as gym, search_env; gym.make('SearchQA-Musique-v0')"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert run.returncode == 1
    assert "DataNotFoundError" in run.stderr
    assert "SEARCH_ENV_DATA" in run.stderr
    assert "musique" in run.stderr


@pytest.mark.parametrize("mode", ["ansi", "rgb_array", "human"])
def test_render_modes(mode, capsys):
    env = gym.make("SearchQA-Toy-v0", render_mode=mode)
    env.reset(seed=0)
    written(env, gold_text(env))
    if mode == "human":
        assert "<q>" in capsys.readouterr().out
        return
    frame = env.render()
    if mode == "ansi":
        assert "answered" in frame
    else:
        assert (frame.dtype, frame.ndim, frame.shape[2]) == (np.uint8, 3, 3)


def test_render_without_a_mode_warns():
    env = toy().unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode="):
        assert env.render() is None


def test_record_video(tmp_path):
    from gymnasium.wrappers import RecordVideo

    env = gym.make("SearchQA-Toy-v0", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # moviepy's and imageio's own
        env = RecordVideo(env, str(tmp_path), disable_logger=True)
        env.reset(seed=0)
        written(env, gold_text(env))
        env.close()
    (video,) = Path(tmp_path).glob("*.mp4")
    assert video.stat().st_size > 5_000
