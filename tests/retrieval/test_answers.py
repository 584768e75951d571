"""What a retriever answers is checked wherever it enters: each fault is its query's alone."""

from __future__ import annotations

import dataclasses
import json
import math

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env import SearchQAEnv, SearchQAVectorEnv
from search_env.core.dynamics import Dynamics
from search_env.errors import ConfigurationError, DataFormatError, InvalidRetrievalError
from search_env.protocols.registry import get_protocol
from search_env.recording.files import read_episodes
from search_env.recording.replay import replay_episode
from search_env.retrieval.base import FakeRetriever, retrieve, retrieve_each
from search_env.retrieval.cassette import Cassette
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Document, StopReason
from search_env.wrappers.record_episodes import RecordEpisodes

TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy"}
ULM = Document("1", "Ulm", "A city.")
BAD, GOOD = "key1 key1", "key2 key2"


class Odd:
    """Answers one query with something else than documents."""

    def __init__(self, answer):
        self.answer = answer

    def search(self, queries, k):
        return [self.answer if query == BAD else [ULM] for query in queries]


def with_field(field, value):
    return [ULM, dataclasses.replace(ULM, **{"id": "2", field: value})]


FIELDS = [
    *((field, value) for field in ("id", "title", "text") for value in (None, b"Ulm", 3, ["Ulm"])),
    *(("score", value) for value in (math.nan, math.inf, -math.inf, "1", None, True, 1j, [1.0])),
    *(("score", value) for value in (np.float32("nan"), np.bool_(True), np.ones(1), 10**400)),
]
SHAPES = [None, "Ulm", {}, {"1": ULM}, (ULM,), iter([ULM]), [None], ["Ulm"], [{"id": "1"}], [[ULM]]]
SHAPES += [ULM, [Document], 3, np.array([ULM], object), [ULM] * 4]
CASES = [*(with_field(*case) for case in FIELDS), *SHAPES]


def query_of(env, query):
    return env.tokenizer.encode(f"<q>{query} </q>")


@pytest.mark.parametrize("number", range(len(CASES)))
def test_b9_each_fault_is_an_error_of_its_query(number):
    answer = CASES[number]
    queries = [GOOD, BAD, "key3 key3"]
    first, error, last = retrieve_each(Odd(answer), queries, 3)
    assert first == last == [ULM]
    assert isinstance(error, InvalidRetrievalError)
    assert repr(BAD) in str(error)
    if number < len(FIELDS):
        field, value = FIELDS[number]
        assert f"documents[1].{field} from Odd.search" in str(error)
        assert type(value).__name__ in str(error)
    with pytest.raises(InvalidRetrievalError):
        retrieve(Odd(answer), queries, 3)


@pytest.mark.parametrize("number", [0, 1, 12, 14, len(FIELDS), len(CASES) - 1])
@pytest.mark.parametrize("background", [False, True])
def test_b9_other_rows_go_on(number, background):
    retriever = Odd(CASES[number])
    env = SearchQAVectorEnv(2, retriever=retriever, on_retrieval_error="truncate", **TOY)
    env.reset(seed=0)
    for line in np.array([query_of(env, BAD), query_of(env, GOOD)]).T:
        if background:
            env.send(line)
            result = env.recv(2)
        else:
            result = env.step(line)
    *_, truncated, infos = result
    assert truncated.tolist() == [True, False]
    assert infos["stop_reason"].tolist() == [StopReason.RETRIEVAL_ERROR, ""]
    assert repr(BAD) in infos["retrieval_error"][0]
    env.step(np.array([env.tokenizer.encode("key1")[0]] * 2))
    env.close()


@pytest.mark.parametrize("number", [0, 1, 12, len(FIELDS), len(CASES) - 1])
def test_b9_a_single_environment_records_the_episode(number, tmp_path):
    retriever = Odd(CASES[number])
    bare = SearchQAEnv(retriever=retriever, **TOY)
    bare.reset(seed=0)
    *first, last = query_of(bare, BAD)
    for token in first:
        bare.step(token)
    with pytest.raises(InvalidRetrievalError, match="key1 key1"):
        bare.step(last)
    env = gym.make("SearchQA-Toy-v0", on_retrieval_error="truncate")
    env.unwrapped.retriever = retriever
    env = RecordEpisodes(env, tmp_path / "episodes.jsonl")
    env.reset(seed=0)
    for token in query_of(env.unwrapped, BAD):
        *_, truncated, info = env.step(token)
    assert truncated
    assert not info["valid"]
    (episode,) = read_episodes(tmp_path / "episodes.jsonl")
    assert episode.transcript.stop_reason is StopReason.RETRIEVAL_ERROR
    replay_episode(episode)


@pytest.mark.parametrize("number", range(0, len(CASES) - 1, 5))
def test_b9_users_of_the_dynamics_are_told_before_anything_changes(number):
    dynamics = Dynamics(get_protocol("toy"), load_tokenizer("toy"))
    env = SearchQAEnv(**TOY)
    dynamics.begin(0, env.questions[0])
    for token in query_of(env, BAD):
        queries = dynamics.append(slice(None), np.array([token]))
    assert queries[0].text == BAD
    before = dynamics.length(0)
    if not isinstance(CASES[number], tuple):
        with pytest.raises(InvalidRetrievalError, match="key1 key1"):
            dynamics.insert_documents(0, CASES[number])
    assert dynamics.length(0) == before
    dynamics.insert_documents(0, (ULM,))
    assert dynamics.episodes[0].num_searches == 1


@pytest.mark.parametrize("number", range(len(CASES)))
def test_b9_a_cassette_records_nothing_that_it_cannot_read(number, tmp_path):
    path = tmp_path / "tape.jsonl"
    cassette = Cassette(path, Odd(CASES[number]))
    (good, error) = retrieve_each(cassette, [GOOD, BAD], 3)
    assert good == [ULM]
    assert isinstance(error, InvalidRetrievalError)
    again = Cassette(path)
    assert len(again) == 1
    assert again.search([GOOD], 3) == [[ULM]]


class Scoring:
    """Scores as numerical libraries have them."""

    name = "scoring"

    def __init__(self, score):
        self.score = score

    def search(self, queries, k):
        return [[Document("1", "Ulm", "A city.", self.score)] for _ in queries]


NUMBERS = [np.float32(0.5), np.float16(0.5), np.float64(0.5), np.longdouble(0.5)]


@pytest.mark.parametrize("score", [*NUMBERS, np.int64(2), 2], ids=repr)
def test_b9_scores_of_numpy_are_numbers(score, tmp_path):
    path = tmp_path / "tape.jsonl"
    first = Cassette(path, Scoring(score)).search(["q"], np.int64(3))
    assert first == Cassette(path).search(["q"], 3)
    assert type(first[0][0].score) in (int, float)
    assert first[0][0].score == score


def test_b9_lone_surrogates_survive(tmp_path):
    """JSON files may hold them, so passages may; they are text, not a fault."""
    odd = Document("\udc80", "\ud83d", "A \udcff city.")
    path = tmp_path / "tape.jsonl"
    cassette = Cassette(path, FakeRetriever({BAD: [odd]}))
    assert cassette.search([BAD], 3) == Cassette(path).search([BAD], 3) == [[odd]]
    room = {"top_k": 3, "max_tokens": 300, "max_policy_tokens": 100}
    env = gym.make("SearchQA-Toy-v0", retriever=f"cassette:{path}", tokenizer="byte", **room)
    env = RecordEpisodes(env, tmp_path / "episodes.jsonl")
    env.reset(seed=0)
    for token in query_of(env.unwrapped, BAD):
        *_, info = env.step(token)
    assert info["document_ids"] == ["\udc80"]
    env.step(max(env.unwrapped.tokenizer.eos_ids))
    (episode,) = read_episodes(tmp_path / "episodes.jsonl")
    replay_episode(episode)


@pytest.mark.parametrize(
    ("field", "value"),
    [("score", math.nan), ("score", math.inf), ("score", True), ("id", 1), ("text", None)],
)
def test_b9_a_cassette_names_what_it_cannot_read(tmp_path, field, value):
    path = tmp_path / "tape.jsonl"
    document = {"id": "1", "title": "", "text": "", "score": 0.0, field: value}
    row = {"backend": "b", "query": "q", "k": 3, "documents": [document]}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataFormatError, match=rf"line 1, field 'documents.0.{field}'"):
        Cassette(path)
    path.write_text("[" * 100_000 + "\n")
    with pytest.raises(DataFormatError, match="line 1"):
        Cassette(path)


@pytest.mark.parametrize("backend", [3, b"bm25", ["bm25"]])
def test_b9_backends_and_queries_of_a_cassette_are_strings(tmp_path, backend):
    with pytest.raises(ConfigurationError, match="backend"):
        Cassette(tmp_path / "tape.jsonl", FakeRetriever(), backend=backend)
    cassette = Cassette(tmp_path / "tape.jsonl", FakeRetriever())
    with pytest.raises(ConfigurationError, match="queries to be strings"):
        cassette.search([backend], 3)
    for k in (0, 2.5, None, True):
        with pytest.raises(ConfigurationError, match="Expected k"):
            cassette.search(["q"], k)
    assert not (tmp_path / "tape.jsonl").exists()


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)
DOCUMENTS = st.builds(Document, ANYTHING, ANYTHING, ANYTHING, ANYTHING)


@given(answer=st.lists(DOCUMENTS | ANYTHING, max_size=4) | ANYTHING)
def test_b9_any_answer_is_documents_or_an_error(answer):
    (documents,) = retrieve_each(Odd(answer), [BAD], 3)
    if isinstance(documents, InvalidRetrievalError):
        return
    assert documents == answer
    for document in documents:
        assert all(isinstance(t, str) for t in (document.id, document.title, document.text))
        assert math.isfinite(document.score)
