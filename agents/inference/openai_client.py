"""The client of OpenAI-compatible endpoints: its address, its credentials, whole replies in time.

Credentials of an address (``http://name:password@host``, ``?api-key=...``) and the key in
``$OPENAI_API_KEY`` go with the requests; no message and no log holds them.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from search_env.agents.inference.patience import Patience
from search_env.errors import ConfigurationError
from search_env.redaction import RedactingFilter, redacted, secrets_of, without
from search_env.validation import check_count

T = TypeVar("T")

KEY = "OPENAI_API_KEY"

_BUSY = (408, 409, 429)
_LOGGERS = ("httpx", "httpx2", "openai._base_client")
"""They log the addresses of requests."""
_LOG_FILTER = RedactingFilter()


class OpenAIClient:
    """Calls of an endpoint such as ``http://localhost:8000/v1``.

    Args:
        url: The address, with its credentials if it has any.
        timeout: Seconds for a whole reply.
        retries: How often a request is sent again where the endpoint was not reached, was busy or
            failed.

    Attributes:
        url: The address without credentials, for messages.
        openai: The package, for its errors.
        api: The package's asynchronous client.

    Raises:
        ConfigurationError: The package is missing, or an argument cannot work.
    """

    def __init__(self, url: str, *, timeout: float = 120.0, retries: int = 3) -> None:
        check_count("retries", retries)
        if not timeout > 0 or not math.isfinite(timeout):
            raise ConfigurationError(
                f"Expected a time limit of more than 0 seconds, got {timeout!r}. Raise --timeout."
            )
        try:
            import openai
        except ImportError as error:
            raise ConfigurationError(
                "Expected the openai package for an endpoint, got none. Run "
                '`pip install "search-env[endpoints]"`.'
            ) from error
        self.openai, self.url, self.timeout = openai, redacted(url), timeout
        key = os.environ.get(KEY)
        self._secrets = secrets_of(url) | ({key} if key else set())
        self.api = _client(openai, url, key or "none", timeout)
        self._patience = Patience(timeout, retries, self._pause_after, self.api.close)

    def call(self, send: Callable[[], Awaitable[T]]) -> T:
        """Return the reply to a request, or raise the error of its last try."""
        return self._patience.call(send)

    def without_secrets(self, text: str) -> str:
        """Return a text in which no credential occurs."""
        return without(text, self._secrets)

    def _pause_after(self, error: BaseException) -> float | None:
        """Return the pause that a server asks for, 0 for the usual one, None for no further try."""
        openai = self.openai
        if isinstance(error, openai.APIStatusError):
            if error.status_code not in _BUSY and error.status_code < 500:
                return None
            return _seconds(error.response.headers.get("retry-after", ""))
        return 0.0 if isinstance(error, openai.APIConnectionError | asyncio.TimeoutError) else None


def _client(openai: Any, url: str, key: str, timeout: float) -> Any:
    """Return a client whose address has no credentials: they go as a header and parameters."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if not host:
        raise ConfigurationError(
            f"Expected the address of an endpoint, got {redacted(url)!r}. Write it as "
            "http://HOST/v1."
        )
    headers = {}
    if user:
        pair = base64.b64encode(unquote(user).encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
    for name in _LOGGERS if parts.query else ():
        logging.getLogger(name).addFilter(_LOG_FILTER)  # parameters are part of what is logged
    return openai.AsyncOpenAI(
        base_url=urlunsplit((parts.scheme, host, parts.path, "", "")),
        api_key=key,
        default_headers=headers,
        default_query=dict(parse_qsl(parts.query, keep_blank_values=True)),
        timeout=timeout,
        max_retries=0,
    )


def _seconds(text: str) -> float:
    """Return the seconds that a header asks for, 0 where it asks for none.

    Example:
        >>> _seconds("2"), _seconds("Mon, 01 Jan 2029"), _seconds("nan"), _seconds("-1")
        (2.0, 0.0, 0.0, 0.0)
    """
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < math.inf else 0.0
