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
from numpy.typing import NDArray

from agents.baselines import ScriptedAgent
from agents.trajectories import Example
from search_env.env import SearchQAEnv
from search_env.moves import answer_text, is_thinking, query_text
from search_env.tokenizer import Tokenizer
from search_env.types import Document, Hop, Source

Tokens = NDArray[np.int32]
Sources = NDArray[np.int8]

_JUDGED = ("comparison", "composition")  # whose last step weighs answers instead of reading one


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


def reading_examples(env: SearchQAEnv, index: int, context_weight: float) -> Iterator[Example]:
    """Yield one reading card for each hop of a question: query, what it finds, the hop's answer.

    A card has neither prompt nor question, so it teaches to read and copy and nothing else. Hops
    that compare earlier answers have no card.

    Args:
        env: Plays the searches.
        index: Of the question.
        context_weight: Weight of the documents' tokens; the policy's have 1.
    """
    question = env.questions[index]
    for hop in question.hops:
        if hop is question.hops[-1] and question.kind.startswith(_JUDGED):
            continue
        tokens, sources = _play(env, index, [hop], hop.answer)
        card = sources != Source.PROMPT
        weights = np.where(sources == Source.POLICY, 1.0, context_weight).astype(np.float32)
        yield Example(tokens[card], weights[card])


def oracle_example(env: SearchQAEnv, index: int, *, decisions: bool = True) -> Example:
    """Return the episode that searches for each hop in turn and answers right.

    Args:
        env: Plays it.
        index: Of the question.
        decisions: Whether the tokens that decide between searching and answering count.
    """
    question = env.questions[index]
    tokens, sources = _play(env, index, question.hops, question.answers[0])
    weights = (sources == Source.POLICY).astype(np.float32)
    if not decisions:
        length = _decision_tokens(env)
        for start in _turns(sources):
            weights[start : start + length] = 0.0
    return Example(tokens, weights)


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
    of the same kind. Otherwise it searches for the first hop and, after each search, for the next
    with probability ``go_on_rate``; what it found last is its answer.

    Args:
        env: Plays it.
        index: Of the question.
        random: Draws all this.
        search_rate: Probability of a first search.
        go_on_rate: Probability of each further one.
    """
    question = env.questions[index]
    if random.random() >= search_rate:
        alike = [other for other in env.questions if other.kind == question.kind]
        wrong = alike[int(random.integers(len(alike)))].answers[0]
        return _imitated(*_play(env, index, (), wrong))
    done = 1
    while done < len(question.hops) and random.random() < go_on_rate:
        done += 1
    last = question.hops[done - 1].answer
    answer = question.answers[0] if done == len(question.hops) else last
    return _imitated(*_play(env, index, question.hops[:done], answer))


def _imitated(tokens: Tokens, sources: Sources) -> Example:
    return Example(tokens, (sources == Source.POLICY).astype(np.float32))


def _play(env: SearchQAEnv, index: int, hops: Sequence[Hop], answer: str) -> tuple[Tokens, Sources]:
    """Return tokens and sources of the episode that makes these searches and gives this answer."""

    def script(env: SearchQAEnv) -> Iterator[str]:
        for hop in hops:
            yield query_text(env.protocol, hop.query)
        thinking = is_thinking(env.protocol, env.transcript())
        yield answer_text(env.protocol, answer, thinking=thinking)

    agent = ScriptedAgent(script)
    observation, _ = env.reset(options={"index": index})
    agent.begin(env, observation)
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(agent.act(observation))
        over = terminated or truncated
    length = int(observation["length"])
    return observation["tokens"][:length], observation["sources"][:length]


def _turns(sources: Sources) -> NDArray[np.intp]:
    """Return where the policy begins to write: after the prompt and after each insertion."""
    policy = sources == Source.POLICY
    return np.flatnonzero(policy & ~np.concatenate(([False], policy[:-1])))


def _decision_tokens(env: SearchQAEnv) -> int:
    """Return how many ids of a turn it takes to know a query from an answer; resets ``env``."""
    env.reset(options={"index": 0})
    thinking = is_thinking(env.protocol, env.transcript())
    query = env.tokenizer.encode(query_text(env.protocol, "x")).tolist()
    answer = env.tokenizer.encode(answer_text(env.protocol, "x", thinking=thinking)).tolist()
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(query, answer, strict=False))
    return len(list(same)) + 1
