"""Finished episodes with every stop reason, for checks of rewards."""

from __future__ import annotations

import functools
from typing import Any

from search_env.envs.search_qa import SearchQAEnv
from search_env.retrieval.base import FakeRetriever
from search_env.tokens.tokenizer import END_OF_TEXT
from search_env.types import Transcript

PROTOCOLS = ("toy", "r1-searcher", "r1-searcher++", "search-r1")
"""The protocols of the sample episodes."""

_R1 = {"dataset": "toy", "protocol": "r1-searcher", "tokenizer": "byte"}
_PP = {"dataset": "toy", "protocol": "r1-searcher++", "tokenizer": "byte"}
_S1 = {"dataset": "toy", "protocol": "search-r1", "tokenizer": "byte"}
_TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy"}
_OPEN, _CLOSE = "<|begin_of_query|>", "<|end_of_query|>"

# Question 9 of the toy asks for key1 and key1; {gold} is replaced by its value.
_SCRIPTS: tuple[tuple[dict[str, Any], str], ...] = (
    # Answered: after a search, without one, wrongly, empty, with faults, in other tags.
    (_TOY, "<q>key1 key1 </q><a>{gold}</a>"),
    (_TOY, "<a>{gold}</a>"),
    (_TOY, "<q>key1 key1 </q><a>key1 </a>"),
    (_TOY, "<a></a>"),
    ({**_TOY, "max_tokens": 32}, "</q></a><q><q>key2 key1 </q><d><a>{gold}</a>"),
    (_R1, f"so {_OPEN}key1 key1{_CLOSE} so</think>\n\n<answer> {{gold}} </answer>"),
    (_R1, f"a {_OPEN}no hit{_CLOSE} b {_OPEN}key1 key1{_CLOSE}<answer>the {{gold}} or so</answer>"),
    (_PP, "<internal>so</internal><external>key1 key1</external>\\boxed{\\text{{gold}}}"),
    (_PP, "<internal>{gold} <document>(1) {gold}</document>\\boxed{ {gold} }"),
    (_S1, "<think>so</think><search>key1 key1</search><think>so</think><answer>{gold}</answer>"),
    (_S1, "</answer>again<answer>東京 \U0001f701</answer>"),
    # Ended otherwise, in the order of StopReason.
    (_TOY, "<q>key1 key1 </q>" + END_OF_TEXT),
    (_R1, "I do not know" + END_OF_TEXT),
    (_R1, f"{_OPEN}  {_CLOSE}"),
    ({**_TOY, "max_tokens": 8}, "<q>key1 key1 </q>"),
    ({**_R1, "max_tokens": 1500}, f"{_OPEN}key1 key1{_CLOSE}" * 50),
    ({**_TOY, "max_policy_tokens": 5}, "<q>key1 key1 </q><a>"),
    ({**_R1, "max_policy_tokens": 60}, f"{_OPEN}key1 key1{_CLOSE}</think><answer>{{gold}}"),
    ({**_S1, "max_policy_tokens": 40}, "<search>key1 key1</search><answer>{gold}"),
    (_R1, "x" * 512),
    ({**_TOY, "max_searches": 1}, "<q>key1 key1 </q>" * 2),
    ({**_R1, "max_searches": 1}, f"{_OPEN}key1 key1{_CLOSE}" * 2),
    (_S1, "<search>key1 key1</search>" * 5),
)


@functools.cache
def sample_episodes() -> tuple[Transcript, ...]:
    """Return short finished episodes of four protocols, with every valid stop reason.

    Example:
        >>> sorted({episode.stop_reason.value for episode in sample_episodes()})[:3]
        ['answered', 'end_of_sequence', 'format_fault']
    """
    return tuple(_play(arguments, script) for arguments, script in _SCRIPTS)


def failed_episode() -> Transcript:
    """Return an episode whose retrieval failed: it is invalid and must not be scored."""
    retriever = FakeRetriever(error=OSError("down"))
    arguments = {**_TOY, "retriever": retriever, "on_retrieval_error": "truncate"}
    return _play(arguments, "<q>key1 key1 </q>")


def _play(arguments: dict[str, Any], script: str) -> Transcript:
    """Write the text of a script until the episode ends."""
    env = SearchQAEnv(**arguments)
    env.reset(seed=0, options={"index": 9})
    gold = env.transcript().question.answers[0]
    ids = env.tokenizer.encode(script.removesuffix(END_OF_TEXT).replace("{gold}", gold)).tolist()
    for token in [*ids, *env.tokenizer.eos_ids]:
        *_, terminated, truncated, _ = env.step(token)
        if terminated or truncated:
            break
    return env.transcript()
