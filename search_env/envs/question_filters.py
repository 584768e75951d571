"""Which questions of a published dataset or file are asked: ``dataset_options`` of files.

A training set may hold what a policy should not learn. Of 2WikiMultiHopQA's training questions in
the sample data a third is answered by yes or no, so a policy that says yes is often right; and a
gold passage of a training question may be one of a test question, whose evidence is then learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from search_env.datasets.rows import one_line
from search_env.errors import ConfigurationError
from search_env.metrics.answers import R1_SEARCHER
from search_env.types import Question
from search_env.validation import check_choice, check_limit, check_text, is_real

_CLOSED = ("yes", "no")


@dataclass(frozen=True, slots=True)
class QuestionFilter:
    """Rules that all hold for what is kept, applied to each part of a mixture in this order.

    Attributes:
        kinds: Kinds of questions to keep, such as ``("compositional", "inference")``; None for all.
        apart_from: Questions, written as a dataset (``"hotpotqa:dev+musique:dev"``): what shares a
            supporting passage or the text with one of them is left out. None for nothing.
        most_questions: Largest number of questions, spread evenly, taken last; None for all.
        most_yes_no: Largest share of questions whose answer is yes or no, from 0 to 1. Those that
            are left out are spread evenly over them, and yes and no are kept equally often as far
            as there are enough of both. None for all.
    """

    kinds: tuple[str, ...] | None = None
    apart_from: str | None = None
    most_yes_no: float | None = None
    most_questions: int | None = None

    @classmethod
    def of(cls, dataset: str, options: Mapping[str, Any]) -> QuestionFilter:
        """Return the filter of ``dataset_options``, JSON values.

        Raises:
            ConfigurationError: An unknown name, or a value of another type.
        """
        for name in options:
            check_choice(f"dataset_options of {dataset!r}", name, [f.name for f in fields(cls)])
        kinds, share = options.get("kinds"), options.get("most_yes_no")
        if kinds is not None and not (
            isinstance(kinds, list | tuple) and all(isinstance(kind, str) for kind in kinds)
        ):
            raise ConfigurationError(
                f"Expected kinds to be a list of names or None, got {kinds!r}. Pass "
                '["bridge"], for example.'
            )
        if share is not None and not (is_real(share) and 0 <= share <= 1):
            raise ConfigurationError(
                f"Expected most_yes_no from 0 to 1 or None, got {share!r}. Pass 0.1 for a tenth."
            )
        if options.get("apart_from") is not None:
            advice = "Name a dataset, such as 'hotpotqa:dev'."
            check_text("apart_from", options["apart_from"], advice)
        most = check_limit("most_questions", options.get("most_questions"))
        chosen = None if kinds is None else tuple(kinds)
        return cls(chosen, options.get("apart_from"), share, most)

    def check_kinds(self, questions: Sequence[Question]) -> None:
        """Check that each kind is one of these questions', which are those of all parts.

        Raises:
            ConfigurationError: No question is of a kind.
        """
        known = sorted({question.kind for question in questions})
        for kind in self.kinds or ():
            check_choice("kinds of questions", kind, known)

    def select(
        self, questions: Sequence[Question], others: Sequence[Question]
    ) -> tuple[Question, ...]:
        """Return the questions that are kept, in order; ``others`` are those of ``apart_from``."""
        kept = [q for q in questions if self.kinds is None or q.kind in self.kinds]
        passages = {passage for other in others for passage in other.supporting}
        texts = {_plain(other) for other in others}
        kept = [q for q in kept if passages.isdisjoint(q.supporting) and _plain(q) not in texts]
        kept = kept if self.most_yes_no is None else _limited(kept, self.most_yes_no)
        count = len(kept) if self.most_questions is None else min(self.most_questions, len(kept))
        return tuple(kept[i * len(kept) // count] for i in range(count))


def _plain(question: Question) -> str:
    return one_line(question.text).casefold()


def closed_answer(question: Question) -> str | None:
    """Return ``"yes"`` or ``"no"`` where that is the gold answer, else None."""
    answer = R1_SEARCHER.normalize(question.answers[0])
    return answer if answer in _CLOSED else None


def _limited(questions: Sequence[Question], share: float) -> list[Question]:
    """Return the questions with at most a share of yes and no."""
    answers = [closed_answer(question) for question in questions]
    by_answer = {word: [i for i, a in enumerate(answers) if a == word] for word in _CLOSED}
    num_closed = sum(map(len, by_answer.values()))
    num_open = len(questions) - num_closed
    # closed / (closed + open) <= share; the addend absorbs the rounding of shares such as 0.1.
    count = num_closed if share == 1 else int(share * num_open / (1 - share) + 1e-9)
    count = min(count, num_closed)
    fewer, more = sorted(_CLOSED, key=lambda word: len(by_answer[word]))
    counts = {fewer: min(count // 2, len(by_answer[fewer]))}
    counts[more] = min(count - counts[fewer], len(by_answer[more]))
    counts[fewer] = count - counts[more]
    kept = {
        indices[i * len(indices) // counts[word]]
        for word, indices in by_answer.items()
        for i in range(counts[word])
    }
    return [q for i, q in enumerate(questions) if answers[i] is None or i in kept]
