"""Names of servers: refusals, keys, options."""

from __future__ import annotations

import pickle

import pytest

pytest.importorskip("urllib3")

import search_env
from search_env.errors import ConfigurationError
from search_env.retrieval.http.address import parse_address
from search_env.retrieval.http.client import HttpRetriever

R1 = "dialect=search-r1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("http://h", "a dialect in http://h, got none. Add .dialect= with one of search-r1, skyrl"),
        ("http://h?dialect=serch-r1", "got 'serch-r1'. Did you mean 'search-r1'"),
        (f"http://h?{R1}&timout=3", "got 'timout'. Did you mean 'timeout'"),
        ("http://h?dialect=searxng&enginse=x", "got 'enginse'. Did you mean 'engines'"),
        (f"http://h?{R1}&timeout=0", "timeout to be a number of at least 0.001, got '0'"),
        (f"http://h?{R1}&timeout=nan", "timeout to be a number"),
        (f"http://h?{R1}&retries=-1", "retries to be an integer of at least 0, got '-1'"),
        (f"http://h?{R1}&batch=0", "batch to be an integer of at least 1"),
        (f"http://h?{R1}&connections=x", "connections to be an integer"),
        (f"http://h?{R1}&batch=2&batch=3", "Expected every option once"),
        (f"http://?{R1}", "Expected the address of a search server"),
        (f"http://h:99999?{R1}", "Expected the address of a search server"),
        (f"http://h?{R1}#part", "Expected the address of a search server"),
        ("http://h?dialect=litellm", "the option tool for dialect 'litellm'"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(name, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_address(name)


@pytest.mark.parametrize(
    "name",
    [
        f"http://h?{R1}&api_key=s3cret",
        f"http://h?{R1}&X-API-KEY=s3cret",
        f"http://h?{R1}&token=s3cret",
        f"http://me:s3cret@h?{R1}",
        f"http://s3cret@h?{R1}",
        f"http://h?{R1}&timout=s3cret",
        "http://h?x=s3cret",
    ],
)
def test_no_name_holds_a_key_and_no_error_shows_one(name):
    with pytest.raises(ConfigurationError) as error:
        parse_address(name)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("dialect", ["serper", "brave", "tavily"])
def test_an_engine_that_needs_a_key_names_its_variable(monkeypatch, dialect):
    variable = f"{dialect.upper()}_API_KEY"
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigurationError, match=rf"in \${variable}, got none"):
        HttpRetriever(f"https://h?dialect={dialect}")
    monkeypatch.setenv(variable, "s3cret\r\nHost: other")
    with pytest.raises(ConfigurationError, match="no line of ASCII") as error:
        HttpRetriever(f"https://h?dialect={dialect}")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "is_taken"),
    [
        ("https://h", True),
        ("http://localhost:1", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:80", True),
        ("http://h", False),
        ("http://10.0.0.1", False),
    ],
)
def test_a_key_travels_encrypted_or_not_at_all(monkeypatch, url, is_taken):
    monkeypatch.setenv("SEARCH_ENV_RETRIEVER_KEY", "s3cret")
    address = parse_address(f"{url}?{R1}")
    if is_taken:
        assert address.key() == {"Authorization": "Bearer s3cret"}
        assert "s3cret" not in repr(address)
    else:
        with pytest.raises(ConfigurationError, match="Expected https") as error:
            address.key()
        assert "s3cret" not in str(error.value)
        monkeypatch.delenv("SEARCH_ENV_RETRIEVER_KEY")
        assert address.key() == {}


def test_an_environment_takes_the_name_and_refuses_a_wrong_one_when_it_is_made():
    env = search_env.SearchQAEnv(dataset="toy", retriever=f"http://127.0.0.1:1?{R1}")
    assert env.components.retriever.name == "search-r1 http://127.0.0.1:1"
    assert search_env.SearchQAEnv(dataset="toy", retriever=f"https://h?{R1}") is not None
    with pytest.raises(ConfigurationError, match="Did you mean 'search-r1'"):
        search_env.SearchQAEnv(dataset="toy", retriever="http://h?dialect=search-r2")


def test_a_retriever_can_be_sent_to_another_process():
    copy = pickle.loads(pickle.dumps(HttpRetriever(f"http://h/p?{R1}&batch=3")))
    assert (copy.address.url, copy.address.batch) == ("http://h/p", 3)
