"""A rewriter behind an OpenAI-compatible endpoint, as a chat; its replies are kept in a file.

What was asked is answered from the file from then on. So a run that was killed in a step asks
nothing twice, and goes on with the paths that it had.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import shorten
from typing import Any

from search_env.agents.errors import RewriterError
from search_env.agents.inference.openai_client import KEY, OpenAIClient
from search_env.agents.rollouts.rewriters import RewritingTask
from search_env.datasets.rows import whole_text
from search_env.paths import append
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import TokenIds, Transcript

_NO_REPLY = (ValueError, TypeError, AttributeError, LookupError, RecursionError)


class Endpoint:
    """Another model rewrites, at an address such as ``http://localhost:8000/v1``.

    Args:
        url: The address; its credentials stay out of files and messages.
        model: Name of the model there.
        task: What it is asked.
        tokenizer: Of the policy.
        path: File of replies; one that is there is read, and added to.
        max_tokens: Most tokens of a reply.
        temperature: Of its sampling.
        timeout: Seconds for a whole reply.
        retries: Further tries of a request.
        concurrency: Requests at a time.

    Raises:
        ConfigurationError: The package is missing, or the address is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        task: RewritingTask,
        tokenizer: Tokenizer,
        path: str | Path,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        timeout: float = 120.0,
        retries: int = 3,
        concurrency: int = 8,
    ) -> None:
        self._client = OpenAIClient(url, timeout=timeout, retries=retries)
        self._model, self._task, self._tokenizer = model, task, tokenizer
        self._protocol = task.protocol(max_tokens)
        self._max_tokens, self._temperature = max_tokens, temperature
        self._concurrency, self._path = concurrency, Path(path)
        self._replies = _read(self._path)

    @property
    def varies(self) -> bool:
        """Whether another seed may give another path."""
        return self._temperature > 0.0

    def rewrite(
        self, rollouts: Sequence[Transcript], seeds: Sequence[int]
    ) -> list[TokenIds | None]:
        """Return the replies as ids.

        Raises:
            RewriterError: A reply did not come; those that came are kept.
            StorageError: A reply cannot be written.
        """
        requests = [
            self._request(rollout, seed) for rollout, seed in zip(rollouts, seeds, strict=True)
        ]
        keys = [_key(request) for request in requests]
        missing = dict(zip(keys, requests, strict=True))
        missing = {key: request for key, request in missing.items() if key not in self._replies}
        failure: RewriterError | None = None
        with ThreadPoolExecutor(self._concurrency) as pool:
            for key, reply in zip(missing, pool.map(self._ask, missing.values()), strict=True):
                if isinstance(reply, RewriterError):
                    failure = failure or reply
                else:
                    self._keep(key, reply)
        if failure is not None:
            raise failure  # outside of any handler: the client's errors hold whole requests
        return [self._tokenizer.encode(self._replies[key]) for key in keys]

    def _request(self, rollout: Transcript, seed: int) -> dict[str, Any]:
        messages = self._protocol.chat_messages(self._task.of(rollout).text)
        request = {
            "model": self._model,
            "messages": messages,
            "max_tokens": self._max_tokens,
            "temperature": self._temperature,
        }
        return {**request, "seed": seed} if self.varies else request

    def _ask(self, request: dict[str, Any]) -> str | RewriterError:
        client, openai = self._client, self._client.openai
        expected = f"Expected a path from {client.url}"
        try:
            reply = client.call(lambda: client.api.chat.completions.create(**request))
            text = reply.choices[0].message.content
            if not isinstance(text, str):
                raise TypeError(f"content of type {type(text).__name__}")
        except (openai.APITimeoutError, asyncio.TimeoutError):
            return RewriterError(
                f"{expected} within {client.timeout:g} s, got none. Raise the memorisation's "
                "timeout, or lower its concurrency, and resume the run."
            )
        except (openai.OpenAIError, *_NO_REPLY) as error:
            cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
            got = shorten(client.without_secrets(f"{type(error).__name__}: {cause}"), 200)
            return RewriterError(
                f"{expected}, got {got}. Start it, or check its address, ${KEY} and the name of "
                "the model, and resume the run."
            )
        return whole_text(text)

    def _keep(self, key: str, reply: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        row = json.dumps({"key": key, "path": reply})
        append(self._path, row.encode("utf-8", "surrogatepass") + b"\n")
        self._replies[key] = reply


def _key(request: dict[str, Any]) -> str:
    """Return what stands for a request in the file."""
    content = json.dumps(request, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _read(path: Path) -> dict[str, str]:
    """Return the replies of a file; a last line that was cut off is ended, and is no reply."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        append(path, b"\n")
    replies = {}
    for line in content.splitlines():
        try:
            row = json.loads(line)
            key, reply = row["key"], row["path"]
        except (ValueError, LookupError, TypeError):
            continue
        if isinstance(key, str) and isinstance(reply, str):
            replies[key] = reply
    return replies
