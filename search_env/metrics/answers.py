"""Answer scores: exact match, token F1 and the covering matches, as pure functions.

A :class:`ScoringRule` normalises texts before they are compared; published systems differ in
exactly that, so every function takes the rule.

A prediction of None stands for no answer and scores 0.0. With several golds, the best score counts.
Answers are not extracted from texts here: an episode's answer is an event.

Sources: RUCAIBox/R1-Searcher@631167c ``evaluation/metric_calc_rule.py``; hotpotqa/hotpot
``hotpot_evaluate_v1.py``; SQuAD v1.1 ``evaluate-v1.1.py``; verl
``verl/utils/reward_score/search_r1_like_qa_em.py``.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from search_env.errors import ConfigurationError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACE_FOR_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
_CACHED_TEXTS = 8192  # the end of an episode compares the same two several times
_TRUTH_VALUES = {"True": "yes", "False": "no"}


@functools.lru_cache(maxsize=_CACHED_TEXTS)
def normalize_squad(text: str) -> str:
    """Normalise as SQuAD v1.1 does: lower-case, delete ASCII punctuation, drop articles, one space.

    Example:
        >>> normalize_squad("The New-York Times, U.S.A.")
        'newyork times usa'
    """
    plain = text.lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


@functools.lru_cache(maxsize=_CACHED_TEXTS)
def normalize_r1_searcher(text: str) -> str:
    """Normalise as R1-Searcher does.

    The texts ``True`` and ``False`` become ``yes`` and ``no`` first; then lower-case, punctuation
    to spaces (ASCII with the underscore, and ``‘ ’ ´``), articles dropped, one space.

    Example:
        >>> normalize_r1_searcher("The New-York Times, U.S.A.")
        'new york times u s'
    """
    return " ".join(mapped_for_r1_searcher(_TRUTH_VALUES.get(text, text)).split())


def mapped_for_r1_searcher(text: str) -> str:
    """Return a text whose words are those of its normal form, each character in its place."""
    plain = text.lower().translate(_SPACE_FOR_PUNCTUATION)
    return _ARTICLES.sub(lambda article: " " * len(article[0]), plain)


@dataclass(frozen=True, slots=True)
class ScoringRule:
    """How answers are compared.

    Normalised ``closed_answers`` earn no partial F1: where either side is one, F1 is 1 or 0.
    """

    name: str
    normalize: Callable[[str], str]  # to words separated by single spaces
    closed_answers: frozenset[str] = frozenset()


_YES_NO = frozenset({"yes", "no", "noanswer"})

R1_SEARCHER = ScoringRule("r1-searcher", normalize_r1_searcher, _YES_NO)
"""R1-Searcher's reward servers and evaluation."""
SQUAD = ScoringRule("squad", normalize_squad)
"""SQuAD v1.1; its exact match is Search-R1's reward."""
HOTPOTQA = ScoringRule("hotpotqa", normalize_squad, _YES_NO)
"""HotpotQA's official script: SQuAD's words with the yes/no rule."""


class AnswerScores(NamedTuple):
    """The scores that every episode's end reports."""

    exact_match: float
    f1: float
    cover_exact_match: float


def score_answer(
    prediction: str | None, answers: Sequence[str], rule: ScoringRule = R1_SEARCHER
) -> AnswerScores:
    """Return :func:`exact_match`, :func:`token_f1` and :func:`cover_exact_match` together.

    Example:
        >>> score_answer("the city of Paris", ["Paris"])
        AnswerScores(exact_match=0.0, f1=0.5, cover_exact_match=1.0)
    """
    scores = (_equal, _f1, _covers)
    return AnswerScores(*[_best(score, prediction, answers, rule) for score in scores])


def exact_match(
    prediction: str | None, answers: Sequence[str], rule: ScoringRule = R1_SEARCHER
) -> float:
    """Return 1.0 where the normalised prediction equals a normalised gold, else 0.0.

    Args:
        prediction: The answer, or None.
        answers: The golds.
        rule: How to compare.

    Raises:
        ConfigurationError: ``answers`` is empty or one string.

    Example:
        >>> exact_match("The Beatles!", ["Beatles"]), exact_match(None, ["Beatles"])
        (1.0, 0.0)
    """
    return _best(_equal, prediction, answers, rule)


def token_f1(
    prediction: str | None, answers: Sequence[str], rule: ScoringRule = R1_SEARCHER
) -> float:
    """Return the harmonic mean of token precision and recall, best over the golds, in [0, 1].

    Tokens are the words of the normalised texts, counted as multisets; no common word gives 0.0,
    also where both texts are empty. Errors as for :func:`exact_match`.

    Example:
        >>> token_f1("the city of Paris", ["Paris"])
        0.5
    """
    return _best(_f1, prediction, answers, rule)


def cover_exact_match(
    prediction: str | None, answers: Sequence[str], rule: ScoringRule = R1_SEARCHER
) -> float:
    """Return 1.0 where every token of a gold occurs in the prediction, else 0.0.

    Order and repetition do not matter. Published as CEM, cover EM and ACC_R (R1-Searcher's
    ``cover_exact_match_score_1``). Errors as for :func:`exact_match`.

    Example:
        >>> cover_exact_match("York, in the new world", ["New York"])
        1.0
    """
    return _best(_covers, prediction, answers, rule)


def contiguous_cover_exact_match(
    prediction: str | None, answers: Sequence[str], rule: ScoringRule = R1_SEARCHER
) -> float:
    """Return 1.0 where a normalised gold is a substring of the normalised prediction, else 0.0.

    R1-Searcher's ``cover_exact_match_score_2`` asks for contiguous tokens *or* a substring; the
    first implies the second, so this is the same rule, and ``smart`` contains ``art``. Errors as
    for :func:`exact_match`.

    Example:
        >>> contiguous_cover_exact_match("in New York City", ["New York"])
        1.0
        >>> contiguous_cover_exact_match("York, in the new world", ["New York"])
        0.0
    """
    return _best(_contains, prediction, answers, rule)


def substring_exact_match(
    prediction: str | None, answers: Sequence[str], rule: ScoringRule = SQUAD
) -> float:
    """Return ``subem_check`` of Search-R1 and verl: the contiguous cover under SQuAD's rule.

    Example:
        >>> substring_exact_match("He lived in New York City.", ["New York"])
        1.0
    """
    return contiguous_cover_exact_match(prediction, answers, rule)


def _best(
    score: Callable[[str, str, ScoringRule], float],
    prediction: str | None,
    answers: Sequence[str],
    rule: ScoringRule,
) -> float:
    """Return the best score of a prediction over the golds, all normalised."""
    if isinstance(answers, str) or not answers:
        raise ConfigurationError(
            f"Expected answers to be a non-empty sequence of strings, got {answers!r}. "
            "Pass a list of gold answers, also where there is only one."
        )
    if prediction is None:
        return 0.0
    text = rule.normalize(prediction)
    return max(score(text, rule.normalize(gold), rule) for gold in answers)


def _equal(text: str, gold: str, rule: ScoringRule) -> float:
    return float(text == gold)


def _f1(text: str, gold: str, rule: ScoringRule) -> float:
    if text == gold:
        return float(bool(text))
    if text in rule.closed_answers or gold in rule.closed_answers:
        return 0.0
    tokens, gold_tokens = text.split(), gold.split()
    unmatched, common = gold_tokens.copy(), 0  # for a few words faster than a Counter
    for token in tokens:
        if token in unmatched:
            unmatched.remove(token)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(tokens), common / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def _covers(text: str, gold: str, rule: ScoringRule) -> float:
    # A gold that normalises to "" ("The") is covered by an empty prediction only; the published
    # code has the same result through "".split(" ") == [""].
    return float(set(gold.split(" ")) <= set(text.split(" ")))


def _contains(text: str, gold: str, rule: ScoringRule) -> float:
    # The published code lets an empty gold match everything; that would reward any answer.
    return float(gold in text if gold else not text)


def is_empty_gold(gold: str) -> bool:
    """Return whether a rule of scoring takes a gold answer for an empty one.

    Example:
        >>> is_empty_gold("The"), is_empty_gold("?!"), is_empty_gold("the A-ha")
        (True, True, False)
    """
    if _MAY_BE_EMPTY.fullmatch(gold) is None:  # quicker, for sets of 100,000 questions
        return False
    return not all(rule.normalize(gold) for rule in (R1_SEARCHER, SQUAD))


_MAY_BE_EMPTY = re.compile(r"(?:[\W_]|\b(?:a|an|the)\b)*", re.I)


def contains_words(text: str, words: str) -> bool:
    """Return whether a normalised text contains normalised words contiguously, as full words.

    Example:
        >>> contains_words("new york city", "york city"), contains_words("smart", "art")
        (True, False)
    """
    return f" {words} " in f" {text} "
