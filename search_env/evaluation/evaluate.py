"""Any agent on any question set: one loop, one record an episode, one summary.

:func:`evaluate` runs, :func:`measure_episode` measures one transcript, :func:`summarise` averages.
The measures are functions of the transcript alone. Answers are compared by R1-Searcher's rule
(:data:`search_env.metrics.answers.R1_SEARCHER`), whatever the protocol or dataset, unless another
is given. Outputs of other systems become the same records in
:mod:`search_env.evaluation.foreign_outputs`. No printing, no files.
"""

from __future__ import annotations

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
    contains_words,
    contiguous_cover_exact_match,
    cover_exact_match,
    exact_match,
    token_f1,
)
from search_env.metrics.statistics import RESAMPLES, Interval, bootstrap_mean
from search_env.types import Transcript


@dataclass(frozen=True, slots=True)
class EpisodeMeasures:
    """What one episode came to. Plain values, ready for JSON; None where it is not known.

    Attributes:
        question_id: Which question.
        question: Its text.
        kind: The dataset's own question type, "" where it has none.
        hops: Number of known single-hop steps, None where unknown.
        answer: What was answered, None where nothing was.
        golds: Gold answer and aliases.
        exact_match: See :func:`search_env.metrics.answers.exact_match`.
        f1: See :func:`search_env.metrics.answers.token_f1`.
        cover_exact_match: See :func:`search_env.metrics.answers.cover_exact_match`.
        contiguous_cover_exact_match: See
            :func:`search_env.metrics.answers.contiguous_cover_exact_match`.
        episode_return: Undiscounted sum of the rewards that the environment paid.
        searches: Searches that were run.
        policy_tokens: Tokens that the policy wrote.
        stop_reason: A :class:`~search_env.types.StopReason`'s value.
        valid: False where retrieval failed; such an episode says nothing about the agent.
        format_faults: Kinds of the faults, in order.
        queries: What was searched for, in order.
        document_ids: What each search found, best first.
        supporting_recall: Share of the question's supporting documents among all documents that
            the episode retrieved; None where the dataset names none.
        all_supports: 1.0 where all of them were retrieved, else 0.0; None likewise.
        answer_recall: 1.0 where the words of some gold answer stand in a row in the title and text
            of some retrieved document, both normalised, else 0.0. Golds that are closed answers
            (yes, no) or have no word left are not looked for; None where no other is left.
        judged: 1.0 where a language model judged the answer right, 0.0 where wrong; None where
            none was asked.
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
        """Return a record that was written as JSON; further fields of the row are left out.

        Raises:
            KeyError: A field is missing.
        """
        values: dict[str, Any] = {field.name: row[field.name] for field in fields(cls)}
        for name in ("golds", "format_faults", "queries"):
            values[name] = tuple(values[name])
        values["document_ids"] = tuple(map(tuple, values["document_ids"]))
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Means:
    """Means of one group of questions, named as the records' fields; None where nothing has it."""

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
        episodes: Valid episodes.
        invalid: Episodes left out of everything but the stop reasons.
        exact_match: Mean of the records' field of the same name, as are the next ten.
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
        agent: Begins and plays every episode.
        questions: Indices into the environment's questions; None for all.
        seed: Every episode is reset with it, so that none depends on the ones before it.
        progress: Called with each record as soon as it is there.

    Returns:
        One record for each question.

    Raises:
        ConfigurationError: ``env`` is another environment, or an index is out of range.
        RetrievalError: As raised by the environment under ``on_retrieval_error="raise"``.
    """
    bare = bare_env(env)
    records = []
    for index in range(len(bare.questions)) if questions is None else questions:
        observation, _ = env.reset(seed=seed, options={"index": index})
        agent.begin(bare, observation)
        episode_return, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            episode_return += float(reward)
            over = terminated or truncated
        records.append(measure_episode(bare.transcript(), episode_return))
        if progress is not None:
            progress(records[-1])
    return records


def measure_episode(
    transcript: Transcript, episode_return: float | None, rule: ScoringRule = R1_SEARCHER
) -> EpisodeMeasures:
    """Measure one finished episode.

    Args:
        transcript: Of the episode.
        episode_return: Sum of the rewards that were paid in it.
        rule: How answers are compared.

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
    """Return the fields of a record that compare its answer with the golds, by name.

    Args:
        answer: What was answered, None where nothing was.
        golds: Gold answer and aliases.
        rule: How to compare.

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
    wanted = frozenset(transcript.question.supporting)
    return len(wanted & transcript.documents.keys()) / len(wanted) if wanted else None


def answer_recall(transcript: Transcript) -> float | None:
    """Return :attr:`EpisodeMeasures.answer_recall`."""
    found = transcript.documents.values()
    return answer_recall_in([f"{d.title} {d.text}" for d in found], transcript.question.answers)


def answer_recall_in(texts: Iterable[str], golds: Sequence[str]) -> float | None:
    """Return :attr:`EpisodeMeasures.answer_recall` of texts that were retrieved.

    Args:
        texts: Title and text of each document.
        golds: Gold answer and aliases.
    """
    normalised = map(R1_SEARCHER.normalize, golds)
    wanted = [gold for gold in normalised if gold and gold not in R1_SEARCHER.closed_answers]
    if not wanted:
        return None
    read = map(R1_SEARCHER.normalize, texts)
    return float(any(contains_words(text, gold) for text in read for gold in wanted))


def summarise(
    records: Sequence[EpisodeMeasures], *, resamples: int = RESAMPLES, seed: int = 0
) -> Summary:
    """Average records, with 95 % bootstrap intervals over questions.

    Args:
        records: Of one agent.
        resamples: As for :func:`~search_env.metrics.statistics.bootstrap_mean`.
        seed: As for :func:`~search_env.metrics.statistics.bootstrap_mean`.
    """
    valid = [record for record in records if record.valid]

    def interval(values: Iterable[float | None]) -> Interval | None:
        known = _known(values)
        return bootstrap_mean(known, resamples=resamples, seed=seed) if known else None

    kinds = sorted({record.kind for record in valid if record.kind})
    counts = sorted({record.hops for record in valid if record.hops is not None})
    return Summary(
        episodes=len(valid),
        invalid=len(records) - len(valid),
        exact_match=interval(record.exact_match for record in valid),
        f1=interval(record.f1 for record in valid),
        cover_exact_match=interval(record.cover_exact_match for record in valid),
        contiguous_cover_exact_match=interval(
            record.contiguous_cover_exact_match for record in valid
        ),
        episode_return=interval(record.episode_return for record in valid),
        supporting_recall=interval(record.supporting_recall for record in valid),
        all_supports=interval(record.all_supports for record in valid),
        answer_recall=interval(record.answer_recall for record in valid),
        searches=interval(record.searches for record in valid),
        policy_tokens=interval(record.policy_tokens for record in valid),
        judged=interval(record.judged for record in valid),
        stop_reasons=dict(Counter(record.stop_reason for record in records).most_common()),
        by_kind={kind: _means([r for r in valid if r.kind == kind]) for kind in kinds},
        by_hops={hops: _means([r for r in valid if r.hops == hops]) for hops in counts},
    )


def _means(records: Sequence[EpisodeMeasures]) -> Means:
    return Means(
        episodes=len(records),
        exact_match=_mean(record.exact_match for record in records),
        f1=_mean(record.f1 for record in records),
        cover_exact_match=_mean(record.cover_exact_match for record in records),
        supporting_recall=_mean(record.supporting_recall for record in records),
        all_supports=_mean(record.all_supports for record in records),
        answer_recall=_mean(record.answer_recall for record in records),
        searches=_mean(record.searches for record in records),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    """Return a measure of those records that have it."""
    return [float(value) for value in values if value is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return sum(known) / len(known) if known else None


def on_shared_questions(
    first: Sequence[EpisodeMeasures], second: Sequence[EpisodeMeasures]
) -> tuple[list[EpisodeMeasures], list[EpisodeMeasures]]:
    """Return the valid episodes of both whose questions the other has too, in the first's order.

    Questions are the same where their texts are, but for case and white space: ids differ between
    systems. A question that comes several times counts once, by its first valid episode.

    Args:
        first: Of the one agent.
        second: Of the other.
    """
    ours, theirs = _by_question(first), _by_question(second)
    shared = [text for text in ours if text in theirs]
    return [ours[text] for text in shared], [theirs[text] for text in shared]


def _by_question(records: Iterable[EpisodeMeasures]) -> dict[str, EpisodeMeasures]:
    found: dict[str, EpisodeMeasures] = {}
    for record in records:
        if record.valid:
            found.setdefault(one_line(record.question).casefold(), record)
    return found
