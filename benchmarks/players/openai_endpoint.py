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

Time limits are for whole replies (:mod:`search_env.agents.inference.openai_client`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

from search_env.agents.inference.openai_client import KEY, OpenAIClient
from search_env.benchmarks.harness.errors import (
    EndpointError,
    EndpointRefusedError,
    EndpointReplyError,
    EndpointTimeoutError,
)
from search_env.benchmarks.players.text import Completion, CompletionRequest, TextAgent
from search_env.datasets.rows import whole_text
from search_env.protocols.protocol import Protocol
from search_env.types import Source
from search_env.validation import check_choice

APIS = ("completions", "chat", "tokens")
_NO_COMPLETION = (ValueError, TypeError, AttributeError, LookupError, RecursionError)


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
        self._client = OpenAIClient(url, timeout=timeout, retries=retries)
        self._url, self._model, self._api = self._client.url, model, api
        self._protocol, self._extra = protocol, dict(extra or {})

    def __call__(self, request: CompletionRequest) -> Completion:
        """Return the next piece; errors of the client become those of ``harness.errors``."""
        result = self._piece(request)
        if isinstance(result, EndpointError):
            raise result  # outside of any handler: the client's errors hold whole requests
        return result

    def _piece(self, request: CompletionRequest) -> Completion | EndpointError:
        openai = self._client.openai
        try:
            return self._chat(request) if self._api == "chat" else self._complete(request)
        except EndpointError as error:
            return type(error)(self._client.without_secrets(str(error)))
        except (openai.APITimeoutError, asyncio.TimeoutError):
            return EndpointTimeoutError(
                f"Expected a whole reply from {self._url} within {self._client.timeout:g} s, got "
                "none. Raise --timeout, or lower --concurrency."
            )
        except openai.APIConnectionError as error:
            cause = self._client.without_secrets(str(error.__cause__))
            return EndpointError(
                f"Expected an endpoint at {self._url}, got no connection ({cause}). "
                "Start it, or correct the address; it usually ends in /v1."
            )
        except openai.APIStatusError as error:
            kind = EndpointRefusedError if error.status_code < 500 else EndpointError
            message = shorten(self._client.without_secrets(error.message), 200)
            return kind(
                f"Expected {self._url} to go on with a text, got status {error.status_code}: "
                f"{message} {_remedy(error.status_code)}"
            )
        except (*_NO_COMPLETION, openai.OpenAIError) as error:
            message = shorten(self._client.without_secrets(str(error)), 200)
            return EndpointReplyError(
                f"Expected a completion from {self._url}, got something else "
                f"({type(error).__name__}: {message}). Check that the address is "
                "that of an OpenAI-compatible API, and --api."
            )

    def _complete(self, request: CompletionRequest) -> Completion:
        by_tokens = self._api == "tokens"
        extra = {"return_token_ids": True, "include_stop_str_in_output": True} if by_tokens else {}
        prompt = request.tokens.tolist() if by_tokens else request.prompt
        fields = {"model": self._model, "prompt": prompt, **self._common(request, extra)}
        reply = self._client.call(lambda: self._client.api.completions.create(**fields))
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
        reply = self._client.call(lambda: self._client.api.chat.completions.create(**fields))
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


def _first(reply: Any) -> Any:
    choices = getattr(reply, "choices", None)
    if not choices:
        raise ValueError("a reply without choices")
    return choices[0]


def _remedy(status: int) -> str:
    known = {401: f"Set ${KEY}.", 403: f"Set ${KEY}.", 404: "Check the address and --model."}
    return known.get(status, "Change what it names, or try again later.")
