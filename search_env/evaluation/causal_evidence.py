"""Whether answers rest on what was retrieved: the same episodes again, with one fact swapped.

Each question is played twice with one seed: as it is, and with documents in which its gold answer
is replaced by the answer of another question of the same kind. An agent that reads gives the other
answer; one that knew, guessed or read the answer elsewhere does not. A right answer *rests on what
was retrieved* where the answer follows the swap.

The swap changes texts, not searches: the same documents are found. It needs no more than the
questions, so it works on generated worlds and on text alike; what it cannot see is an answer that
a document states in words that are not the gold answer's or an alias's.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import gymnasium as gym

from search_env.envs.search_qa import Observation, bare_env
from search_env.errors import ConfigurationError
from search_env.evaluation.agent import Agent
from search_env.evaluation.evaluate import EpisodeMeasures, evaluate
from search_env.metrics.answers import R1_SEARCHER, contains_words, exact_match
from search_env.metrics.golds_in_text import gold_spans, marked_parts, open_golds
from search_env.metrics.statistics import Interval, bootstrap_mean
from search_env.retrieval.base import Retriever
from search_env.types import Document, Question

FOLLOWS, UNCHANGED, OTHER = "follows", "unchanged", "other"
"""What an answer does under a swap: it becomes the new value, stays, or becomes something else."""

_CANDIDATES = 64  # questions that are compared for the one whose answer is taken


@dataclass(frozen=True, slots=True)
class Swap:
    """What is replaced in the documents of one question, and by what.

    Example:
        >>> Swap(("Ulm",), "Bonn").text("Born in Ulm.")
        'Born in Bonn.'
    """

    golds: tuple[str, ...]
    new: str

    def text(self, text: str) -> str:
        """Return a text with the new value in the place of each gold answer."""
        parts = marked_parts(text, gold_spans(text, self.golds))
        return "".join(self.new if place % 2 else part for place, part in enumerate(parts))


class SwappedDocuments:
    """A retriever whose documents state another answer.

    ``swap`` is that of the question that is being played; None changes nothing. Set it between
    episodes only: documents of one question must not change while it is played.
    """

    def __init__(self, retriever: Retriever, swap: Swap | None = None) -> None:
        self._retriever, self.swap = retriever, swap

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return the documents of the inner retriever, with the swap in titles and texts."""
        found = self._retriever.search(queries, k)
        swap = self.swap
        if swap is None:
            return found
        return [[_swapped(document, swap) for document in documents] for documents in found]


def _swapped(document: Document, swap: Swap) -> Document:
    title, text = swap.text(document.title), swap.text(document.text)
    return dataclasses.replace(document, title=title, text=text)


def plan_swaps(questions: Sequence[Question]) -> dict[str, Swap]:
    """Return the swap of each question, by its id; the same for the same questions.

    The new value is the gold answer of another question whose answer has the same form (words, a
    number, a date and so on) and, of the next 64 of these, whose last step asks in the most equal
    words. Neither of the two answers contains the other, and the new one stands nowhere in the
    question and its steps. Left out are questions without such a value, and answers that are not
    looked for in texts: yes, no, and those without words.

    Example:
        >>> first = Question("1", "Where was Ada born?", ("London",))
        >>> plan_swaps([first, Question("2", "Where was Emmy born?", ("Erlangen",))])["1"].new
        'Erlangen'
    """
    by_form: dict[str, list[Question]] = {}
    for question in questions:
        if open_golds(question.answers[:1]):
            by_form.setdefault(_form(question.answers[0]), []).append(question)
    swaps = {}
    for alike in by_form.values():
        words = [_asking_words(question) for question in alike]
        for place, question in enumerate(alike):
            new = _new_value(alike, words, place)
            if new is not None:
                swaps[question.id] = Swap(question.answers, new)
    return swaps


def _form(answer: str) -> str:
    """Return the form of an answer: its numbers and words, short or long ones alike.

    Example:
        >>> _form("Emmy Noether") == _form("Ulm"), _form("3 May 1882") == _form("14 March 1879")
        (True, True)
    """
    plain = R1_SEARCHER.normalize(answer)
    if not re.search(r"\d", plain):
        return "words"
    short = re.sub(r"\d+", lambda digits: "0000" if len(digits[0]) > 3 else "0", plain)
    return re.sub(r"[^\W\d]+", "w", short)


def _asking_words(question: Question) -> frozenset[str]:
    asked = question.hops[-1].query if question.hops else question.text
    return frozenset(R1_SEARCHER.normalize(asked).split())


def _new_value(
    alike: Sequence[Question], words: Sequence[frozenset[str]], place: int
) -> str | None:
    """Return the answer of another question of the same form, None where none can be told apart."""
    question = alike[place]
    taken = [question.text, *question.answers]
    taken += [text for hop in question.hops for text in (hop.query, hop.answer)]
    taken = [R1_SEARCHER.normalize(text) for text in taken]
    golds = open_golds(question.answers)

    def is_new(other: int) -> bool:
        value = R1_SEARCHER.normalize(alike[other].answers[0])
        return not any(contains_words(text, value) for text in taken) and not any(
            contains_words(value, gold) for gold in golds
        )

    after = ((place + step) % len(alike) for step in range(1, len(alike)))
    near = list(islice(filter(is_new, after), _CANDIDATES))
    best = max(near, key=lambda other: len(words[place] & words[other]), default=None)
    return None if best is None else alike[best].answers[0]


@dataclass(frozen=True, slots=True)
class SwapOutcome:
    """One question that was played both ways.

    Attributes:
        answer: The answer with the documents as they are, None where none was given.
        swapped_answer: The answer with the swapped ones.
        new: The value that these state.
        right: Exact match of ``answer``.
        outcome: :data:`FOLLOWS`, :data:`UNCHANGED` or :data:`OTHER`. An answer that stays what it
            was is unchanged, also where it is the new value.
    """

    question_id: str
    answer: str | None
    swapped_answer: str | None
    new: str
    right: bool
    outcome: str

    @property
    def rests(self) -> bool:
        """Whether the answer is right and rests on what was retrieved."""
        return self.right and self.outcome == FOLLOWS


@dataclass(frozen=True, slots=True)
class CausalEvidence:
    """What one agent's answers rest on; intervals are bootstraps over questions.

    Attributes:
        outcomes: One for each question that was played both ways.
        left_out: Number of questions without a swap, or with an episode that is not valid.
        exact_match: Share of right answers with the documents as they are.
        follows: Share of answers that change to the new value.
        unchanged: Share of answers that stay.
        other: Share of answers that become something else.
        rests: Share of the right answers that rest on what was retrieved; None where none is right.
    """

    outcomes: tuple[SwapOutcome, ...]
    left_out: int
    exact_match: Interval
    follows: Interval
    unchanged: Interval
    other: Interval
    rests: Interval | None


def causal_evidence(
    make_env: Callable[[Retriever | None], gym.Env[Observation, Any]],
    agent: Agent,
    questions: Iterable[int] | None = None,
    *,
    seed: int = 0,
) -> CausalEvidence:
    """Play questions twice, with and without their swap, and compare the answers.

    Args:
        make_env: Returns an environment with the given retriever, or with its own for None; both
            have the same questions.
        agent: Agent that plays every episode.
        questions: Indices into the environment's questions; None for all.
        seed: Seed of every episode's reset.

    Raises:
        ConfigurationError: No question has a swap, or as for
            :func:`~search_env.evaluation.evaluate.evaluate`.

    Example:
        >>> from search_env.agents.baselines.scripted import make_baseline
        >>> def toy(retriever):
        ...     return gym.make("SearchQA-Toy-v0", retriever=retriever)
        >>> causal_evidence(toy, make_baseline("oracle")).rests.mean  # it copies the gold answer
        0.0
    """
    env = make_env(None)
    bare = bare_env(env)
    swaps = plan_swaps(bare.questions)
    asked = list(range(len(bare.questions)) if questions is None else questions)
    plain = evaluate(env, agent, asked, seed=seed)
    documents = SwappedDocuments(bare.components.retriever)
    swapped_env = make_env(documents)
    pairs = []
    for index, record in zip(asked, plain, strict=True):
        documents.swap = swaps.get(record.question_id)
        if documents.swap is not None:
            (swapped,) = evaluate(swapped_env, agent, [index], seed=seed)
            pairs.append((record, swapped))
    return compare_swapped(pairs, swaps, asked=len(asked))


def compare_swapped(
    pairs: Iterable[tuple[EpisodeMeasures, EpisodeMeasures]],
    swaps: Mapping[str, Swap],
    *,
    asked: int,
) -> CausalEvidence:
    """Compare each question's episodes: with the documents as they are, and with swapped ones.

    Args:
        pairs: Both episodes of each question (and sample).
        swaps: The swaps by question.
        asked: Number of pairs that there would be if every question had a swap.

    Raises:
        ConfigurationError: There is no pair of valid episodes with a swap.
    """
    outcomes = tuple(_outcomes(pairs, swaps))
    if not outcomes:
        raise ConfigurationError(
            "Expected questions whose answers can be swapped in documents, got none. Answers of "
            "yes and no cannot, nor can answers of which no other question has one of that form."
        )
    rests = [outcome.outcome == FOLLOWS for outcome in outcomes if outcome.right]
    shares = {
        name: bootstrap_mean([outcome.outcome == name for outcome in outcomes])
        for name in (FOLLOWS, UNCHANGED, OTHER)
    }
    return CausalEvidence(
        outcomes=outcomes,
        left_out=asked - len(outcomes),
        exact_match=bootstrap_mean([outcome.right for outcome in outcomes]),
        rests=bootstrap_mean(rests) if rests else None,
        **shares,
    )


def _outcomes(
    pairs: Iterable[tuple[EpisodeMeasures, EpisodeMeasures]], swaps: Mapping[str, Swap]
) -> Iterator[SwapOutcome]:
    for plain, swapped in pairs:
        swap = swaps.get(plain.question_id)
        if swap is not None and plain.valid and swapped.valid:
            yield SwapOutcome(
                question_id=plain.question_id,
                answer=plain.answer,
                swapped_answer=swapped.answer,
                new=swap.new,
                right=plain.exact_match == 1.0,
                outcome=_outcome(plain.answer, swapped.answer, swap.new),
            )


def _outcome(answer: str | None, swapped: str | None, new: str) -> str:
    if _plain(answer) == _plain(swapped):
        return UNCHANGED
    return FOLLOWS if exact_match(swapped, (new,)) else OTHER


def _plain(answer: str | None) -> str | None:
    return None if answer is None else R1_SEARCHER.normalize(answer)
