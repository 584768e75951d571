"""Recording and replaying."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import (
    CassetteMissError,
    ConfigurationError,
    DataFormatError,
    DataNotFoundError,
    InvalidRetrievalError,
    RetrievalError,
)
from search_env.retrieval import Cassette, FakeRetriever, digest
from search_env.types import Document

ULM = Document("1", "Ulm", "A city\non the Danube.", 1.5)
KOELN = Document("2", "Köln\ud800", "", 0.1)
ANSWERS = {"ulm": [ULM], "rhine": [KOELN, ULM]}


def record(path, *queries, k=2, answers=ANSWERS):
    inner = FakeRetriever(answers)
    return Cassette(path, inner).search(list(queries), k), inner


def test_recordings_are_replayed(tmp_path):
    path = tmp_path / "new" / "tape.jsonl"
    results, _ = record(path, "rhine", "ulm", "nothing")
    assert results == [[KOELN, ULM], [ULM], []]
    replay = Cassette(path)
    assert replay.search(["nothing", "rhine", "rhine"], 2) == [[], [KOELN, ULM], [KOELN, ULM]]
    assert len(replay) == 3
    assert digest(replay.search(["rhine"], 2)[0]) == digest([KOELN, ULM])
    assert len(path.read_text().splitlines()) == 3


def test_only_missing_queries_are_searched_and_once(tmp_path):
    path = tmp_path / "tape.jsonl"
    record(path, "ulm")
    _, inner = record(path, "ulm", "rhine", "rhine")
    assert inner.calls == [["rhine"]]
    _, inner = record(path, "ulm", "rhine")
    assert inner.calls == []


def test_the_key_is_query_k_and_backend(tmp_path):
    path = tmp_path / "tape.jsonl"
    record(path, "rhine", k=1)
    assert record(path, "rhine", k=2)[1].calls == [["rhine"]]
    assert record(path, "Rhine", k=1)[1].calls == [["Rhine"]]
    inner = FakeRetriever({"rhine": [ULM]})
    inner.name = "other"
    assert Cassette(path, inner).search(["rhine"], 1) == [[ULM]]
    with pytest.raises(ConfigurationError, match=r"\['FakeRetriever', 'other'\]"):
        Cassette(path)
    assert Cassette(path, backend="other").search(["rhine"], 1) == [[ULM]]
    assert Cassette(path, backend="FakeRetriever").search(["rhine"], 1) == [[KOELN]]


def test_the_first_of_two_recordings_counts(tmp_path):
    path = tmp_path / "tape.jsonl"
    record(path, "ulm")
    record(tmp_path / "second.jsonl", "ulm", answers={})
    with open(path, "ab") as file:
        file.write((tmp_path / "second.jsonl").read_bytes())
    assert Cassette(path).search(["ulm"], 2) == [[ULM]]


def test_returned_lists_are_copies():
    cassette = Cassette.from_recordings({"ulm": [ULM]}, k=2)
    cassette.search(["ulm"], 2)[0].clear()
    assert cassette.search(["ulm", "ulm"], 2) == [[ULM], [ULM]]


def test_a_miss_names_the_query_and_the_nearest(tmp_path):
    cassette = Cassette.from_recordings({"river of Ulm": [ULM]}, k=3)
    with pytest.raises(CassetteMissError, match=r"'rivers of Ulm' with k=3.*Did you mean 'river"):
        cassette.search(["river of Ulm", "rivers of Ulm"], 3)
    with pytest.raises(CassetteMissError, match=r"recorded with k=3"):
        cassette.search(["river of Ulm"], 5)
    with pytest.raises(DataNotFoundError, match="Record one first"):
        Cassette(tmp_path / "none.jsonl")


def test_failures_are_not_recorded(tmp_path):
    path = tmp_path / "tape.jsonl"
    with pytest.raises(RetrievalError, match="busy"):
        Cassette(path, FakeRetriever(error=RetrievalError("busy"))).search(["ulm"], 1)

    class Wrong:
        def search(self, queries, k):
            return None

    with pytest.raises(InvalidRetrievalError):
        Cassette(path, Wrong()).search(["ulm"], 1)
    assert not path.exists()


def test_a_last_line_truncated_anywhere_is_repaired(tmp_path):
    path = tmp_path / "tape.jsonl"
    record(path, "rhine", "ulm")
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for end in range(first, len(content) + 1):
        path.write_bytes(content[:end])
        complete = end >= len(content) - 1  # with or without its newline
        assert len(Cassette(path)) == (2 if complete else 1)
        _, inner = record(path, "ulm")
        assert inner.calls == ([] if complete else [["ulm"]])
        record(path, "new")
        assert [json.loads(line)["query"] for line in path.read_bytes().splitlines()] == [
            "rhine",
            "ulm",
            "new",
        ]


GOOD = {"backend": "b", "query": "q", "k": 1, "documents": []}
WHOLE = {"id": "1", "title": "t", "text": "x", "score": 1.0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"backend": ', r"line 2: expected a JSON object"),
        ("", r"line 2: expected a JSON object, got b''"),
        ("[]", r"line 2: expected an object with the fields backend, query.*got \[\]"),
        (json.dumps(GOOD | {"k": "1"}), r"line 2, field 'k': expected an integer, got '1'"),
        (
            json.dumps({"query": "q"}),
            r"line 2: expected an object with the fields backend.*got \{'query': 'q'\}",
        ),
        (
            json.dumps(GOOD | {"documents": ["x"]}),
            r"field 'documents.0': expected an object with the fields id",
        ),
        (
            json.dumps(GOOD | {"documents": [WHOLE, WHOLE | {"text": None}]}),
            r"field 'documents.1.text': expected a string, got None",
        ),
    ],
)
def test_a_corrupt_line_is_named(tmp_path, line, message):
    path = tmp_path / "tape.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n{json.dumps(GOOD)}\n")
    with pytest.raises(DataFormatError, match=message):
        Cassette(path)


def test_pickles(tmp_path):
    cassette = pickle.loads(pickle.dumps(Cassette.from_recordings({"ulm": [ULM]}, k=1)))
    assert cassette.search(["ulm"], 1) == [[ULM]]


TEXT = st.text(st.characters(exclude_categories=()))
SCORE = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(
    st.dictionaries(
        TEXT, st.lists(st.builds(Document, TEXT, TEXT, TEXT, SCORE), max_size=3), max_size=4
    )
)
def test_any_text_survives(tmp_path_factory, answers):
    path = tmp_path_factory.mktemp("cassette") / "tape.jsonl"
    queries = [*answers, "unknown"]
    results, _ = record(path, *queries, k=3, answers=answers)
    assert Cassette(path).search(queries, 3) == results
