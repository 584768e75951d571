"""What every scenario counts and checks."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import RetrievalError, RewardError
from search_env.rewards import get_reward
from search_env.testing.base import first_difference, plain
from search_env.types import Question, Source, Transcript
from tests.fuzz.model import Model
from tests.fuzz.retrievers import Interrupted
from tests.work import HANGS_AFTER

STEP_ERRORS = (RetrievalError, RewardError, Interrupted)
"""What a step of a valid action may raise: the documented errors, and the retriever's own."""


class Budget:
    """Counts what a case did; ``steps`` are steps of one row, of which ``limit`` are allowed."""

    def __init__(self, limit: int, counts: Counter[str]) -> None:
        self.left, self.counts = limit, counts

    def spend(self, steps: int = 1) -> None:
        """Count some steps."""
        self.left -= steps
        self.counts["steps"] += steps

    def saw(self, transcript: Transcript) -> None:
        """Count a finished episode."""
        stop = transcript.stop_reason
        assert stop is not None
        self.counts["episodes"] += 1
        self.counts[f"ended by {stop.value}"] += 1
        self.counts["searches"] += len(transcript.searches)
        self.counts["answers"] += transcript.answer is not None
        for fault in transcript.faults:
            self.counts[f"fault {fault.kind.value}"] += 1


def require_same(got: Any, expected: Any, what: str) -> None:
    """Raise AssertionError with the first difference, numbers by value and not by type."""
    difference = first_difference(plain(got), plain(expected))
    assert not difference, f"{what}: {difference}"


def without_messages(info: dict[str, Any]) -> dict[str, Any]:
    """Return an info whose error text, which names the call, is replaced."""
    if "final_info" in info:
        info = {**info, "final_info": without_messages(info["final_info"])}
    return {k: "" if k == "retrieval_error" else v for k, v in info.items()}


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Check that no thread that a block started outlives it."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(HANGS_AFTER)
        assert not thread.is_alive(), f"left after close(): {thread}"


class Watched:
    """A single environment's episode beside the model of it."""

    def __init__(self, env: SearchQAEnv, budget: Budget) -> None:
        self.env, self._budget = env, budget
        self.model: Model | None = None
        self.question: Question | None = None

    def began(self, observation: dict[str, Any], info: dict[str, Any]) -> None:
        """Check the first observation, and take the prompt from it."""
        self.question = self.env.transcript().question
        length = int(observation["length"])
        prompt = observation["tokens"][:length].tolist()
        text = "".join(t for t, _ in self.env.protocol.prompt_pieces(self.question.text, "base"))
        encoded = self.env.tokenizer.encode(text)
        assert prompt[-len(encoded) :] == encoded.tolist(), "the prompt is not the protocol's"
        self.model = Model(self.env.protocol, self.env.tokenizer, prompt)
        self._check_observation(observation)
        assert info["question_id"] == self.question.id
        assert (info["num_searches"], info["stop_reason"]) == (0, "")

    def wrote(self, token: int, find: Callable[[str], Any]) -> str:
        """Tell the model of an action; return the query that it closed, or "".

        ``find`` returns the query's documents, or None where the search fails.
        """
        assert self.model is not None
        self.model.write(token)
        if self.model.pending is None:
            return ""
        query = self.model.pending[0]
        documents = find(query)
        if documents is None:
            self.model.failed()
        else:
            self.model.found(documents)
        return query

    def check(self, result: tuple[Any, ...], query: str, faults: int, reward: str) -> None:
        """Check the result of a step that did not raise, given the faults before it."""
        observation, paid, terminated, truncated, info = result
        model = self.model
        assert model is not None
        self._check_observation(observation)
        assert info["num_searches"] == model.num_searches
        stop = model.stop
        assert info["stop_reason"] == ("" if stop is None else stop.value)
        assert (terminated, truncated) == (
            (False, False) if stop is None else (stop.terminated, not stop.terminated)
        )
        assert info.get("query", "") == query
        assert info.get("format_faults", []) == model.faults[faults:]
        transcript = self.env.transcript()
        if terminated or truncated or self._budget.left % 16 == 0:
            self._check_transcript(transcript)
        if stop is None:
            assert paid == 0.0
            assert "valid" not in info
            return
        assert info["valid"] == stop.valid
        assert info["answer"] == (transcript.answer or "")
        expected = get_reward(reward)(transcript) if stop.valid else None
        assert paid == (0.0 if expected is None else expected.total)
        assert info.get("reward_parts") == (None if expected is None else expected.parts)

    def _check_observation(self, observation: dict[str, Any]) -> None:
        env, model = self.env, self.model
        assert model is not None
        assert observation in env.observation_space
        length = len(model.tokens)
        assert length <= env.protocol.max_tokens
        assert observation["length"] == length
        tokens, sources = observation["tokens"], observation["sources"]
        assert tokens[:length].tolist() == model.tokens, "tokens"
        assert sources[:length].tolist() == model.sources, "sources"
        assert not tokens[length:].any()
        assert not sources[length:].any()

    def _check_transcript(self, transcript: Transcript) -> None:
        model = self.model
        assert model is not None
        assert list(transcript.events) == model.events, (
            f"events: {transcript.events}\nand of the model: {model.events}"
        )
        assert transcript.tokens.tolist() == model.tokens
        assert transcript.num_policy_tokens == model.policy_tokens
        assert transcript.question == self.question
        for search in transcript.searches:
            block = transcript.sources[search.start : search.end]
            assert (block == Source.RETRIEVED).all()
        limits = self.env.protocol
        if limits.max_searches is not None:
            assert len(transcript.searches) <= limits.max_searches
        if limits.max_policy_tokens is not None:
            assert transcript.num_policy_tokens <= limits.max_policy_tokens


def caught(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Return the result of a call, or the documented error that it raised."""
    try:
        return call(), None
    except STEP_ERRORS as error:
        return None, error


def copied(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a copy of a result whose observations and infos may be views."""
    copy_: tuple[Any, ...] = copy.deepcopy(result)
    return copy_


def close_twice(env: Any) -> None:
    """Close an environment, and once more."""
    env.close()
    with suppress(AssertionError):  # Gymnasium's own wrappers may refuse
        env.close()
