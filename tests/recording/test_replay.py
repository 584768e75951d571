"""Replay passes for unchanged episodes and names every difference; rescoring of files."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import search_env
from search_env.agents.baselines.scripted import make_baseline
from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import (
    ConfigurationError,
    DataNotFoundError,
    EpisodeFileError,
    ReplayMismatchError,
    RewardError,
)
from search_env.evaluation.evaluate import evaluate
from search_env.recording.files import EpisodeWriter, read_episodes
from search_env.recording.replay import Replayed, Rescored, replay_episode, replay_episodes, rescore
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.cassette import Cassette
from search_env.rewards import F1, Reward, Score, register_reward
from search_env.rewards.answer import EXACT_MATCH
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Document
from search_env.worlds.toy import toy_questions
from search_env.wrappers.record_episodes import RecordEpisodes

QUERY = "<|begin_of_query|>{}<|end_of_query|>"
ANSWER = "<answer>{}</answer>"
PASSAGES = [
    {"id": "u", "title": "Ulm", "text": "A city on the Danube."},
    {"id": "p", "title": "Paris", "text": "A city on the Seine."},
]
QUESTION = {
    "id": "q",
    "dataset": "mine",
    "split": "dev",
    "question": "Which river?",
    "answers": ["Danube"],
    "supporting": ["u"],
    "kind": "",
    "source": "",
}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def record(path, env, *texts, **reset):
    """Play one episode per text and record them; return the recorded episodes."""
    bare = env.unwrapped
    writer = EpisodeWriter(path, bare)
    for text in texts:
        env.reset(**reset)
        for token in bare.tokenizer.encode(text).tolist():
            if bare.transcript().stop_reason is None:
                env.step(token)
        writer.write(bare.transcript(), seed=reset.get("seed"))
    return list(read_episodes(path))


def record_agent(name, path, env, count):
    """Record episodes of a scripted agent."""
    evaluate(RecordEpisodes(env, path), make_baseline(name, 0), range(count))


@pytest.fixture
def env_arguments(tmp_path):
    """Arguments of an environment over the test's own files."""
    return {
        "dataset": write_rows(tmp_path / "questions.jsonl", [QUESTION]),
        "corpus": write_rows(tmp_path / "passages.jsonl", PASSAGES),
        "max_policy_tokens": 300,
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "episodes.jsonl"


def in_a_fresh_process(path, *options):
    code = "from search_env.cli.main import main; main()"
    command = [sys.executable, "-c", code, "replay", str(path), *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_toy_world_and_cassette_in_a_fresh_process(path, tmp_path):
    toy = gym.make("SearchQA-Toy-v0", split="test")
    world = gym.make("SearchQA-v0", split="validation", protocol="search-r1")
    cassette = Cassette(tmp_path / "cassette.jsonl", world.unwrapped.retriever)
    question = world.unwrapped.questions[0]
    cassette.search([question.text], k=3)
    recorded = gym.make(
        "SearchQA-v0",
        split="validation",
        protocol="search-r1",
        tokenizer="byte",
        retriever=f"cassette:{tmp_path / 'cassette.jsonl'}",
    )
    record_agent("oracle", path, toy, 5)
    record_agent("oracle", path, world, 5)
    record_agent("random", path, world, 1)
    record_agent("question-as-query", path, recorded, 1)
    episodes = list(read_episodes(path))
    observations = sum(1 + len(episode.actions) for episode in episodes)
    searches = sum(len(episode.transcript.searches) for episode in episodes)
    assert searches > 10
    result = in_a_fresh_process(path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        f"12 episodes, {observations:,} observations and {searches:,} searches compared: "
        "all as recorded.\n"
    )
    replayed = list(replay_episodes(episodes))
    assert sum(r.observations for r in replayed) == observations
    assert sum(r.searches for r in replayed) == searches


def test_a_changed_corpus_is_reported_in_a_fresh_process(path, env_arguments, tmp_path):
    text = QUERY.format("Ulm") + ANSWER.format("Danube")
    record(path, SearchQAEnv(**env_arguments), "x " + text, text)
    assert in_a_fresh_process(path).returncode == 0
    write_rows(tmp_path / "passages.jsonl", [{**PASSAGES[0], "text": "A town."}, PASSAGES[1]])
    result = in_a_fresh_process(path)
    assert result.returncode == 2
    assert "all as recorded" not in result.stdout
    (line,) = result.stderr.splitlines()
    step = len(load_tokenizer("world-1k").encode("x " + QUERY.format("Ulm")))
    for part in (
        f"Error: {path}, line 1, question 'q', step {step}: expected",
        "what query 'Ulm' retrieved to have digest ",
        "documents ['u'] differ",
        "Likely cause: the corpus, the index or the retriever changed.",
    ):
        assert part in line


def test_another_order_of_documents_is_reported(path, env_arguments, tmp_path):
    (episode,) = record(
        path, SearchQAEnv(**env_arguments), QUERY.format("city") + ANSWER.format("x")
    )
    write_rows(tmp_path / "passages.jsonl", PASSAGES[::-1])
    with pytest.raises(
        ReplayMismatchError, match=r"'city' to find documents \['u', 'p'\], got \['p', 'u'\]"
    ):
        replay_episode(episode)


def test_a_missing_corpus_is_missing_data_not_a_difference(path, env_arguments, tmp_path):
    (episode,) = record(path, SearchQAEnv(**env_arguments), ANSWER.format("x"))
    (tmp_path / "passages.jsonl").unlink()
    with pytest.raises((DataNotFoundError, FileNotFoundError), match=r"passages.jsonl"):
        replay_episode(episode)


@pytest.mark.parametrize(
    ("field", "value", "parts"),
    [
        ("question", "Which sea?", [r"question's text to be 'Which river\?', got 'Which sea\?'"]),
        ("answers", ["Seine"], [r"question's answers to be \('Danube',\), got \('Seine',\)"]),
        ("id", "r", ["expected question 'q', got", "Ids are in"]),
    ],
)
def test_changed_questions_are_reported(path, env_arguments, tmp_path, field, value, parts):
    (episode,) = record(path, SearchQAEnv(**env_arguments), ANSWER.format("x"))
    write_rows(tmp_path / "questions.jsonl", [{**QUESTION, field: value}])
    for part in (*parts, "reset: expected", "Likely cause: the dataset changed"):
        with pytest.raises(ReplayMismatchError, match=part):
            replay_episode(episode)


@pytest.fixture
def tokenizer_file(tmp_path):
    from importlib.resources import files

    return shutil.copy(files("search_env.tokens") / "world_1k.json", tmp_path / "t.json")


def change(path, edit):
    path = Path(path)
    spec = json.loads(path.read_text("utf-8"))
    edit(spec)
    path.write_text(json.dumps(spec), "utf-8")


def test_a_changed_vocabulary_is_reported(path, env_arguments, tokenizer_file):
    env = SearchQAEnv(**env_arguments, tokenizer=str(tokenizer_file))
    (episode,) = record(path, env, ANSWER.format("x"))

    def edit(spec):
        vocabulary = spec["model"]["vocab"]
        a, b = list(vocabulary)[-2:]
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]

    change(tokenizer_file, edit)
    with pytest.raises(ReplayMismatchError, match=r"reset: expected tokenizer '.*t.json' with"):
        replay_episode(episode)


def test_changed_merges_are_noticed_in_the_prompt(path, env_arguments, tokenizer_file):
    env = SearchQAEnv(**env_arguments, tokenizer=str(tokenizer_file))
    (episode,) = record(path, env, ANSWER.format("x"))
    change(tokenizer_file, lambda spec: spec["model"]["merges"].clear())
    with pytest.raises(
        ReplayMismatchError,
        match=r"reset: expected an observation of \d+ tokens with token 0 = \d+ \(prompt\), got "
        r"\d+ tokens with token 0 = .* the tokenizer's rules changed",
    ):
        replay_episode(episode)


def test_another_version_is_reported_as_the_likely_cause(path, env_arguments):
    (episode,) = record(path, SearchQAEnv(**env_arguments), ANSWER.format("x"))
    episode = dataclasses.replace(
        episode,
        arguments={**episode.arguments, "protocol": "search-r1"},
        versions={**episode.versions, "search-env": "0.0.1"},
    )
    with pytest.raises(ReplayMismatchError, match=r"recorded with search-env 0\.0\.1 \(here "):
        replay_episode(episode)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"max_policy_tokens": 5},
            r"step 5: expected the episode to continue, got an end \(max_poli",
        ),
        ({"max_searches": 0}, r"expected a search for 'Ulm', got no search"),
        ({"top_k": 1}, r"'city' to find documents \['u', 'p'\], got \['u'\]"),
    ],
)
def test_other_limits_are_noticed(path, env_arguments, arguments, message):
    text = QUERY.format("Ulm") + QUERY.format("city") + "x" * 99 + ANSWER.format("x")
    (episode,) = record(path, SearchQAEnv(**env_arguments), text)
    with pytest.raises(ReplayMismatchError, match=message):
        replay_episode(episode, SearchQAEnv(**{**env_arguments, **arguments}))


def test_a_context_that_is_too_small_is_noticed(path, env_arguments):
    (episode,) = record(path, SearchQAEnv(**env_arguments), "x" + ANSWER.format("x"))
    length = len(episode.transcript.tokens)
    with pytest.raises(
        ReplayMismatchError, match=f"of at least {length} tokens, got one of {length - 1}. .*max_to"
    ):
        replay_episode(episode, SearchQAEnv(**env_arguments, max_tokens=length - 1))
    replay_episode(episode, SearchQAEnv(**env_arguments, max_tokens=length + 1))


def test_an_episode_that_does_not_end_is_noticed(path, env_arguments):
    (episode,) = record(path, SearchQAEnv(**env_arguments), "x" * 400)
    assert episode.transcript.stop_reason == "max_policy_tokens"
    with pytest.raises(ReplayMismatchError, match=r"to end \(max_policy_tokens\), got none"):
        replay_episode(episode, SearchQAEnv(**{**env_arguments, "max_policy_tokens": 400}))


def test_a_missing_cassette_recording_is_reported(path, env_arguments, tmp_path):
    cassette = tmp_path / "cassette.jsonl"
    Cassette(cassette, FakeRetriever({"Ulm": [Document("u", "Ulm", "x")]})).search(["Ulm"], k=5)
    arguments = {**env_arguments, "retriever": f"cassette:{cassette}", "top_k": 5}
    (episode,) = record(path, SearchQAEnv(**arguments), QUERY.format("Ulm") + ANSWER.format("x"))
    assert replay_episode(episode).searches == 1
    cassette.write_text(cassette.read_text().replace('"query": "Ulm"', '"query": "Bonn"'))
    with pytest.raises(
        ReplayMismatchError, match=r"a search for 'Ulm', got a failed one \(Expected a recording"
    ):
        replay_episode(episode)


def test_a_changed_reward_of_the_same_name_is_noticed(path, env_arguments):
    twice = Reward("test-replay", ("f1",), (2 * F1).function)
    register_reward(F1.renamed("test-replay"), replace=True)
    env = SearchQAEnv(**env_arguments, reward="test-replay")
    (episode,) = record(path, env, ANSWER.format("Danube"))
    assert replay_episode(episode) == Replayed(1 + len(episode.actions), 0)
    register_reward(twice, replace=True)
    with pytest.raises(ReplayMismatchError, match=r"to pay 1.0 \{'f1': 1.0\}, got 2.0"):
        replay_episode(episode)


def test_the_reward_in_force_is_replayed_not_that_of_the_arguments(path, env_arguments):
    env = SearchQAEnv(**env_arguments)
    env.set_reward(EXACT_MATCH)
    (episode,) = record(path, env, ANSWER.format("Danube"))
    replay_episode(episode)
    other = gym.wrappers.TimeLimit(SearchQAEnv(**env_arguments, reward="cover-exact-match"), 3)
    retriever = other.unwrapped.retriever
    replay_episode(episode, other)  # the bare environment is what is stepped
    assert other.unwrapped.reward.name == "cover-exact-match"
    assert other.unwrapped.retriever is retriever


def test_failed_retrieval_fails_again_in_replay(path, env_arguments):
    """The recorded failure counts, whatever the retriever would return now."""
    documents = {"Ulm": [Document("u", "Ulm", "x")]}

    class Flaky(FakeRetriever):
        def search(self, queries, k):
            self.error = OSError("down") if self.calls else None
            return super().search(queries, k)

    search_env.register_retriever("flaky", lambda: Flaky(documents))
    env = SearchQAEnv(**env_arguments, retriever="flaky", on_retrieval_error="truncate")
    (episode,) = record(path, env, QUERY.format("Ulm") + "x" + QUERY.format("Bonn"))
    assert not episode.valid
    search_env.register_retriever("flaky", lambda: Flaky(documents))
    fresh = SearchQAEnv(**env_arguments, retriever="flaky")
    search_env.register_retriever("flaky", lambda: FakeRetriever(documents))
    replayed = replay_episode(episode)
    assert replayed == Replayed(1 + len(episode.actions), 1)
    assert not fresh.retriever.calls


def test_two_texts_of_one_document_in_an_episode(path, env_arguments):
    """Search services return another passage of a page for another query."""
    passages = {"a": [Document("page", "P", "one")], "b": [Document("page", "P", "two")]}
    search_env.register_retriever("pages", lambda: FakeRetriever(passages))
    env = SearchQAEnv(**env_arguments, retriever="pages")
    text = QUERY.format("a") + QUERY.format("b") + ANSWER.format("x")
    (episode,) = record(path, env, text)
    assert replay_episode(episode).searches == 2
    passages["a"] = [Document("page", "P", "three")]
    with pytest.raises(ReplayMismatchError, match="retrieved"):
        replay_episode(
            episode,
            SearchQAEnv(**env_arguments | {"corpus": None}, retriever=FakeRetriever(passages)),
        )
    passages["a"], passages["b"] = [Document("page", "P", "one")], [Document("page", "P", "2")]
    with pytest.raises(ReplayMismatchError, match="query 'b' retrieved to have digest"):
        replay_episode(
            episode,
            SearchQAEnv(**env_arguments | {"corpus": None}, retriever=FakeRetriever(passages)),
        )


def test_text_that_was_cut_off_in_the_context_is_compared_too(path, env_arguments):
    documents = {"a": [Document("1", "", "x" * 9000)]}
    search_env.register_retriever("long", lambda: FakeRetriever(documents))
    env_arguments |= {"tokenizer": "byte", "max_tokens": 2048}
    (episode,) = record(path, SearchQAEnv(**env_arguments, retriever="long"), QUERY.format("a"))
    assert episode.transcript.stop_reason == "max_tokens"
    assert replay_episode(episode).searches == 1
    documents["a"] = [Document("1", "", "x" * 8999 + "y")]
    with pytest.raises(ReplayMismatchError, match="query 'a' retrieved to have digest"):
        replay_episode(
            episode,
            SearchQAEnv(**env_arguments | {"corpus": None}, retriever=FakeRetriever(documents)),
        )


class Tampering(SearchQAEnv):
    """Changes one thing of one observation; ``tamper`` is (step, key, position, change)."""

    tamper: tuple = (-1, "", 0, 0)

    def reset(self, **arguments):
        self.steps = 0
        return super().reset(**arguments)

    def _observation(self):
        observation = super()._observation()
        step, key, position, change = self.tamper
        if self.steps == step:
            if key == "length":
                observation[key] += change
            else:
                observation[key][position] += change
        self.steps += 1
        return observation


@pytest.fixture(scope="module")
def tampered(tmp_path_factory):
    text = "<q>key1 key2 </q><a>value1 </a>"
    toy = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy", "max_tokens": 24}
    path = tmp_path_factory.mktemp("tampered") / "e.jsonl"
    (episode,) = record(path, SearchQAEnv(**toy), text, seed=0)
    return episode, Tampering(**toy)


@given(data=st.data())
def test_any_change_of_any_observation_is_noticed(tampered, data):
    episode, env = tampered
    step = data.draw(st.integers(0, len(episode.actions)))
    key = data.draw(st.sampled_from(["tokens", "sources", "length"]))
    env.tamper = (step, key, data.draw(st.integers(0, 23)), data.draw(st.sampled_from([-1, 1])))
    where = f"step {step}" if step else "reset"
    with pytest.raises(ReplayMismatchError, match=f", {where}: expected an observation"):
        replay_episode(episode, env)
    env.tamper = (-1, "", 0, 0)
    assert replay_episode(episode, env).observations == 1 + len(episode.actions)


def test_unknown_ids_and_other_environments(path, env_arguments, tampered):
    episode, _ = tampered
    with pytest.raises(ConfigurationError, match=r"registered id, got 'Nope-v0'.*--import MODULE"):
        replay_episode(dataclasses.replace(episode, env_id="Nope-v0"))
    with pytest.raises(ConfigurationError, match="got CartPoleEnv"):
        replay_episode(episode, gym.make("CartPole-v1"))
    with pytest.raises(ConfigurationError, match="Did you mean 'f1'"):
        replay_episode(dataclasses.replace(episode, reward="f11"))


def test_one_environment_for_all_episodes_of_the_same_arguments(path, monkeypatch):
    record_agent("oracle", path, gym.make("SearchQA-Toy-v0"), 3)
    record_agent("oracle", path, gym.make("SearchQA-Toy-v0", split="test"), 3)
    made = []
    make = gym.make
    monkeypatch.setattr(gym, "make", lambda *a, **k: made.append(a) or make(*a, **k))
    assert len(list(replay_episodes(read_episodes(path)))) == 6
    assert len(made) == 2


@pytest.fixture
def scored(path):
    """Answers right, half right, none, and a failed retrieval."""
    env = SearchQAEnv(dataset="toy", tokenizer="byte", max_policy_tokens=300)
    gold = toy_questions("train")[0].answers[0]
    texts = [ANSWER.format(gold), ANSWER.format(f"{gold} x"), "x" * 300]
    record(path, env, *texts, options={"index": 0})
    search_env.register_retriever("down", lambda: FakeRetriever(error=OSError("down")))
    env = SearchQAEnv(
        dataset="toy", tokenizer="byte", retriever="down", on_retrieval_error="truncate"
    )
    record(path, env, QUERY.format("x"), options={"index": 0})
    return path


def test_rescoring_by_hand_computed_numbers(scored):
    # token F1 of "gold x" against "gold": precision 1/2, recall 1
    assert rescore(scored, "f1").scores == (
        Score(1.0, {"f1": 1.0}),
        Score(2 / 3, {"f1": 2 / 3}),
        Score(0.0, {"f1": 0.0}),
        None,
    )
    both = rescore(scored, F1 + 0.5 * EXACT_MATCH)
    assert (both.reward, both.parts) == ("f1 + 0.5*exact-match", ("f1", "exact_match"))
    assert (len(both.valid), both.invalid) == (3, 1)
    total, parts = both.mean()
    assert math.isclose(total, (1.5 + 2 / 3) / 3)
    assert math.isclose(parts["f1"], 5 / 9)
    assert math.isclose(parts["exact_match"], 0.5 / 3)


def test_a_mean_over_nothing_is_no_number():
    total, parts = Rescored("f1", ("f1",), (None,)).mean()
    assert math.isnan(total)
    assert math.isnan(parts["f1"])


def test_errors_of_rescoring(scored):
    with pytest.raises(ConfigurationError, match="Did you mean 'f1'"):
        rescore(scored, "f11")
    with pytest.raises(RewardError, match="'broken' to score the episode of question 'toy-train"):
        rescore(scored, Reward("broken", ("x",), lambda transcript: {"x": 1 / 0}))
    with pytest.raises(RewardError, match="finite number"):
        rescore(scored, Reward("nan", ("x",), lambda transcript: {"x": math.nan}))
    scored.write_bytes(scored.read_bytes()[:-50])
    with pytest.raises(EpisodeFileError, match="line 4"):
        rescore(scored, "f1")
    assert len(rescore(scored, "f1", torn_tail="skip").scores) == 3


def test_rescoring_executes_nothing(scored, monkeypatch):
    monkeypatch.setattr(SearchQAEnv, "step", None)
    monkeypatch.setattr(gym, "make", None)
    assert len(rescore(scored, "exact-match").valid) == 3
    np.testing.assert_allclose(rescore(scored, "exact-match").mean().total, 1 / 3)
