"""Episodes for the tests of rewards: played by the environment's own rules, or made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from search_env.core.dynamics import Dynamics
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.registry import get_protocol
from search_env.retrieval.base import FakeRetriever, Retriever
from search_env.tokens.tag_automaton import load_tag_automaton
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from search_env.types import Document, Question, Source, Transcript

BYTE = load_tokenizer("byte")
EOS = 256
B, E = "<|begin_of_query|>", "<|end_of_query|>"
QUESTION = Question(
    "q1", "Who wrote the first program?", ("Ada Lovelace", "Ada King"), supporting=("d1", "d2")
)
DOCUMENT = Document("d1", "Engine", "Notes on the engine are by Ada Lovelace.")
SECOND = Document("d2", "Countess", "Lovelace was a countess.")
COACH = Document("d3", "Coach", "An assistant coach.")
FOUND = FakeRetriever({"engine": [DOCUMENT], "countess": [SECOND], "coach": [COACH]})


def play(
    *pieces: str | int,
    question: Question = QUESTION,
    retriever: Retriever = FOUND,
    protocol: str = "r1-searcher",
    tokenizer: Tokenizer = BYTE,
    **limits: int | None,
) -> Transcript:
    """Return the transcript of an episode in which the policy writes this (ints are ids)."""
    rules = dataclasses.replace(get_protocol(protocol), **limits)
    automaton = load_tag_automaton(tokenizer, rules.tag_texts)
    dynamics = Dynamics(rules, tokenizer, automaton=automaton)
    dynamics.begin(0, question)
    for token in ids_of(pieces, tokenizer):
        if dynamics.episodes[0].stop_reason is not None:
            break
        for query in dynamics.append(slice(None), np.array([token])):
            (documents,) = retriever.search([query.text], rules.top_k)
            dynamics.insert_documents(0, documents)
    return dynamics.transcript(0)


def ids_of(pieces: Sequence[str | int], tokenizer: Tokenizer) -> list[int]:
    return [
        token
        for piece in pieces
        for token in ([piece] if isinstance(piece, int) else tokenizer.encode(piece).tolist())
    ]


def by_hand(text: str, question: Question = QUESTION) -> Transcript:
    """Return a transcript with this text after the prompt, all the policy's, and no events."""
    prompt, written = BYTE.encode("? <think>"), BYTE.encode(text)
    sources = [Source.PROMPT] * len(prompt) + [Source.POLICY] * len(written)
    return Transcript(
        question,
        "r1-searcher",
        np.concatenate([prompt, written]),
        np.array(sources, np.int8),
        (),
        decode=BYTE.decode,
        markup=R1_SEARCHER.markup,
    )


def policy_texts(*pieces: str) -> st.SearchStrategy[str]:
    """Return texts of a policy that searches, answers and breaks rules with these pieces."""
    clean = ["I think. ", f"{B}engine{E}", f"{B}unknown{E}", f"{B}", "</think><answer>x</answer>"]
    return st.lists(st.sampled_from([*clean, *pieces]), max_size=8).map("".join)
