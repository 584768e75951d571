"""Any OpenAI-compatible endpoint as a completer: vLLM, SGLang, llama.cpp, a commercial service.

=================  ===========================================================================
``api``            what is sent
=================  ===========================================================================
``completions``    the text so far; for base models, and exact to the character
``chat``           system and user message of the protocol; what the model wrote comes back as
                   the assistant's messages, documents as the user's
``tokens``         the ids so far, and ids back (vLLM: ``return_token_ids``): exact to the
                   token, with the model's own tokenizer in the environment
=================  ===========================================================================

Time limits are for whole replies (:mod:`search_env.benchmarks.players.patience`).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import os
from collections.abc import Mapping
from textwrap import shorten
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from search_env.benchmarks.harness.errors import (
    EndpointError,
    EndpointRefusedError,
    EndpointReplyError,
    EndpointTimeoutError,
)
from search_env.benchmarks.players.patience import Patience
from search_env.benchmarks.players.text import Completion, CompletionRequest, TextAgent
from search_env.datasets.rows import whole_text
from search_env.errors import ConfigurationError
from search_env.protocols.protocol import Protocol
from search_env.redaction import RedactingFilter, redacted, secrets_of, without
from search_env.types import Source
from search_env.validation import check_choice, check_count

APIS = ("completions", "chat", "tokens")
KEY = "OPENAI_API_KEY"

_BUSY = (408, 409, 429)
_NO_COMPLETION = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
_LOGGERS = ("httpx", "httpx2", "openai._base_client")
"""They log the addresses of requests."""
_LOG_FILTER = RedactingFilter()


class Endpoint:
    """An endpoint that completes texts, such as ``http://localhost:8000/v1``.

    Credentials of the address (``http://name:password@host``, ``?api-key=...``) and the key in
    ``$OPENAI_API_KEY`` go with the requests; no message and no file holds them. ``protocol`` is
    whose messages a chat begins with; ``timeout`` is in seconds, for a whole reply; ``retries``
    count where it was not reached, was busy or failed; ``extra`` are further fields of every
    request.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api: str = "completions",
        protocol: Protocol | None = None,
        timeout: float = 120.0,
        retries: int = 3,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("api", api, APIS)
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
        self._openai, self._url, self._model, self._api = openai, redacted(url), model, api
        self._protocol, self._extra = protocol, dict(extra or {})
        self._timeout = timeout
        key = os.environ.get(KEY)
        self._secrets = secrets_of(url) | ({key} if key else set())
        self._client = _client(openai, url, key or "none", timeout)
        self._patience = Patience(timeout, retries, self._pause_after, self._client.close)

    def __call__(self, request: CompletionRequest) -> Completion:
        """Return the next piece; errors of the client become those of ``harness.errors``."""
        result = self._piece(request)
        if isinstance(result, EndpointError):
            raise result  # outside of any handler: the client's errors hold whole requests
        return result

    def _piece(self, request: CompletionRequest) -> Completion | EndpointError:
        openai = self._openai
        try:
            return self._chat(request) if self._api == "chat" else self._complete(request)
        except EndpointError as error:
            return type(error)(without(str(error), self._secrets))
        except (openai.APITimeoutError, asyncio.TimeoutError):
            return EndpointTimeoutError(
                f"Expected a whole reply from {self._url} within {self._timeout:g} s, got none. "
                "Raise --timeout, or lower --concurrency."
            )
        except openai.APIConnectionError as error:
            cause = without(str(error.__cause__), self._secrets)
            return EndpointError(
                f"Expected an endpoint at {self._url}, got no connection ({cause}). "
                "Start it, or correct the address; it usually ends in /v1."
            )
        except openai.APIStatusError as error:
            kind = EndpointRefusedError if error.status_code < 500 else EndpointError
            message = shorten(without(error.message, self._secrets), 200)
            return kind(
                f"Expected {self._url} to go on with a text, got status {error.status_code}: "
                f"{message} {_remedy(error.status_code)}"
            )
        except (*_NO_COMPLETION, openai.OpenAIError) as error:
            message = shorten(without(str(error), self._secrets), 200)
            return EndpointReplyError(
                f"Expected a completion from {self._url}, got something else "
                f"({type(error).__name__}: {message}). Check that the address is "
                "that of an OpenAI-compatible API, and --api."
            )

    def _pause_after(self, error: BaseException) -> float | None:
        """Return the pause that a server asks for, 0 for the usual one, None for no further try."""
        openai = self._openai
        if isinstance(error, openai.APIStatusError):
            if error.status_code not in _BUSY and error.status_code < 500:
                return None
            return _seconds(error.response.headers.get("retry-after", ""))
        return 0.0 if isinstance(error, openai.APIConnectionError | asyncio.TimeoutError) else None

    def _complete(self, request: CompletionRequest) -> Completion:
        by_tokens = self._api == "tokens"
        extra = {"return_token_ids": True, "include_stop_str_in_output": True} if by_tokens else {}
        prompt = request.tokens.tolist() if by_tokens else request.prompt
        fields = {"model": self._model, "prompt": prompt, **self._common(request, extra)}
        reply = self._patience.call(lambda: self._client.completions.create(**fields))
        choice = _first(reply)
        ids = getattr(choice, "token_ids", None)
        if by_tokens and ids is None:
            raise EndpointReplyError(
                f"Expected {self._url} to return token ids, got none. It takes text alone: pass "
                "--api completions."
            )
        if by_tokens and not (isinstance(ids, list) and all(type(i) is int for i in ids)):
            raise EndpointReplyError(
                f"Expected {self._url} to return a list of token ids, got {str(ids)[:80]}. Update "
                "the server, or pass --api completions."
            )
        return self._completion(choice, choice.text, reply, ids if by_tokens else None)

    def _chat(self, request: CompletionRequest) -> Completion:
        messages = self._messages(request)
        fields = {"model": self._model, "messages": messages, **self._common(request, {})}
        reply = self._patience.call(lambda: self._client.chat.completions.create(**fields))
        choice = _first(reply)
        # A refusal is what the model has to say: it ends the episode without an answer.
        return self._completion(choice, choice.message.content or "", reply, None)

    def _common(self, request: CompletionRequest, extra: Mapping[str, Any]) -> dict[str, Any]:
        decoding = request.decoding
        return {
            **({"stop": list(request.stop)} if request.stop else {}),
            "max_tokens": request.max_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": request.seed,
            "extra_body": {**extra, **self._extra},
        }

    def _completion(
        self, choice: Any, text: object, reply: Any, ids: list[int] | None
    ) -> Completion:
        if not isinstance(text, str):
            raise EndpointReplyError(
                f"Expected text from {self._url}, got {type(text).__name__}. Check --api."
            )
        usage = getattr(reply, "usage", None)
        cost = {kind: self._tokens(usage, f"{kind}_tokens") for kind in ("prompt", "completion")}
        return Completion(whole_text(text), ids, choice.finish_reason != "length", cost)

    def _tokens(self, usage: object, name: str) -> int:
        """Return a count of tokens; 0 where the endpoint does not say it."""
        count = None if usage is None else getattr(usage, name, None)
        if count is None and (usage is None or hasattr(usage, "model_fields_set")):
            return 0
        if type(count) is not int or count < 0:
            got = usage if count is None else count
            raise EndpointReplyError(
                f"Expected a count of tokens as usage.{name} from {self._url}, got "
                f"{str(got)[:80]!r}. Update the server."
            )
        return count

    def _messages(self, request: CompletionRequest) -> list[dict[str, str]]:
        """Return the episode so far as messages."""
        protocol = self._protocol
        if protocol is not None and protocol.chat_system:
            question = protocol.clean_question(request.question)
            messages = [
                {"role": "system", "content": protocol.chat_system},
                {"role": "user", "content": protocol.chat_user.replace("{question}", question)},
            ]
        else:
            messages = [{"role": "user", "content": request.segments[0][1]}]
        for source, text in request.segments[1:]:
            role = "assistant" if source == Source.POLICY else "user"
            messages.append({"role": role, "content": text})
        return messages


def endpoint_agent(
    url: str,
    model: str,
    *,
    tokenizer: str = "world-1k",
    concurrency: int = 8,
    max_tokens: int | None = None,
    api: str = "completions",
    protocol: Protocol | None = None,
    timeout: float = 120.0,
    retries: int = 3,
    extra: Mapping[str, Any] | None = None,
) -> TextAgent:
    """Return the agent behind an endpoint; see :class:`Endpoint` and ``players.text.TextAgent``."""
    endpoint = Endpoint(
        url, model, api=api, protocol=protocol, timeout=timeout, retries=retries, extra=extra
    )
    description = {"name": model, "kind": "endpoint", "api": api}
    return TextAgent(
        endpoint, description, tokenizer=tokenizer, concurrency=concurrency, max_tokens=max_tokens
    )


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


def _first(reply: Any) -> Any:
    choices = getattr(reply, "choices", None)
    if not choices:
        raise ValueError("a reply without choices")
    return choices[0]


def _remedy(status: int) -> str:
    known = {401: f"Set ${KEY}.", 403: f"Set ${KEY}.", 404: "Check the address and --model."}
    return known.get(status, "Change what it names, or try again later.")
