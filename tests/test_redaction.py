"""Credentials in addresses: no text that is written or said holds them."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import ConfigurationError
from search_env.redaction import RedactingFilter, redacted, secrets_of, without

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:s3cr3t@host/v1", "http://***@host/v1"),
        ("https://s3cr3t@host:8000/v1/", "https://***@host:8000/v1/"),
        ("http://host/v1?api-key=s3cr3t", "http://host/v1?***"),
        ("http://host/v1?a=b&token=s3cr3t#part", "http://host/v1?***"),
        ("http://host/v1#s3cr3t", "http://host/v1#***"),
        ("http://me:s3cr3t@x@host/v1?k=s3cr3t, then", "http://***@host/v1?***, then"),
        ("http://me:s3?cr3t@host/v1", "http://***@host/v1"),
        ("http://me:s3/cr3t@host/v1", "http://***@host/v1"),
        ("http://me:s3#cr3t@host/v1?k=1", "http://***@host/v1?***"),
        ("postgresql+x://me:s3cr3t@[::1]:5/db", "postgresql+x://***@[::1]:5/db"),
        ('--agent "http://me:s3cr3t@host" --out a', '--agent "http://***@host" --out a'),
        ("(http://host/v1?k=s3cr3t) http://a/b", "(http://host/v1?***) http://a/b"),
        ("http://host/v1?email=a@b.c", "http://host/v1?***"),
        ("http://host:80/v1, a@b.c and c:d@e", "http://host:80/v1, a@b.c and c:d@e"),
    ],
)
def test_b5_addresses_are_redacted(text, expected):
    assert redacted(text) == expected
    assert redacted(expected) == expected


@given(
    name=st.text("abc-._~%", min_size=1, max_size=5),
    place=st.sampled_from(["user", "password", "query", "fragment"]),
    before=st.sampled_from(["", "Error: ", '{"url": "', "--agent '"]),
)
def test_b5_no_part_is_left(name, place, before):
    url = {
        "user": f"http://{SECRET}@{name}h/v1",
        "password": f"https://{name}:{SECRET}@host/v1?x=1",
        "query": f"http://host/{name}?key={SECRET}&more={SECRET}",
        "fragment": f"http://host/{name}?a#{SECRET}",
    }[place]
    assert SECRET not in redacted(f"{before}{url}' rest")
    assert place == "fragment" or SECRET in "".join(secrets_of(url))


def test_b5_a_server_that_echoes_a_secret():
    secrets = secrets_of("http://me:p%40ssword@host/v1?key=abcdef")
    assert (
        without("you sent p@ssword, p%40ssword and abcdef", secrets) == "you sent ***, *** and ***"
    )


@pytest.mark.parametrize(
    ("scheme", "message"), [("http", "without a name and password"), ("ftp", "retriever among")]
)
def test_b5_names_of_retrievers_are_redacted_in_errors(scheme, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        SearchQAEnv(dataset="toy", retriever=f"{scheme}://me:{SECRET}@host/retrieve?key={SECRET}")
    assert SECRET not in str(caught.value)


def test_b5_records_of_logs():
    record = logging.LogRecord("x", 20, "f", 1, "GET %s %s", (f"http://a:{SECRET}@b", 200), None)
    assert RedactingFilter().filter(record)
    assert record.getMessage() == "GET http://***@b 200"
