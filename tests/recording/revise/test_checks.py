"""What is refused before anything is sampled, by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import ConfigurationError, ProtocolError, ReplayMismatchError
from search_env.protocols.registry import get_protocol, register_protocol
from search_env.recording.files import EpisodeWriter, read_episodes
from search_env.recording.record import RecordedRevision
from search_env.recording.replay import recorded_envs
from search_env.recording.revise.checks import check_episodes
from search_env.recording.revise.settings import RevisionSettings
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.registry import register_retriever
from search_env.types import Document
from tests.recording.revise.episodes import TOY, write

SETTINGS = RevisionSettings()


def right(env, index=0):
    question = env.questions[index]
    return write(f"<q>{question.hops[0].query} </q><a>{question.answers[0]} </a>", index, env)


def recorded(path, episodes=2, **arguments):
    env = SearchQAEnv(**{**TOY, **arguments})
    writer = EpisodeWriter(path, env)
    for index in range(episodes):
        writer.write(right(env, index))
    return env, writer


def check(path, **options):
    return check_episodes(read_episodes(path), SETTINGS, **options)


def test_right_episodes_of_one_environment_pass(tmp_path):
    recorded(tmp_path / "a.jsonl")
    recorded(tmp_path / "a.jsonl", reward="exact-match", on_retrieval_error="truncate")
    assert len(check(tmp_path / "a.jsonl")) == 4


def test_wrong_episodes_are_refused_or_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    env, writer = recorded(path)
    value = "value1" if env.questions[3].answers[0] != "value1" else "value2"
    writer.write(write(f"<a>{value} </a>", 3, env))
    with pytest.raises(ConfigurationError, match=r"line 3, question 'toy-train-03'.*exact_match 0"):
        check(path)
    assert [e.transcript.question.id for e in check(path, wrong="skip")] == [
        "toy-train-00",
        "toy-train-01",
    ]
    with pytest.raises(ConfigurationError, match="wrong among"):
        check(path, wrong="keep")


def test_nothing_right_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="got none"):
        check_episodes([], SETTINGS)
    env = SearchQAEnv(**TOY)
    EpisodeWriter(tmp_path / "a.jsonl", env).write(write("</q><a>value1 </a>", 0, env))
    with pytest.raises(ConfigurationError, match="got wrong ones alone"):
        check(tmp_path / "a.jsonl", wrong="skip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, "argument split 'test'|argument split None, got 'test'"),
        ({"top_k": 2}, "argument top_k None, got 2"),
        ({"vocab_size": 40}, "tokenizer"),
    ],
)
def test_episodes_of_two_environments_are_refused(tmp_path, changes, message):
    path = tmp_path / "a.jsonl"
    recorded(path)
    recorded(path, **changes)
    with pytest.raises(
        ConfigurationError, match=rf"line 3: expected an episode of the same.*{message}"
    ):
        check(path)


def test_another_protocol_is_refused(tmp_path):
    register_protocol(replace(get_protocol("toy"), name="toy-revised"), replace=True)
    path = tmp_path / "a.jsonl"
    recorded(path)
    recorded(path, protocol="toy-revised")
    with pytest.raises(ConfigurationError, match="with protocol 'toy', got 'toy-revised'"):
        check(path)


def test_a_protocol_that_nobody_registered_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    recorded(path)
    (episode,) = list(read_episodes(path))[:1]
    unknown = replace(
        episode, transcript=replace(episode.transcript, protocol="nobodys", markup=None)
    )
    with pytest.raises(ProtocolError, match="nobodys"):
        check_episodes([unknown], SETTINGS)


def test_a_corpus_that_has_changed_is_refused(tmp_path):
    queries = [question.hops[0].query for question in SearchQAEnv(**TOY).questions]

    def serve(text):
        documents = {query: [Document("d", "", text)] for query in queries}
        register_retriever("changing", lambda: FakeRetriever(documents), replace=True)

    serve("value1")
    path = tmp_path / "a.jsonl"
    recorded(path, retriever="changing")
    assert len(check(path)) == 2
    serve("value2")
    with pytest.raises(
        ReplayMismatchError, match=r"line 1, question 'toy-train-00'.*\['d'\] differ"
    ):
        check(path)


REVISION = RecordedRevision(3, 2, 1, 5, 3, 40, 20, ("skip",), {"skip taken": 1}, True, "tiny")


def test_what_was_made_of_an_episode_is_recorded(tmp_path):
    path = tmp_path / "a.jsonl"
    env = SearchQAEnv(**TOY)
    writer = EpisodeWriter(path, env)
    writer.write(right(env), revision=REVISION)
    writer.write(right(env))
    first, second = read_episodes(path)
    assert first.revision == REVISION
    assert second.revision is None
    assert first.transcript.tokens.tolist() == second.transcript.tokens.tolist()


def test_recorded_arguments_make_rows(tmp_path):
    recorded(tmp_path / "a.jsonl")
    episode = next(iter(read_episodes(tmp_path / "a.jsonl")))
    envs = recorded_envs(episode, 3, reward="exact-match")
    assert (envs.num_envs, envs.reward_name) == (3, "exact-match")
    assert envs.protocol.max_tokens == TOY["max_tokens"]
    assert envs.metadata["autoreset_mode"].value == "Disabled"
    with pytest.raises(ConfigurationError, match="arguments of this version"):
        recorded_envs(replace(episode, arguments={**episode.arguments, "other": 1}), 3)
    with pytest.raises(ConfigurationError, match="expected a registered id, got 'No-v0'"):
        recorded_envs(replace(episode, env_id="No-v0"), 3)
    made = recorded_envs(replace(episode, env_id="SearchQA-Toy-v0"), 2)
    assert made.num_envs == 2
