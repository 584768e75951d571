"""Demonstrations from the procedural world: articles, reading cards, episodes.

A demonstration teaches two things, which are kept apart here. *How* to search: the words of a
query, the span copied from a document. *Whether* to search: the one token after the prompt or after
documents that opens a query tag or closes the thought, the **decision**. With zero weight on the
decisions, a model learns what it will seldom do: the state of a base model before reinforcement
learning.

Episodes that search write thoughts: first the steps, in the words of their queries, then after each
search the query again and its result, and optionally the remaining steps. The text that a choice
depends on is thereby next to it, which a small model can learn. Scripts play them in the
environment, so tokens and sources are those of rollouts; randomness is the caller's generator.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_env.agents.baselines.scripted import ScriptedAgent
from search_env.agents.types import Example
from search_env.core.document_block import DocumentBlockWriter
from search_env.envs.search_qa import SearchQAEnv
from search_env.protocols.grammar import open_thoughts
from search_env.protocols.tagged_text import close_thoughts
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Document, Hop, Question, Source, TagRole

_CARD_TOKENS = 2048
_CARD_QUESTIONS = 12
_CONTEXT_WEIGHT = 0.02
Decisions = Literal["all", "later", "none"]

TAGS = 0.1
"""Default weight of the tags' tokens, which are easy and many."""


def article_examples(
    documents: Sequence[Document], tokenizer: Tokenizer, length: int
) -> Iterator[Example]:
    """Yield articles one after the other, cut into windows of ``length``; every token counts.

    An end-of-sequence id separates articles; a shorter last window is left out.
    """
    buffer: list[int] = []
    end = min(tokenizer.eos_ids, default=0)
    for document in documents:
        buffer += [*tokenizer.encode(f"{document.title}   {document.text}").tolist(), end]
        while len(buffer) >= length:
            window, buffer = buffer[:length], buffer[length:]
            yield Example(np.array(window, np.int32), np.ones(length, np.float32))


def copying_examples(
    random: np.random.Generator, count: int, length: int, vocabulary: int
) -> Iterator[Example]:
    """Yield random ids in which spans are repeated; a repeated span counts from its third token on.

    The quickest way to train heads that copy: only the repetition can be learnt. Spans have 4 to 24
    tokens, ids lie below ``vocabulary``.
    """
    for _ in range(count):
        tokens = random.integers(1, vocabulary, length, dtype=np.int32)
        weights = np.zeros(length, np.float32)
        at = int(random.integers(8, length // 2))
        while at < length - 4:
            source = int(random.integers(0, at - 3))
            span = min(int(random.integers(4, 25)), length - at, at - source)
            tokens[at : at + span] = tokens[source : source + span]
            weights[at + 2 : at + span] = 1.0
            at += span + int(random.integers(0, 6))
        yield Example(tokens, weights)


def reading_examples(
    env: SearchQAEnv, lookups: Sequence[Question], random: np.random.Generator, documents: int
) -> Iterator[Example]:
    """Yield reading cards without end: documents of a search, then questions on them and answers.

    A card has no prompt: it teaches to find a sentence and copy from it, but not when to do so.
    Half of them ask in words, half in the keywords that a thought repeats. The first two tokens of
    an answer, which locate the copy, have weight 3; questions and documents a small one.
    ``lookups`` have one hop; those on one document share a card. The first of the ``documents`` of
    a card is the one that was searched for.
    """
    about: dict[str, list[Question]] = {}
    for question in lookups:
        about.setdefault(question.supporting[0], []).append(question)
    writer, encode = DocumentBlockWriter(env.protocol, env.tokenizer), env.tokenizer.encode
    while True:
        query = lookups[int(random.integers(len(lookups)))].hops[0].query
        results = env.retriever.search([query], env.protocol.top_k)[0][:documents]
        block = writer.write(results, _CARD_TOKENS)
        if block is None:  # cannot happen with this limit
            continue
        questions = [question for document in results for question in about.get(document.id, ())]
        pieces, weights = [block], [np.full(len(block), _CONTEXT_WEIGHT)]
        in_words = random.random() < 0.5
        for index in random.permutation(len(questions))[:_CARD_QUESTIONS]:
            question, hop = questions[index], questions[index].hops[0]
            prompt = encode(f"{question.text}\n<answer>" if in_words else f" {hop.query}:")
            answer = encode(f" {question.answers[0]} </answer>\n" if in_words else result_text(hop))
            pieces += [prompt, answer]
            weights += [np.full(len(prompt), _CONTEXT_WEIGHT), np.ones(len(answer))]
            weights[-1][:2] = 3.0
        yield Example(np.concatenate(pieces), np.concatenate(weights).astype(np.float32))


def oracle_example(
    env: SearchQAEnv,
    index: int,
    *,
    decisions: Decisions = "all",
    tags: float = TAGS,
    recounts: bool = True,
) -> Example:
    """Return the episode that searches for each hop in turn and gives the right answer.

    ``decisions`` says which tokens that decide between searching and answering have weight (all,
    those after a search, or none), ``tags`` is the weight of the tags' tokens, and with
    ``recounts`` the remaining steps are repeated after each search.
    """
    question = env.questions[index]
    pieces = partial(_pieces, env, len(question.hops), question.answers[0], recounts)
    return _example(env, index, pieces, decisions=decisions, tags=tags)


def search_opening(env: SearchQAEnv, questions: int = 16) -> NDArray[np.int32]:
    """Return the ids that every episode of the oracle begins with: the policy's first ones.

    Forced to write them (:class:`~search_env.agents.inference.opening.OpeningEngine`), a policy
    has decided to search, but not for what. The first ``questions`` of the environment are played.
    """
    openings = []
    for index in range(min(questions, len(env.questions))):
        example = oracle_example(env, index, tags=1.0)
        openings.append(example.tokens[example.weights > 0])
    shortest = min(map(len, openings))
    alike = np.all([opening[:shortest] == openings[0][:shortest] for opening in openings], axis=0)
    return openings[0][: shortest if alike.all() else int(alike.argmin())]


def hasty_example(
    env: SearchQAEnv,
    index: int,
    random: np.random.Generator,
    *,
    search_rate: float,
    go_on_rate: float,
    tags: float = TAGS,
    guesses: float = 0.1,
    recounts: bool = True,
) -> Example:
    """Return an episode that seldom searches and soon stops.

    With probability ``1 - search_rate`` it answers at once, with the answer of another question of
    the same kind. Otherwise it searches for the first hop and, after each search, for the next with
    probability ``go_on_rate``; its answer is the last result.

    ``guesses`` is a factor of all weights after the decision not to search: a guess cannot be
    learnt, only the form of its ending. ``tags`` and ``recounts`` as in :func:`oracle_example`.
    """
    question = env.questions[index]
    if random.random() >= search_rate:
        alike = [other for other in env.questions if other.kind == question.kind]
        guess = alike[int(random.integers(len(alike)))].answers[0]
        pieces = partial(_pieces, env, 0, guess, False)
        return _example(env, index, pieces, tags=tags, content=guesses)
    done = hops_done(question, random, go_on_rate)
    pieces = partial(_pieces, env, done, _answer_after(question, done), recounts)
    return _example(env, index, pieces, tags=tags)


def thinking_example(
    env: SearchQAEnv,
    index: int,
    *,
    searches: int | None = None,
    decisions: Decisions = "none",
    tags: float = TAGS,
    recounts: bool = True,
) -> Example:
    """Return an oracle's episode without the documents.

    It teaches steps, queries and the answer that follows from the results, with a fifth of an
    episode's tokens. The results are part of the text and have no weight. After ``searches`` hops,
    the last result is the answer; None for all hops and the right answer. ``decisions``, ``tags``
    and ``recounts`` as in :func:`oracle_example`.
    """
    question = env.questions[index]
    env.reset(options={"index": index})
    prompt = env.transcript().tokens
    done = len(question.hops) if searches is None else searches
    pieces = _pieces(env, done, _answer_after(question, done), recounts)
    results = {result_text(hop) for hop in question.hops}
    tokens = [prompt, *(env.tokenizer.encode(piece.text) for piece in pieces)]
    weights = [np.zeros(len(prompt))]
    for piece in pieces:
        weights.append(_weights(env, piece, tags=tags, decisions=decisions))
        if piece.text in results:
            weights[-1][:] = 0.0
    return Example(np.concatenate(tokens), np.concatenate(weights).astype(np.float32))


def hops_done(question: Question, random: np.random.Generator, go_on_rate: float) -> int:
    """Return a number of hops, at least 1, that goes on with this probability after each."""
    done = 1
    while done < len(question.hops) and random.random() < go_on_rate:
        done += 1
    return done


def _answer_after(question: Question, done: int) -> str:
    """Return the answer that follows from so many hops."""
    return question.answers[0] if done == len(question.hops) else question.hops[done - 1].answer


def _example(
    env: SearchQAEnv,
    index: int,
    script: Callable[[], list[_Piece]],
    *,
    tags: float,
    decisions: Decisions = "all",
    content: float = 1.0,
) -> Example:
    """Return the episode of a script, called after the reset; ``content``: factor of weights."""
    observation, _ = env.reset(options={"index": index})
    pieces = script()
    agent = ScriptedAgent(lambda env: (piece.text for piece in pieces))
    agent.begin(env, observation)
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(agent.act(observation))
        over = terminated or truncated
    written = [
        _weights(env, piece, tags=tags, decisions=decisions, content=content) for piece in pieces
    ]
    transcript = env.transcript()
    policy = transcript.sources == Source.POLICY
    example = np.zeros(len(policy), np.float32)
    example[policy] = np.concatenate(written)[: np.count_nonzero(policy)]
    return Example(transcript.tokens.copy(), example)


class _Piece(NamedTuple):
    """A piece of a script's text."""

    text: str
    is_tag: bool = False  # it consists of tags
    copied: bool = False  # its first two tokens, which locate the copy, weigh more
    decides: int = 0  # number of its first tokens that decide between searching and answering
    is_later: bool = False  # a search comes before it


def _weights(
    env: SearchQAEnv, piece: _Piece, *, tags: float, decisions: Decisions, content: float = 1.0
) -> NDArray[np.float64]:
    """Return the weights of a piece's tokens."""
    length = len(env.tokenizer.encode(piece.text))
    weights = np.full(length, content * (tags if piece.is_tag else 1.0))
    weights[: 2 * piece.copied] *= 3.0
    weights[: piece.decides] = decisions == "all" or (decisions == "later" and piece.is_later)
    return weights


def _pieces(env: SearchQAEnv, searches: int, answer: str, recounts: bool) -> list[_Piece]:
    """Return the policy's text for an episode that was just reset: searches and an answer."""
    transcript, protocol = env.transcript(), env.protocol
    hops = transcript.question.hops
    query, final = protocol.pair(TagRole.TOOL), protocol.pair(TagRole.ANSWER)
    head = close_thoughts(protocol, open_thoughts(transcript))
    opening, closing = query.open, head + final.open
    same = itertools.takewhile(
        lambda pair: pair[0] == pair[1],
        zip(*(env.tokenizer.encode(text).tolist() for text in (opening, closing)), strict=False),
    )
    decides = len(list(same)) + 1
    steps = list(hop_steps(hops))
    pieces = [_Piece(steps_text(steps), decides=1)] if searches else []
    for number, hop in enumerate(hops[:searches]):
        pieces += [
            _Piece(opening, is_tag=True, decides=decides if number else 0, is_later=True),
            _Piece(f" {hop.query}", copied=True),
            _Piece(f" {query.close}", is_tag=True),
            _Piece(f" {hop.query}:", copied=True),
            _Piece(result_text(hop), copied=True),
        ]
        if recounts:
            pieces.append(_Piece(steps_text(steps[number + 1 :])))
    return [
        *pieces,
        _Piece(closing, is_tag=True, decides=decides if searches else 1, is_later=searches > 0),
        _Piece(f" {answer}", copied=True),
        _Piece(f" {final.close}", is_tag=True),
    ]


def hop_steps(hops: Sequence[Hop]) -> Iterator[str]:
    """Yield the step of each hop: its query without the names that only earlier hops give."""
    earlier: list[str] = []
    for hop in hops:
        step = hop.query
        for name in earlier:
            step = step.replace(name, "")
        yield " ".join(step.split()) or hop.query
        earlier.append(hop.answer)


def steps_text(steps: Sequence[str]) -> str:
    """Return the line of a thought that has the steps that are left."""
    return f" Steps: {'; '.join(steps) or 'none'}.\n"


def result_text(hop: Hop) -> str:
    """Return the end of the line that reads a hop's result, after its query and a colon."""
    return f" {hop.answer}.\n"
