"""Evaluation of any agent on any question set: one loop, measures per episode, one summary.

The measures are functions of the transcript alone. Answers are compared by R1-Searcher's rule
(:data:`search_env.metrics.answers.R1_SEARCHER`) for every protocol and dataset, unless another is
passed. No printing, no files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym

from search_env.datasets.rows import one_line
from search_env.envs.search_qa import Observation, bare_env
from search_env.errors import ConfigurationError
from search_env.evaluation.agent import Agent
from search_env.metrics.answers import (
    R1_SEARCHER,
    ScoringRule,
    contiguous_cover_exact_match,
    cover_exact_match,
    exact_match,
    token_f1,
)
from search_env.metrics.golds_in_text import any_gold_in
from search_env.metrics.statistics import RESAMPLES, Interval, bootstrap_mean
from search_env.types import Transcript


@dataclass(frozen=True, slots=True)
class EpisodeMeasures:
    """Measures of one episode. Plain values, ready for JSON; None where a value is unknown.

    Attributes:
        kind: The dataset's own question type, "" where it has none.
        hops: Number of annotated single-hop steps, None where unknown.
        answer: The answer, None where none was given.
        golds: Gold answer and aliases.
        exact_match: This and the next three: see :mod:`search_env.metrics.answers`.
        episode_return: Undiscounted sum of the environment's rewards.
        policy_tokens: Number of tokens that the policy wrote.
        stop_reason: Value of a :class:`~search_env.types.StopReason`.
        valid: False where retrieval failed; such an episode does not count for the agent.
        format_faults: Kinds of the format faults, in order.
        queries: Search queries, in order.
        document_ids: Ids of each search's documents, best first.
        supporting_recall: Share of the question's supporting documents that the episode retrieved;
            None where the dataset names none.
        all_supports: 1.0 where all of them were retrieved, else 0.0; None likewise.
        answer_recall: 1.0 where the words of some gold answer occur consecutively in the title and
            text of some retrieved document, both normalised, else 0.0. Closed answers (yes, no) and
            golds without words after normalisation are skipped; None where no gold is left.
        judged: 1.0 where a language model judged the answer right, 0.0 where wrong; None without a
            judgement.
    """

    question_id: str
    question: str
    kind: str
    hops: int | None
    answer: str | None
    golds: tuple[str, ...]
    exact_match: float
    f1: float
    cover_exact_match: float
    contiguous_cover_exact_match: float
    episode_return: float | None
    searches: int | None
    policy_tokens: int | None
    stop_reason: str
    valid: bool
    format_faults: tuple[str, ...]
    queries: tuple[str, ...]
    document_ids: tuple[tuple[str, ...], ...]
    supporting_recall: float | None
    all_supports: float | None
    answer_recall: float | None
    judged: float | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> EpisodeMeasures:
        """Return measures that were written as JSON; further fields of the row are ignored.

        Raises:
            KeyError: A field is missing.
            TypeError: A field has a value of another type; the message names it.
        """
        values: dict[str, Any] = {field.name: row[field.name] for field in fields(cls)}
        for kind, is_right in _KINDS.items():
            for name in _NAMES[kind]:
                if not is_right(values[name]):
                    raise TypeError(f"{values[name]!r:.80} as {name}, which is {kind}")
        for name in ("golds", "format_faults", "queries"):
            values[name] = tuple(values[name])
        values["document_ids"] = tuple(map(tuple, values["document_ids"]))
        return cls(**values)


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "a text": lambda value: isinstance(value, str),
    "a text or null": lambda value: value is None or isinstance(value, str),
    "a number": _is_number,
    "a number or null": lambda value: value is None or _is_number(value),
    "a count or null": lambda value: value is None or _is_count(value),
    "true or false": lambda value: isinstance(value, bool),
    "a list of texts": _is_texts,
    "a list of one text or more": lambda value: _is_texts(value) and len(value) > 0,
    "a list of lists of texts": lambda value: (
        isinstance(value, list | tuple) and all(map(_is_texts, value))
    ),
}
_NAMES: Mapping[str, tuple[str, ...]] = {
    "a text": ("question_id", "question", "kind", "stop_reason"),
    "a text or null": ("answer",),
    "a number": ("exact_match", "f1", "cover_exact_match", "contiguous_cover_exact_match"),
    "a number or null": (
        *("episode_return", "supporting_recall", "all_supports", "answer_recall", "judged"),
    ),
    "a count or null": ("hops", "searches", "policy_tokens"),
    "true or false": ("valid",),
    "a list of texts": ("format_faults", "queries"),
    "a list of one text or more": ("golds",),
    "a list of lists of texts": ("document_ids",),
}
"""Fields of :class:`EpisodeMeasures` by the kind of their JSON values."""


@dataclass(frozen=True, slots=True)
class Means:
    """Means over one group of questions, named as in :class:`EpisodeMeasures`; None if unknown."""

    episodes: int
    exact_match: float | None
    f1: float | None
    cover_exact_match: float | None
    supporting_recall: float | None
    all_supports: float | None
    answer_recall: float | None
    searches: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over valid episodes. A measure is None where no episode has it.

    Attributes:
        invalid: Number of invalid episodes, which count only in the stop reasons.
        exact_match: Mean of the field of :class:`EpisodeMeasures`, as are the next ten.
        stop_reasons: Number of episodes by stop reason, most frequent first; all episodes.
        by_kind: Means by the dataset's question type; empty where it has none.
        by_hops: Means by number of hops; empty where unknown.
    """

    episodes: int
    invalid: int
    exact_match: Interval | None
    f1: Interval | None
    cover_exact_match: Interval | None
    contiguous_cover_exact_match: Interval | None
    episode_return: Interval | None
    supporting_recall: Interval | None
    all_supports: Interval | None
    answer_recall: Interval | None
    searches: Interval | None
    policy_tokens: Interval | None
    judged: Interval | None
    stop_reasons: dict[str, int]
    by_kind: dict[str, Means]
    by_hops: dict[int, Means]


def evaluate(
    env: gym.Env[Observation, Any],
    agent: Agent,
    questions: Iterable[int] | None = None,
    *,
    seed: int = 0,
    progress: Callable[[EpisodeMeasures], None] | None = None,
) -> list[EpisodeMeasures]:
    """Run an agent on each question once, in order.

    Args:
        env: A :class:`SearchQAEnv`, in any wrappers that keep token ids as actions.
        agent: Agent that plays every episode.
        questions: Indices into the environment's questions; None for all.
        seed: Seed of every episode's reset, so that none depends on those before it.
        progress: Called with the measures of each episode when it ends.

    Returns:
        Measures of each question's episode.

    Raises:
        ConfigurationError: ``env`` is another environment, or an index is out of range.
        RetrievalError: As raised by the environment under ``on_retrieval_error="raise"``.
    """
    bare = bare_env(env)
    episodes = []
    for index in range(len(bare.questions)) if questions is None else questions:
        observation, _ = env.reset(seed=seed, options={"index": index})
        agent.begin(bare, observation)
        episode_return, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            episode_return += float(reward)
            over = terminated or truncated
        episodes.append(measure_episode(bare.transcript(), episode_return))
        if progress is not None:
            progress(episodes[-1])
    return episodes


def measure_episode(
    transcript: Transcript, episode_return: float | None, rule: ScoringRule = R1_SEARCHER
) -> EpisodeMeasures:
    """Measure one finished episode.

    Args:
        transcript: Transcript of the episode.
        episode_return: Sum of the episode's rewards.
        rule: Rule that compares answers.

    Raises:
        ConfigurationError: The episode has not ended.
    """
    stop, question = transcript.stop_reason, transcript.question
    if stop is None:
        raise ConfigurationError(
            f"Expected a finished episode of question {question.id!r}, got one that still runs. "
            "Step until it is terminated or truncated."
        )
    searches, answer = transcript.searches, transcript.answer
    supporting = supporting_recall(transcript)
    return EpisodeMeasures(
        question_id=question.id,
        question=question.text,
        kind=question.kind,
        hops=len(question.hops) or None,
        answer=answer,
        golds=question.answers,
        **answer_measures(answer, question.answers, rule),
        episode_return=episode_return,
        searches=len(searches),
        policy_tokens=transcript.num_policy_tokens,
        stop_reason=stop.value,
        valid=stop.valid,
        format_faults=tuple(fault.kind.value for fault in transcript.faults),
        queries=tuple(search.query for search in searches),
        document_ids=tuple(search.document_ids for search in searches),
        supporting_recall=supporting,
        all_supports=None if supporting is None else float(supporting == 1.0),
        answer_recall=answer_recall(transcript),
    )


def answer_measures(
    answer: str | None, golds: Sequence[str], rule: ScoringRule = R1_SEARCHER
) -> dict[str, float]:
    """Return the fields of :class:`EpisodeMeasures` that compare an answer with the golds.

    Example:
        >>> answer_measures("the city of Paris", ["Paris"])["f1"]
        0.5
    """
    return {
        "exact_match": exact_match(answer, golds, rule),
        "f1": token_f1(answer, golds, rule),
        "cover_exact_match": cover_exact_match(answer, golds, rule),
        "contiguous_cover_exact_match": contiguous_cover_exact_match(answer, golds, rule),
    }


def supporting_recall(transcript: Transcript) -> float | None:
    """Return :attr:`EpisodeMeasures.supporting_recall`."""
    supporting = frozenset(transcript.question.supporting)
    return len(supporting & transcript.documents.keys()) / len(supporting) if supporting else None


def answer_recall(transcript: Transcript) -> float | None:
    """Return :attr:`EpisodeMeasures.answer_recall`."""
    documents = (document for search in transcript.searches for document in search.documents)
    texts = (f"{document.title} {document.text}" for document in documents)
    return answer_recall_in(texts, transcript.question.answers)


def answer_recall_in(texts: Iterable[str], golds: Sequence[str]) -> float | None:
    """Return :attr:`EpisodeMeasures.answer_recall` for the title and text of each document."""
    found = any_gold_in(texts, golds)
    return None if found is None else float(found)


def summarise(
    episodes: Sequence[EpisodeMeasures], *, resamples: int = RESAMPLES, seed: int = 0
) -> Summary:
    """Average the measures of episodes, with 95 % bootstrap intervals over questions.

    Args:
        episodes: Episodes of one agent.
        resamples: As for :func:`~search_env.metrics.statistics.bootstrap_mean`.
        seed: As for :func:`~search_env.metrics.statistics.bootstrap_mean`.
    """
    valid = [episode for episode in episodes if episode.valid]

    def interval(values: Iterable[float | None]) -> Interval | None:
        numbers = _numbers(values)
        return bootstrap_mean(numbers, resamples=resamples, seed=seed) if numbers else None

    kinds = sorted({e.kind for e in valid if e.kind})
    counts = sorted({e.hops for e in valid if e.hops is not None})
    return Summary(
        episodes=len(valid),
        invalid=len(episodes) - len(valid),
        exact_match=interval(e.exact_match for e in valid),
        f1=interval(e.f1 for e in valid),
        cover_exact_match=interval(e.cover_exact_match for e in valid),
        contiguous_cover_exact_match=interval(e.contiguous_cover_exact_match for e in valid),
        episode_return=interval(e.episode_return for e in valid),
        supporting_recall=interval(e.supporting_recall for e in valid),
        all_supports=interval(e.all_supports for e in valid),
        answer_recall=interval(e.answer_recall for e in valid),
        searches=interval(e.searches for e in valid),
        policy_tokens=interval(e.policy_tokens for e in valid),
        judged=interval(e.judged for e in valid),
        stop_reasons=dict(Counter(e.stop_reason for e in episodes).most_common()),
        by_kind={kind: _means([e for e in valid if e.kind == kind]) for kind in kinds},
        by_hops={hops: _means([e for e in valid if e.hops == hops]) for hops in counts},
    )


def _means(episodes: Sequence[EpisodeMeasures]) -> Means:
    return Means(
        episodes=len(episodes),
        exact_match=_mean(e.exact_match for e in episodes),
        f1=_mean(e.f1 for e in episodes),
        cover_exact_match=_mean(e.cover_exact_match for e in episodes),
        supporting_recall=_mean(e.supporting_recall for e in episodes),
        all_supports=_mean(e.all_supports for e in episodes),
        answer_recall=_mean(e.answer_recall for e in episodes),
        searches=_mean(e.searches for e in episodes),
    )


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = _numbers(values)
    return sum(numbers) / len(numbers) if numbers else None


def on_shared_questions(
    first: Sequence[EpisodeMeasures], second: Sequence[EpisodeMeasures]
) -> tuple[list[EpisodeMeasures], list[EpisodeMeasures]]:
    """Return the valid episodes of both agents on the questions they share, in the first's order.

    Questions are matched by their texts, ignoring case and white space: ids differ between systems.
    Of several episodes of a question only the first valid one counts.

    Args:
        first: Episodes of one agent.
        second: Episodes of the other.
    """
    firsts, seconds = _by_question(first), _by_question(second)
    shared = [text for text in firsts if text in seconds]
    return [firsts[text] for text in shared], [seconds[text] for text in shared]


def _by_question(episodes: Iterable[EpisodeMeasures]) -> dict[str, EpisodeMeasures]:
    by_question: dict[str, EpisodeMeasures] = {}
    for episode in episodes:
        if episode.valid:
            by_question.setdefault(one_line(episode.question).casefold(), episode)
    return by_question
