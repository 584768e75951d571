"""Addresses without their credentials, for everything that is written or said.

An address may carry a name with a password and, in its query, keys. Files of results, records of
commands, messages and logs hold what :func:`redacted` returns.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote, urlsplit

HIDDEN = "***"
"""What stands for a credential."""

_URL = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>[^\s\"'<>`\\]+)")
_HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?")
_SHORTEST = 4  # characters of a secret that is looked for in texts


def redacted(text: str) -> str:
    """Return a text whose addresses have neither user information nor a query nor a fragment.

    Example:
        >>> redacted("got 401 from http://me:pw@host:80/v1?api-key=abc, retry")
        'got 401 from http://***@host:80/v1?***, retry'
        >>> redacted("http://host/v1 and a@b.c")
        'http://host/v1 and a@b.c'
    """
    return _URL.sub(lambda url: url["scheme"] + _redacted_rest(url["rest"]), text)


def _redacted_rest(rest: str) -> str:
    end = re.search(r"[?#]", rest)
    head, tail = (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])
    authority = head.partition("/")[0]
    if "@" in tail and not _HOST.fullmatch(authority):  # the password itself holds ? or #
        head, _, tail = rest.rpartition("@")[2].partition("?")
        return f"{HIDDEN}@{head}" + (f"?{HIDDEN}" if tail else "")
    if "@" in head:
        head = f"{HIDDEN}@{head.rpartition('@')[2]}"
    punctuation = re.search(r"[.,;:)\]}]*\Z", tail)
    return head + (f"{tail[0]}{HIDDEN}{punctuation[0] if punctuation else ''}" if tail else "")


def without_user(text: str) -> str:
    """Return what may be an address without its scheme, such as ``name:password@host``, redacted.

    Example:
        >>> without_user("me:pw@host/v1?key=abc"), without_user("orcale")
        ('***@host/v1?***', 'orcale')
    """
    return redacted(f"x://{text}")[4:] if "@" in text or "?" in text else text


def secrets_of(url: str) -> frozenset[str]:
    """Return what an address must not say: its user information, the values of its query.

    Example:
        >>> sorted(secrets_of("http://me:p%40ss@host/v1?api-key=abcd"))
        ['abcd', 'me:p%40ss', 'p%40ss', 'p@ss']
    """
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    password = user.partition(":")[2]
    values = [value for _, value in parse_qsl(parts.query, keep_blank_values=True)]
    raw = [piece.partition("=")[2] for piece in parts.query.split("&")]
    return frozenset(filter(None, (user, password, unquote(password), *values, *raw)))


def without(text: str, secrets: Iterable[str]) -> str:
    """Return a redacted text in which no secret occurs, longest first."""
    text = redacted(text)
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN)
    return text


class RedactingFilter(logging.Filter):
    """Redacts the addresses in log records of others; attached to their loggers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record, and keep it."""
        record.msg, record.args = redacted(record.getMessage()), None
        return True
