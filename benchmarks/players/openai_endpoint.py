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

Time limits and repeated tries are the openai client's, which waits longer each time and heeds
``Retry-After``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

from search_env.benchmarks.harness.errors import (
    EndpointError,
    EndpointRefusedError,
    EndpointReplyError,
    EndpointTimeoutError,
)
from search_env.benchmarks.players.text import Completion, CompletionRequest, TextAgent
from search_env.errors import ConfigurationError
from search_env.protocols.protocol import Protocol
from search_env.types import Source
from search_env.validation import check_choice

APIS = ("completions", "chat", "tokens")
KEY = "OPENAI_API_KEY"


class Endpoint:
    """An endpoint that completes texts, such as ``http://localhost:8000/v1``.

    ``protocol`` is whose messages a chat begins with; ``retries`` count where it was not reached,
    was busy or failed; ``extra`` are further fields of every request.
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
        try:
            import openai
        except ImportError as error:
            raise ConfigurationError(
                "Expected the openai package for an endpoint, got none. Run "
                '`pip install "search-env[endpoints]"`.'
            ) from error
        self._openai, self._url, self._model, self._api = openai, url, model, api
        self._protocol, self._extra = protocol, dict(extra or {})
        self._timeout = timeout
        self._client: Any = openai.OpenAI(
            base_url=url,
            api_key=os.environ.get(KEY) or "none",
            timeout=timeout,
            max_retries=retries,
        )

    def __call__(self, request: CompletionRequest) -> Completion:
        """Return the next piece; errors of the client become those of ``harness.errors``."""
        openai = self._openai
        try:
            return self._chat(request) if self._api == "chat" else self._complete(request)
        except openai.APITimeoutError as error:
            raise EndpointTimeoutError(
                f"Expected a reply from {self._url} within {self._timeout:g} s, got none. Raise "
                "--timeout, or lower --concurrency."
            ) from error
        except openai.APIConnectionError as error:
            raise EndpointError(
                f"Expected an endpoint at {self._url}, got no connection ({error.__cause__}). "
                "Start it, or correct the address; it usually ends in /v1."
            ) from error
        except openai.APIStatusError as error:
            kind = EndpointRefusedError if error.status_code < 500 else EndpointError
            raise kind(
                f"Expected {self._url} to go on with a text, got status {error.status_code}: "
                f"{shorten(error.message, 200)} {_remedy(error.status_code)}"
            ) from error
        except (openai.APIResponseValidationError, ValueError, TypeError, AttributeError) as error:
            raise EndpointReplyError(
                f"Expected a completion from {self._url}, got something else "
                f"({type(error).__name__}: {shorten(str(error), 200)}). Check that the address is "
                "that of an OpenAI-compatible API, and --api."
            ) from error

    def _complete(self, request: CompletionRequest) -> Completion:
        by_tokens = self._api == "tokens"
        extra = {"return_token_ids": True, "include_stop_str_in_output": True} if by_tokens else {}
        reply = self._client.completions.create(
            model=self._model,
            prompt=request.tokens.tolist() if by_tokens else request.prompt,
            **self._common(request, extra),
        )
        choice = _first(reply)
        ids = getattr(choice, "token_ids", None)
        if by_tokens and not (isinstance(ids, list) and all(isinstance(i, int) for i in ids)):
            raise EndpointReplyError(
                f"Expected {self._url} to return token ids, got none. It takes text alone: pass "
                "--api completions."
            )
        return self._completion(choice, choice.text, reply, ids if by_tokens else None)

    def _chat(self, request: CompletionRequest) -> Completion:
        reply = self._client.chat.completions.create(
            model=self._model, messages=self._messages(request), **self._common(request, {})
        )
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
        cost = {
            "prompt": getattr(usage, "prompt_tokens", None) or 0,
            "completion": getattr(usage, "completion_tokens", None) or 0,
        }
        return Completion(text, ids, ended=choice.finish_reason != "length", cost=cost)

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


def _first(reply: Any) -> Any:
    choices = getattr(reply, "choices", None)
    if not choices:
        raise ValueError("a reply without choices")
    return choices[0]


def _remedy(status: int) -> str:
    known = {401: f"Set ${KEY}.", 403: f"Set ${KEY}.", 404: "Check the address and --model."}
    return known.get(status, "Change what it names, or try again later.")
