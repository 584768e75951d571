"""Names such as ``http://host:8000?dialect=search-r1``: what they say, and what they may not.

A name is stored in files of results and shown in messages, so it never holds a key: keys are read
from environment variables, which :mod:`~search_env.retrieval.http.dialects` names.
"""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from search_env.errors import ConfigurationError
from search_env.redaction import redacted
from search_env.retrieval.http.dialect import Dialect, Key
from search_env.retrieval.http.dialects import DIALECTS
from search_env.validation import check_choice

COMMON = {
    "dialect": "the wire format; needed",
    "timeout": "seconds for one attempt of one request, default 30",
    "retries": "attempts after the first, default 3",
    "batch": "queries in one request at most, default 64",
    "connections": "requests at once at most, default 8",
}
"""Options of every address."""

_KEYS = ("key", "token", "secret", "password", "auth")
_EXAMPLE = "Write it as http://HOST:PORT?dialect=search-r1."


@dataclass(frozen=True, slots=True)
class Address:
    """A server and how to speak to it.

    Attributes:
        url: Scheme, host, port and the path before the dialect's own.
        key: The header with the key; not part of ``repr``.
    """

    url: str
    dialect: Dialect
    options: Mapping[str, str]
    timeout: float = 30.0
    retries: int = 3
    batch: int = 64
    connections: int = 8

    def key(self) -> dict[str, str]:
        """Return the header with the key from the environment, empty where there is none.

        Raises:
            ConfigurationError: The dialect needs a key and its variable is not set, or the key
                would travel without encryption.
        """
        return key_header(self.dialect.key, self.url, f"dialect {self.dialect.name!r}")


def key_header(key: Key, url: str, user: str) -> dict[str, str]:
    """Return the header of a key for a server; ``user`` says in an error whose key it is."""
    value = os.environ.get(key.variable, "")
    if not value and not key.required:
        return {}
    if not value or not (value.isascii() and value.isprintable()):
        got = "something that is no line of ASCII" if value else "none"
        raise ConfigurationError(
            f"Expected the key of {user} in ${key.variable}, got {got}. Set it in the environment; "
            "it never stands in the address."
        )
    if url.startswith("http:") and not _is_here(urlsplit(url).hostname or ""):
        raise ConfigurationError(
            f"Expected https for a server that gets the key in ${key.variable}, got {url}. Write "
            "https://, or unset the variable."
        )
    return {key.header: f"{key.prefix}{value}"}


def parse_address(name: str) -> Address:
    """Return what a name says.

    Raises:
        ConfigurationError: It is no such address, holds a key or a password, or has an unknown
            dialect or option.

    Example:
        >>> parse_address("http://127.0.0.1:8000/retrieve?dialect=search-r1&timeout=5").timeout
        5.0
        >>> parse_address("http://localhost:8000?dialect=serch-r1")
        Traceback (most recent call last):
        ...
        search_env.errors.ConfigurationError: Expected dialect among ['search-r1', 'skyrl', \
'flashrag', 'r1-searcher', 'ragen', 'gem', 'searxng', 'serper', 'brave', 'tavily', 'litellm'], got \
'serch-r1'. Did you mean 'search-r1'? Choose one of them.
    """
    base, path = split_server(name)
    options = read_options(name)
    if "dialect" not in options:
        raise ConfigurationError(
            f"Expected a dialect in {redacted(name)}, got none. Add ?dialect= with one of "
            f"{', '.join(DIALECTS)}."
        )
    check_choice("dialect", options["dialect"], DIALECTS)
    dialect = DIALECTS[options.pop("dialect")]
    for option in options:
        _check_option(option, dialect)
    for option in dialect.required_options:
        if not options.get(option):
            raise ConfigurationError(
                f"Expected the option {option} for dialect {dialect.name!r} in {redacted(name)}, "
                f"got none. Add &{option}=: {dialect.options[option]}."
            )
    return Address(
        base + _prefix(path, dialect),
        dialect,
        {option: value for option, value in options.items() if option not in COMMON},
        check_number("timeout", options.get("timeout", "30"), least=0.001),
        check_whole("retries", options.get("retries", "3"), least=0),
        check_whole("batch", options.get("batch", "64"), least=1),
        check_whole("connections", options.get("connections", "8"), least=1),
    )


def split_server(name: str) -> tuple[str, str]:
    """Return scheme, host and port, and the path; an address with a password is refused."""
    try:
        parts = urlsplit(name)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if "@" in name.partition("?")[0]:
        raise ConfigurationError(
            f"Expected an address without a name and password, got {redacted(name)}. Leave them "
            "out; keys come from the environment."
        )
    if parts.scheme not in ("http", "https") or not host or parts.fragment:
        raise ConfigurationError(
            f"Expected the address of a search server, got {redacted(name)}. {_EXAMPLE}"
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else ""), parts.path


def read_options(name: str) -> dict[str, str]:
    """Return the options after the question mark; each may occur once."""
    pairs = parse_qsl(urlsplit(name).query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs):
        raise ConfigurationError(
            f"Expected every option once, got {[option for option, _ in pairs]} in "
            f"{redacted(name)}. Leave the others out."
        )
    return options


def _check_option(option: str, dialect: Dialect) -> None:
    if option in COMMON or option in dialect.options:
        return
    refuse_key(option, dialect.key.variable)
    check_choice(f"an option of dialect {dialect.name!r}", option, [*COMMON, *dialect.options])


def refuse_key(option: str, variable: str) -> None:
    """Raise if an option is a key by its name; ``variable`` is where keys belong."""
    if any(word in option.lower() for word in _KEYS):
        raise ConfigurationError(
            f"Expected no key in an address, got the option {option!r}. Set ${variable} in the "
            "environment; names are stored in files and shown."
        )


def _prefix(path: str, dialect: Dialect) -> str:
    """Return the path before the dialect's own."""
    path = path.rstrip("/")
    own = next((own for own in dialect.paths if path.endswith(own)), "")
    return path[: len(path) - len(own)]


def check_number(name: str, value: str, least: float) -> float:
    """Return an option that is a number."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not least <= number < math.inf:
        raise ConfigurationError(
            f"Expected {name} to be a number of at least {least:g}, got {value!r}. Change it."
        )
    return number


def check_whole(name: str, value: str, least: int) -> int:
    """Return an option that is an integer."""
    if not (value.isascii() and value.isdigit() and least <= int(value[:9])):
        raise ConfigurationError(
            f"Expected {name} to be an integer of at least {least}, got {value!r}. Change it."
        )
    return int(value[:9])


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
