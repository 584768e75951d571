"""Retrievers by name: plain names, schemes, replacing, unknown names, caching."""

from __future__ import annotations

import pytest

import search_env
from search_env.envs.loading import load_retriever
from search_env.errors import CassetteMissError, ConfigurationError
from search_env.registry import Registry
from search_env.retrieval import registry as module
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.cassette import Cassette
from search_env.retrieval.registry import (
    CorpusChoice,
    get_retriever,
    register_corpus_retriever,
    register_retriever,
    register_retriever_scheme,
)
from search_env.types import Document

CHOICE = CorpusChoice("toy")


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    entries = Registry("retriever", "", module._RETRIEVERS)
    monkeypatch.setattr(module, "_RETRIEVERS", entries)


class Rest(FakeRetriever):
    """Knows what it was made of."""

    def __init__(self, rest: str) -> None:
        super().__init__()
        self.rest = rest


def load(name, dataset="toy"):
    return load_retriever(name, dataset=dataset, split=None, options=None, corpus=None)


def test_a_plain_name_is_built_once():
    register_retriever("pages", FakeRetriever)
    first = load("pages")
    register_retriever("other", FakeRetriever)
    assert load("pages") is first is not load("other")


def test_a_plain_name_is_replaced_unless_that_is_refused():
    register_retriever("pages", FakeRetriever)
    first = load("pages")
    with pytest.raises(ConfigurationError, match="new retriever name, got 'pages', which is reg"):
        register_retriever("pages", FakeRetriever, replace=False)
    assert load("pages") is first
    register_retriever("pages", FakeRetriever)
    assert load("pages") is not first


def test_a_plain_name_may_hold_a_colon():
    register_retriever_scheme("pages", Rest)
    register_retriever("pages:mine", FakeRetriever)
    assert type(load("pages:mine")) is FakeRetriever
    assert load("pages:yours").rest == "yours"


def test_a_scheme_passes_on_what_follows_its_colon():
    register_retriever_scheme("web", Rest)
    assert load("web:http://localhost:8000/search").rest == "http://localhost:8000/search"
    assert load("web:a") is load("web:a") is not load("web:b")


def test_a_scheme_is_replaced_only_if_asked():
    register_retriever_scheme("web", Rest)
    first = load("web:a")
    with pytest.raises(ConfigurationError, match="new retriever name, got 'web:', which is reg"):
        register_retriever_scheme("web", Rest)
    assert load("web:a") is first
    register_retriever_scheme("web", Rest, replace=True)
    assert load("web:a") is not first


@pytest.mark.parametrize("scheme", ["", "a:b"])
def test_a_scheme_has_no_colon(scheme):
    with pytest.raises(ConfigurationError, match="scheme without a colon"):
        register_retriever_scheme(scheme, Rest)


def test_a_scheme_wants_the_rest():
    with pytest.raises(ConfigurationError, match="text after the colon of retriever 'cassette:'"):
        load("cassette:")


def test_a_scheme_builds_anew_what_changed_on_disk(tmp_path, monkeypatch):
    register_retriever_scheme("pages", Rest)
    (tmp_path / "index").mkdir()
    file = tmp_path / "index" / "a.txt"
    file.write_text("one")
    name = f"pages:{tmp_path / 'index'}"
    first = load(name)
    assert load(name) is first
    file.write_text("two")
    assert load(name) is not first
    monkeypatch.chdir(tmp_path)  # a relative path is another file in another folder
    here = load("pages:index")
    monkeypatch.chdir(tmp_path / "index")
    assert load("pages:index") is not here


def test_a_cassette_is_read_again_when_it_has_changed(tmp_path):
    path = tmp_path / "cassette.jsonl"
    documents = {"Ulm": [Document("1", "Ulm", "")], "Bonn": [Document("2", "Bonn", "")]}
    Cassette(path, FakeRetriever(documents)).search(["Ulm"], 1)
    first = load(f"cassette:{path}")
    assert load(f"cassette:{path}") is first
    with pytest.raises(CassetteMissError):
        first.search(["Bonn"], 1)
    Cassette(path, FakeRetriever(documents)).search(["Bonn"], 1)
    assert load(f"cassette:{path}").search(["Bonn"], 1) == [documents["Bonn"]]


def test_a_corpus_retriever_gets_the_choice():
    choices = []
    register_corpus_retriever("mine", lambda choice: choices.append(choice) or FakeRetriever())
    load("mine")
    get_retriever("mine", CorpusChoice("world", "test", {"seed": 1}, "corpus.jsonl"))
    assert choices == [CHOICE, CorpusChoice("world", "test", {"seed": 1}, "corpus.jsonl")]
    with pytest.raises(ConfigurationError, match="is registered"):
        register_corpus_retriever("bm25", lambda choice: FakeRetriever())


@pytest.mark.parametrize(
    ("name", "hint"),
    [("bm52", "'bm52'. Did you mean 'bm25'"), ("casette:a.jsonl", "Did you mean 'cassette:'")],
)
def test_an_unknown_name_lists_what_there_is(name, hint):
    with pytest.raises(
        ConfigurationError, match=r"among .*'cassette:', .*'bm25', 'lookup'"
    ) as error:
        load(name)
    assert hint in str(error.value)


def test_lookup_is_for_datasets_of_exact_queries():
    assert load("lookup") is not None
    with pytest.raises(ConfigurationError, match="for retriever='lookup', got 'world'"):
        load("lookup", dataset="world")


def test_an_environment_takes_a_scheme():
    register_retriever_scheme("web", Rest)
    env = search_env.SearchQAEnv(dataset="toy", retriever="web:a")
    assert env.components.retriever.rest == "a"
