"""Agents that know text alone: a function, or anything behind an endpoint.

What the policy says is requested piece by piece, up to a tag that makes the environment act, and
encoded once, when it is written. Episodes run side by side in threads, each in an environment of
its own; finished ones are handed on from the calling thread.
"""

from __future__ import annotations

import importlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.benchmarks.harness.errors import (
    BenchmarkError,
    EndpointError,
    EndpointReplyError,
)
from search_env.benchmarks.harness.results_file import EpisodeResult
from search_env.benchmarks.players.base import (
    Decoding,
    EpisodeKey,
    EpisodeToRecord,
    Evaluation,
    OnEpisode,
)
from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import ConfigurationError
from search_env.evaluation.evaluate import measure_episode
from search_env.registry import search_here
from search_env.types import Source, TagPair, TagRole

_FAILURES = 3
"""So many failures in a row for each episode side by side end the run: the endpoint is gone."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """The text so far, in three forms; strings in ``stop`` end the piece and belong to it."""

    prompt: str
    tokens: NDArray[np.int32]
    segments: Sequence[tuple[Source, str]]
    question: str
    stop: tuple[str, ...]
    max_tokens: int
    decoding: Decoding
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model replied: a piece, whose stop string at its end may be left out.

    ``tokens`` are the same as ids, stop string included, where the model gave them. ``ended`` says
    that it has nothing to add, unless a stop string ended the piece; ``cost`` is in tokens by kind.
    """

    text: str
    tokens: Sequence[int] | None = None
    ended: bool = True
    cost: Mapping[str, int] = field(default_factory=dict)


Completer: TypeAlias = Callable[[CompletionRequest], Completion]
"""Completes a text, or raises an EndpointError. Called from several threads at once."""
_Result: TypeAlias = tuple[EpisodeResult, EpisodeToRecord] | BaseException | None
"""What a worker puts into the queue: an episode, a failure, or None at its end."""


class TextAgent:
    """Plays whatever completes text, ``concurrency`` episodes side by side.

    ``tokenizer`` counts tokens and turns text into ids: best the model's own.
    """

    def __init__(
        self,
        complete: Completer,
        description: Mapping[str, Any],
        *,
        tokenizer: str = "world-1k",
        concurrency: int = 8,
        max_tokens: int | None = None,
    ) -> None:
        self._complete, self._concurrency = complete, concurrency
        self._options = {"tokenizer": tokenizer, "max_tokens": max_tokens}
        self.description = {**description, **self._options}

    def play(
        self, evaluation: Evaluation, keys: Sequence[EpisodeKey], on_episode: OnEpisode
    ) -> None:
        """Play the episodes; an error at the end, or after many in a row, says how many failed."""
        results: queue.Queue[_Result] = queue.Queue()
        waiting, lock, stop = iter(keys), threading.Lock(), threading.Event()

        def work() -> None:
            try:
                env = evaluation.make_env(**self._options)
                while not stop.is_set():
                    with lock:
                        key = next(waiting, None)
                    if key is None:
                        return
                    try:
                        results.put(self._episode(env, evaluation, key))
                    except EndpointError as error:
                        results.put(error)
            except BaseException as error:
                results.put(error)
            finally:
                results.put(None)

        workers = min(self._concurrency, len(keys))
        for _ in range(workers):
            threading.Thread(target=work, daemon=True).start()
        try:
            _hand_on(results, workers, on_episode)
        finally:
            stop.set()

    def _episode(
        self, env: SearchQAEnv, evaluation: Evaluation, key: EpisodeKey
    ) -> tuple[EpisodeResult, EpisodeToRecord]:
        index, sample = key
        start, cost = time.perf_counter(), Counter[str]()
        env.reset(seed=evaluation.seed + sample, options={"index": index})
        total, over = 0.0, False
        while not over:
            request = _request(env, evaluation, sample)
            completion = self._complete(request)
            cost.update(completion.cost)
            reward, over = _write(env, _completion_ids(env, request, completion))
            total += reward
        transcript, seconds = env.transcript(), time.perf_counter() - start
        result = EpisodeResult(
            index, sample, measure_episode(transcript, total), seconds, dict(cost)
        )
        return result, EpisodeToRecord(env, transcript, evaluation.seed + sample)


def _hand_on(results: queue.Queue[_Result], workers: int, on_episode: OnEpisode) -> None:
    """Hand episodes on until all workers have ended."""
    failed, in_a_row, last = 0, 0, None
    while workers:
        result = results.get()
        if result is None:
            workers -= 1
        elif isinstance(result, EndpointError):
            failed, in_a_row, last = failed + 1, in_a_row + 1, result
            if in_a_row >= _FAILURES * workers:
                raise result
        elif isinstance(result, BaseException):
            raise result
        else:
            in_a_row = 0
            on_episode(*result)
    if last is not None:
        raise type(last)(
            f"{failed} episodes could not be played; the others are kept. The last error: {last} "
            "Run the same command again to play those that are missing."
        ) from last


def _request(env: SearchQAEnv, evaluation: Evaluation, sample: int) -> CompletionRequest:
    transcript, protocol = env.transcript(), env.protocol
    room = [protocol.max_tokens - len(transcript.tokens)]
    if protocol.max_segment_tokens is not None:
        room.append(protocol.max_segment_tokens)
    if protocol.max_policy_tokens is not None:
        room.append(protocol.max_policy_tokens - transcript.num_policy_tokens)
    return CompletionRequest(
        prompt=transcript.text(),
        tokens=transcript.tokens,
        segments=transcript.segments(),
        question=transcript.question.text,
        stop=tuple(pair.close for pair in _stops(env)),
        max_tokens=max(1, min(room)),
        decoding=evaluation.decoding,
        seed=evaluation.seed + sample,
    )


def _completion_ids(
    env: SearchQAEnv, request: CompletionRequest, completion: Completion
) -> list[int]:
    """Return what a piece writes; an end that was meant becomes an end-of-sequence id."""
    if completion.tokens is not None:
        ids, stopped = list(completion.tokens), completion.text.rstrip().endswith(request.stop)
        odd = next((i for i in ids if not 0 <= i < env.tokenizer.size), None)
        if odd is not None:
            raise EndpointReplyError(
                f"Expected token ids below {env.tokenizer.size}, got {odd}. Pass the model's own "
                "tokenizer as --tokenizer."
            )
    else:
        source, before = request.segments[-1]  # what the policy wrote since documents came in
        text = with_stop(before if source == Source.POLICY else "", completion.text, env)
        ids, stopped = env.tokenizer.encode(text).tolist(), text.endswith(request.stop)
    if (completion.ended and not stopped) or not ids:
        ids.append(min(env.tokenizer.eos_ids, default=0))
    return ids


def with_stop(before: str, text: str, env: SearchQAEnv) -> str:
    """Return a piece with the stop string that its server, as OpenAI's does, cut off.

    It is the one whose tag stands open in the piece and ``before``, the policy's last segment.
    """
    for pair in _stops(env):
        at = (before + text).rfind(pair.open)
        if at >= 0 and pair.close not in (before + text)[at:]:
            return text + pair.close
    return text


def _stops(env: SearchQAEnv) -> tuple[TagPair, ...]:
    """Return the pairs of tags whose closing the environment acts on, wherever it stands.

    A bracket closes an answer only where it matches: the environment finds it in the text.
    """
    pairs = env.protocol.pairs(TagRole.TOOL) + env.protocol.pairs(TagRole.ANSWER)
    return tuple(pair for pair in pairs if not pair.bracket)


def _write(env: SearchQAEnv, ids: Sequence[int]) -> tuple[float, bool]:
    """Write ids until the environment writes or ends; return the reward and whether it ended."""
    total, length = 0.0, len(env.transcript().tokens)
    for token in ids:
        observation, reward, terminated, truncated, _ = env.step(token)
        total += float(reward)
        if terminated or truncated:
            return total, True
        length += 1
        if observation["length"] > length:
            break
    return total, False


def function_agent(name: str, *, tokenizer: str = "world-1k", concurrency: int = 1) -> TextAgent:
    """Return the agent of ``MODULE:FUNCTION``, a ``(prompt, stop) -> text`` called from threads."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigurationError(
            f"Expected python:MODULE:FUNCTION, got python:{name}. Name both, with a colon between."
        )
    search_here()
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may raise anything
        raise ConfigurationError(
            f"Expected python:MODULE:FUNCTION that can be imported, got python:{name} "
            f"({type(error).__name__}: {error}). "
            "Run the command in the module's folder, or set PYTHONPATH."
        ) from error
    if not callable(function):
        raise ConfigurationError(
            f"Expected python:{name} to be a function (prompt, stop) -> text, got "
            f"{type(function).__name__}. Name the function after the second colon."
        )

    def complete(request: CompletionRequest) -> Completion:
        text = function(request.prompt, request.stop)
        if not isinstance(text, str):
            raise BenchmarkError(
                f"Expected {name} to return a string, got {type(text).__name__}. It takes the "
                "text so far and the stop strings, and returns what comes next."
            )
        ends = [text.find(stop) + len(stop) for stop in request.stop if stop in text]
        return Completion(text[: min(ends)] if ends else text)

    description = {"name": name, "kind": "python"}
    return TextAgent(complete, description, tokenizer=tokenizer, concurrency=concurrency)
