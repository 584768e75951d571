"""Texts to imitate, made from the procedural world: articles, reading cards, episodes.

What a demonstration teaches is two things that are kept apart here. *How* to search is the words of
a query, the span copied from a document. *Whether* to search is the one token after the prompt or
after documents that opens a query tag or else closes the thought: the **decision**. Weights on the
policy's tokens can leave the decisions out, so that a model can be able to do what it seldom does:
the state in which reinforcement learning finds a base model.

Episodes are played in the environment by scripts, so that tokens and sources are those of rollouts.
Nothing here is drawn at random but what the caller's generator draws.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from agents.baselines import Script, ScriptedAgent
from agents.trajectories import Example
from search_env.blocks import BlockWriter
from search_env.env import SearchQAEnv
from search_env.moves import answer_text, is_thinking, query_text
from search_env.tokenizer import Tokenizer
from search_env.types import Document, Hop, Question, Source, Tag, TagWritten

_CARD_TOKENS = 2048
_CARD_QUESTIONS = 12
_CONTEXT_WEIGHT = 0.02
_TAG_WEIGHT = 0.1
_OPENING = (Tag.QUERY_OPEN, Tag.ANSWER_OPEN)
_CLOSING = (Tag.QUERY_CLOSE, Tag.ANSWER_CLOSE)


def article_examples(
    documents: Sequence[Document], tokenizer: Tokenizer, length: int
) -> Iterator[Example]:
    """Yield articles one after the other, cut into windows; every token counts.

    Args:
        documents: In the order in which they are read.
        tokenizer: Writes them, an end-of-sequence id between two.
        length: Tokens a window; the last one, if it is shorter, is left out.
    """
    held: list[int] = []
    end = min(tokenizer.eos_ids, default=0)
    for document in documents:
        held += [*tokenizer.encode(f"{document.title}   {document.text}").tolist(), end]
        while len(held) >= length:
            window, held = held[:length], held[length:]
            yield Example(np.array(window, np.int32), np.ones(length, np.float32))


def copying_examples(
    random: np.random.Generator, count: int, length: int, vocabulary: int
) -> Iterator[Example]:
    """Yield random ids in which spans come back; a span's tokens count from its third on.

    The quickest way to heads that copy: nothing but the repetition can be learnt from it.

    Args:
        random: Draws ids and spans of 4 to 24 tokens.
        count: Number of examples.
        length: Tokens of each.
        vocabulary: Ids are drawn below this.
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
    """Yield reading cards without end: what a search found, then questions on it and answers.

    A card has no prompt and no query: it teaches to find a sentence and copy from it, and nothing
    of when to do so. The first two tokens of an answer, which say where the copy begins, count
    three times; questions and documents a little.

    Args:
        env: Finds and writes the documents.
        lookups: Questions of one hop; those on one document are asked together.
        random: Draws the cards.
        documents: How many a card shows; the first is the one that was searched for.
    """
    about: dict[str, list[Question]] = {}
    for question in lookups:
        about.setdefault(question.supporting[0], []).append(question)
    writer, encode = BlockWriter(env.protocol, env.tokenizer), env.tokenizer.encode
    while True:
        query = lookups[int(random.integers(len(lookups)))].hops[0].query
        found = env.retriever.search([query], env.protocol.top_k)[0][:documents]
        block = writer.write(found, _CARD_TOKENS)
        if block is None:  # not with this limit
            continue
        asked = [question for document in found for question in about.get(document.id, ())]
        pieces, weights = [block], [np.full(len(block), _CONTEXT_WEIGHT)]
        for index in random.permutation(len(asked))[:_CARD_QUESTIONS]:
            question = encode(f"{asked[index].text}\n<answer>")
            answer = encode(f" {asked[index].answers[0]} </answer>\n")
            pieces += [question, answer]
            weights += [np.full(len(question), _CONTEXT_WEIGHT), np.ones(len(answer))]
            weights[-1][:2] = 3.0
        yield Example(np.concatenate(pieces), np.concatenate(weights).astype(np.float32))


def oracle_example(env: SearchQAEnv, index: int, *, decisions: bool = True) -> Example:
    """Return the episode that searches for each hop in turn and answers right.

    Args:
        env: Plays it.
        index: Of the question.
        decisions: Whether the tokens that decide between searching and answering count.
    """
    question = env.questions[index]
    return _example(env, index, question.hops, question.answers[0], decides=float(decisions))


def hasty_example(
    env: SearchQAEnv,
    index: int,
    random: np.random.Generator,
    *,
    search_rate: float,
    go_on_rate: float,
) -> Example:
    """Return an episode of somebody who seldom searches and soon stops.

    With probability ``1 - search_rate`` it answers at once, with the answer of another question
    of the same kind; that guess itself counts little. Otherwise it searches for the first hop and,
    after each search, for the next with probability ``go_on_rate``; what it found last is its
    answer.

    Args:
        env: Plays the episode.
        index: Of the question.
        random: Draws all this.
        search_rate: Probability of a first search.
        go_on_rate: Probability of each further one.
    """
    question = env.questions[index]
    if random.random() >= search_rate:
        alike = [other for other in env.questions if other.kind == question.kind]
        guess = alike[int(random.integers(len(alike)))].answers[0]
        return _example(env, index, (), guess, content=0.1)
    done = 1
    while done < len(question.hops) and random.random() < go_on_rate:
        done += 1
    last = question.hops[done - 1].answer
    answer = question.answers[0] if done == len(question.hops) else last
    return _example(env, index, question.hops[:done], answer)


def _example(
    env: SearchQAEnv,
    index: int,
    hops: Sequence[Hop],
    answer: str,
    *,
    decides: float = 1.0,
    content: float = 1.0,
) -> Example:
    """Return the episode that makes these searches and gives this answer.

    Tags are soon learnt and count little. What stands in them has weight ``content``, its first
    two tokens, which say where a copy begins, three times that; decisions have ``decides``.
    """
    decision = _decision_tokens(env)
    agent = ScriptedAgent(_script(hops, answer))
    observation, _ = env.reset(options={"index": index})
    agent.begin(env, observation)
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(agent.act(observation))
        over = terminated or truncated
    transcript = env.transcript()
    policy = transcript.sources == Source.POLICY
    weights = np.where(policy, _TAG_WEIGHT, 0.0).astype(np.float32)
    opened = 0
    for event in transcript.events:
        if isinstance(event, TagWritten) and event.tag in _OPENING:
            opened = event.position + 1
        elif isinstance(event, TagWritten) and event.tag in _CLOSING:
            closing = env.tokenizer.encode(f" {env.protocol.tags[event.tag]}")
            end = event.position + 1 - len(closing)
            weights[opened:end] = content
            weights[opened : min(opened + 2, end)] = 3.0 * content
    for start in np.flatnonzero(policy & ~np.concatenate(([False], policy[:-1]))):
        weights[start : start + decision] = decides
    return Example(transcript.tokens.copy(), weights)


def _script(hops: Sequence[Hop], answer: str) -> Script:
    def script(env: SearchQAEnv) -> Iterator[str]:
        for hop in hops:
            yield query_text(env.protocol, hop.query)
        thinking = is_thinking(env.protocol, env.transcript())
        yield answer_text(env.protocol, answer, thinking=thinking)

    return script


def _decision_tokens(env: SearchQAEnv) -> int:
    """Return how many ids of a turn it takes to know a query from an answer; resets ``env``."""
    env.reset(options={"index": 0})
    thinking = is_thinking(env.protocol, env.transcript())
    query = env.tokenizer.encode(query_text(env.protocol, "x")).tolist()
    answer = env.tokenizer.encode(answer_text(env.protocol, "x", thinking=thinking)).tolist()
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(query, answer, strict=False))
    return len(list(same)) + 1
