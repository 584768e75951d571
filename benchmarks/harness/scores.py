"""From finished episodes to scores: means over questions, several samples, groups of questions.

Intervals are 95 % bootstrap intervals over questions. Several samples of a question are averaged
first: they say more about that question, and nothing about others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from search_env.benchmarks.harness.results_file import EpisodeResult, by_question
from search_env.evaluation.evaluate import EpisodeMeasures
from search_env.metrics.answers import R1_SEARCHER
from search_env.metrics.statistics import Interval, bootstrap_mean, majority_vote, pass_at_k

__all__ = ["score"]

MEASURES: Mapping[str, Callable[[EpisodeMeasures], float | None]] = {
    "EM": lambda record: record.exact_match,
    "F1": lambda record: record.f1,
    "cover EM": lambda record: record.cover_exact_match,
    "cover EM in a row": lambda record: record.contiguous_cover_exact_match,
    "EM given recall": lambda record: record.exact_match if record.answer_recall else None,
    "judged right": lambda record: record.judged,
    "answer recall": lambda record: record.answer_recall,
    "support recall": lambda record: record.supporting_recall,
    "all supports": lambda record: record.all_supports,
    "search rate": lambda record: None if record.searches is None else float(record.searches > 0),
    "searches": lambda record: record.searches,
    "policy tokens": lambda record: record.policy_tokens,
    "format faults": lambda record: float(bool(record.format_faults)),
}
"""What is measured, by the name that tables show; the last is the share of episodes with any.

*EM given recall* is the exact match where a gold answer stood in a retrieved document: what is lost
there is lost in reading. The *search rate* is the share of episodes with a search.
"""

Groups = Mapping[str, Sequence[EpisodeResult]]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of some episodes by the names of :data:`MEASURES`, None where no episode has one.

    Stop reasons are most frequent first; ``seconds`` is a sum, also of episodes side by side.
    """

    questions: int
    episodes: int
    measures: dict[str, Interval | None]
    stop_reasons: dict[str, int]
    seconds: float


def score(episodes: Sequence[EpisodeResult], *, seed: int = 0) -> Scores:
    """Return the scores of one agent's episodes; ``seed`` is the bootstrap's."""
    questions = by_question(episodes)
    return Scores(
        questions=len(questions),
        episodes=len(episodes),
        measures={
            name: _interval([_mean(samples, measure) for samples in questions.values()], seed)
            for name, measure in MEASURES.items()
        },
        stop_reasons=dict(Counter(p.record.stop_reason for p in episodes).most_common()),
        seconds=sum(result.seconds for result in episodes),
    )


def question_scores(
    episodes: Sequence[EpisodeResult], measure: Callable[[EpisodeMeasures], float | None]
) -> dict[int, float]:
    """Return a measure by question, averaged over its samples; those without it left out."""
    means = {i: _mean(samples, measure) for i, samples in by_question(episodes).items()}
    return {index: value for index, value in means.items() if value is not None}


def pass_at(episodes: Sequence[EpisodeResult], k: int, *, seed: int = 0) -> Interval:
    """Return pass@k by exact match; needs at least ``k`` samples of each question."""
    rights = [[p.record.exact_match for p in own] for own in by_question(episodes).values()]
    estimates = [pass_at_k(len(right), round(sum(right)), k) for right in rights]
    return bootstrap_mean(estimates, seed=seed)


def majority(episodes: Sequence[EpisodeResult], *, seed: int = 0) -> Interval:
    """Return the exact match of each question's most frequent answer among its samples."""
    votes = [_voted(samples) for samples in by_question(episodes).values()]
    return bootstrap_mean(votes, seed=seed)


def group(episodes: Iterable[EpisodeResult], key: Callable[[EpisodeMeasures], object]) -> Groups:
    """Return the episodes by a key of their records, keys in order; None and "" are left out."""
    groups: dict[str, list[EpisodeResult]] = {}
    for result in episodes:
        name = key(result.record)
        if name is not None and name != "":
            groups.setdefault(str(name), []).append(result)
    return dict(sorted(groups.items()))


def _voted(samples: Sequence[EpisodeResult]) -> float:
    answers = [result.record.answer for result in samples]
    normalised = [None if answer is None else R1_SEARCHER.normalize(answer) for answer in answers]
    winner = majority_vote(normalised)
    return 0.0 if winner is None else samples[normalised.index(winner)].record.exact_match


def _mean(
    samples: Sequence[EpisodeResult], measure: Callable[[EpisodeMeasures], float | None]
) -> float | None:
    values = [value for result in samples if (value := measure(result.record)) is not None]
    return sum(values) / len(values) if values else None


def _interval(values: Sequence[float | None], seed: int) -> Interval | None:
    measured = [value for value in values if value is not None]
    return bootstrap_mean(measured, seed=seed) if measured else None
