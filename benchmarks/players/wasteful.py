"""Wasteful oracles: right episodes and right chains of thought with more in them than they need.

They write the thoughts of :mod:`search_env.agents.imitation.demonstrations`, a line a step. After
each hop they may go astray: search again for what they know, search for what nobody asked, or
doubt what they have read. The oracle that goes on from any point of such an episode
(:class:`OracleContinuation`) needs one search for each hop that is left.

Chains of thought have notes in front of them, what the hops of the question and of others found,
and search for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from search_env.agents.baselines.scripted import ScriptedAgent
from search_env.agents.imitation.demonstrations import hop_steps, result_text, steps_text
from search_env.envs.search_qa import SearchQAEnv
from search_env.metrics.answers import exact_match
from search_env.protocols.grammar import open_thoughts
from search_env.protocols.tagged_text import answer_text, query_text
from search_env.recording.revise.playback import Playback
from search_env.recording.revise.retro_search import Branch
from search_env.recording.revise.steps import plain_trace
from search_env.types import Hop, Question, TagRole, Transcript

OTHERS = 3
"""Questions whose hops are among the notes of a chain of thought, beside its own."""
DOUBTS = ("Wait", "Hmm", "However")
"""What a doubt begins with; transition keywords."""


@dataclass(frozen=True, slots=True)
class Waste:
    """How often an oracle goes astray after a hop: shares of 1, and most times for each hop."""

    repeat: float = 0.25  # searches once more for what it has read
    extra: float = 0.25  # searches for a hop of another question
    doubt: float = 0.1  # reads once more
    most: int = 2

    def draw(self, random: np.random.Generator) -> Iterator[str]:
        """Yield the detours after a hop, by name."""
        shares = [self.repeat, self.extra, self.doubt]
        kinds = ["repeat", "extra", "doubt", ""]
        for _ in range(self.most):
            kind = str(random.choice(kinds, p=[*shares, 1.0 - sum(shares)]))
            if not kind:
                return
            yield kind


def wasteful_episode(
    env: SearchQAEnv, index: int, random: np.random.Generator, waste: Waste
) -> Transcript:
    """Return a right episode on a question, with detours."""
    return play(env, index, wasteful_pieces(env, env.questions[index], random, waste))


def wasteful_pieces(
    env: SearchQAEnv, question: Question, random: np.random.Generator, waste: Waste
) -> Iterator[str]:
    """Yield the text of a wasteful episode."""
    hops, steps = question.hops, list(hop_steps(question.hops))
    yield steps_text(steps)
    for number, hop in enumerate(hops):
        reading, left = read_text(hop), steps_text(steps[number + 1 :])
        yield query_text(env.protocol, hop.query)
        yield reading + left
        for kind in waste.draw(random):
            if kind == "repeat":
                yield query_text(env.protocol, hop.query)
                yield reading + left
            elif kind == "extra":
                other = env.questions[int(random.integers(len(env.questions)))]
                yield query_text(env.protocol, other.hops[0].query)
                yield left
            else:
                yield f" {random.choice(DOUBTS)},{reading}{left}"
    yield answer_text(env.protocol, question.answers[0], thoughts=open_thoughts(env.transcript()))


def play(env: SearchQAEnv, index: int, pieces: Iterator[str]) -> Transcript:
    """Return the episode of a text on a question."""
    env.reset(options={"index": index})
    return _write(env, pieces)


def _write(env: SearchQAEnv, pieces: Iterator[str]) -> Transcript:
    agent, over = ScriptedAgent(lambda _: pieces), False
    agent.begin(env, {})
    while not over:
        _, _, terminated, truncated, _ = env.step(agent.act({}))
        over = terminated or truncated
    return env.transcript()


def read_text(hop: Hop) -> str:
    """Return the line that reads a hop's result."""
    return f" {hop.query}:{result_text(hop)}"


class OracleContinuation:
    """A reviser that knows the hops: it reads, searches for those that are left, and answers.

    It is honest: what it did not search for it does not know, so that without leave to search it
    answers with the last result. Where a search is forbidden in the next step, it first repeats
    what is left to do.
    """

    def __init__(self, env: SearchQAEnv) -> None:
        self._env, self._playback = env, Playback(env)

    def __call__(self, branch: Branch, count: int) -> list[Transcript]:
        """Return roll-outs of a branch, all alike; a ``Sample`` of Retro-Search."""
        env = self._env
        env.set_state(self._playback.state(branch.trace, branch.position))
        return [_write(env, self._pieces(branch))] * count

    def _pieces(self, branch: Branch) -> Iterator[str]:
        env = self._env
        before = env.transcript()
        hops = before.question.hops
        searched = [search.query for search in before.searches]
        clean = env.protocol.clean_query
        left = [n for n, hop in enumerate(hops) if clean(hop.query) not in searched]
        steps = list(hop_steps(hops))
        last = next((hop for hop in hops if searched and clean(hop.query) == searched[-1]), None)
        if before.searches and before.searches[-1].end == len(before.tokens):
            yield (read_text(last) if last else "") + steps_text([steps[n] for n in left])
        elif branch.ban.tags and left:
            yield steps_text([steps[n] for n in left])
        if not branch.ban.for_good:
            for number, place in enumerate(left):
                yield query_text(env.protocol, hops[place].query)
                yield read_text(hops[place]) + steps_text([steps[n] for n in left[number + 1 :]])
            left = []
        known = hops[left[0] - 1].answer if left and left[0] else "unknown"
        answer = known if left else before.question.answers[0]
        yield answer_text(env.protocol, answer, thoughts=open_thoughts(env.transcript()))


# Chains of thought without searches.


def chain_prompt(env: SearchQAEnv, index: int, random: np.random.Generator) -> list[int]:
    """Return the ids of a question's prompt with notes: what its hops and those of others found."""
    env.reset(options={"index": index})
    prompt = env.transcript().tokens
    others = [env.questions[int(random.integers(len(env.questions)))] for _ in range(OTHERS)]
    hops = [hop for question in (env.questions[index], *others) for hop in question.hops]
    notes = list(dict.fromkeys(map(read_text, hops)))
    shuffled = "".join(notes[place] for place in random.permutation(len(notes)))
    return [*prompt.tolist(), *env.tokenizer.encode(f"\n{shuffled}").tolist()]


def chain_text(
    env: SearchQAEnv, question: Question, random: np.random.Generator, waste: Waste
) -> str:
    """Return a right chain of thought: the note of each hop, with detours, and the answer."""
    hops, steps = question.hops, list(hop_steps(question.hops))
    text = steps_text(steps)
    for number, hop in enumerate(hops):
        reading, left = read_text(hop), steps_text(steps[number + 1 :])
        text += reading + left
        for kind in waste.draw(random):
            again = hops[int(random.integers(number + 1))] if kind == "extra" else hop
            text += f" {random.choice(DOUBTS)},{read_text(again)}{left}"
    return text + answer_text(env.protocol, question.answers[0], thoughts=["think"])


def wasteful_chain(
    env: SearchQAEnv, index: int, random: np.random.Generator, waste: Waste
) -> Transcript:
    """Return a right chain of thought on a question, with detours, as a plain trace."""
    question = env.questions[index]
    prompt = chain_prompt(env, index, random)
    text = chain_text(env, question, random, waste)
    return plain_trace(env.tokenizer, prompt, text, question.answers[0], id=question.id)


def chain_is_right(env: SearchQAEnv) -> ChainVerifier:
    """Return the verifier of chains: the text in the answer's tags equals the gold answer."""
    pair = env.protocol.pair(TagRole.ANSWER)
    return ChainVerifier(pair.open, pair.close)


@dataclass(frozen=True, slots=True)
class ChainVerifier:
    """Says whether a chain of thought ends with the right answer in these tags."""

    opening: str
    closing: str

    def __call__(self, chain: Transcript) -> bool:
        """Return whether it does."""
        return exact_match(self.answer(chain), chain.question.answers) == 1.0

    def answer(self, chain: Transcript) -> str | None:
        """Return the answer, None where the chain does not end with one."""
        text = chain.decode(chain.tokens[-64:]).rstrip()
        before, opening, answer = text.removesuffix(self.closing).rpartition(self.opening)
        del before
        return answer.strip() if opening and text.endswith(self.closing) else None


def mean_searches(episodes: Sequence[Transcript]) -> float:
    """Return the mean number of searches."""
    return float(np.mean([len(episode.searches) for episode in episodes]))


def mean_hops(episodes: Sequence[Transcript]) -> float:
    """Return the mean number of hops of the episodes' questions."""
    return float(np.mean([len(episode.question.hops) for episode in episodes]))
