"""Generates questions: draws forms, writes them in English, and keeps the valid ones.

A question is kept if its form and text are new, its steps need as many articles as it has hops,
and, except for comparisons, its answer is neither in the question nor in an article of an earlier
step.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

from search_env.errors import ConfigurationError
from search_env.types import SPLITS, Hop, Question
from search_env.validation import check_choice
from search_env.worlds.encyclopaedia.english import English
from search_env.worlds.encyclopaedia.entity_names import Naming
from search_env.worlds.encyclopaedia.facts import Facts
from search_env.worlds.encyclopaedia.forms import Compare, QuestionForm
from search_env.worlds.encyclopaedia.rng import Draws, key
from search_env.worlds.encyclopaedia.sampling import MAX_HOPS, SHAPES, Sampler, Shape, hops_of

KNOWN = "known"
"""Instead of a split: facts that are the same in every split."""

QuestionTable = dict[int, tuple[tuple[str, Shape], ...]]
"""Kinds of questions by number of hops, each repeated by its weight."""

_ATTEMPTS = 1500  # draws for one question until the world counts as exhausted


def kinds_by_hops(hops: Sequence[int], kinds: Sequence[str] | None) -> QuestionTable:
    """Return the kinds to draw from by number of hops, each repeated by its weight.

    ``kinds`` are such as ``"bridge-2hop"`` or families such as ``"bridge"``; None for all.
    """
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    _check(hops, kinds)
    table = {}
    for number in hops:
        shapes = [
            (kind, shape)
            for kind, weighted in SHAPES.items()
            if hops_of(kind) == number and (kinds is None or {kind, _family(kind)} & set(kinds))
            for weight, shape in weighted
            for _ in range(weight)
        ]
        if shapes:
            table[number] = tuple(shapes)
    if not table:
        raise ConfigurationError(
            f"Expected kinds with these numbers of hops, got hops={tuple(hops)} and kinds={kinds}. "
            f"Choose from {sorted(SHAPES)}."
        )
    return table


def _check(hops: Sequence[int], kinds: Sequence[str] | None) -> None:
    """Raise if a number of hops or a kind does not exist."""
    if not isinstance(hops, Iterable) or not all(n in range(1, MAX_HOPS + 1) for n in hops):
        raise ConfigurationError(
            f"Expected hops to be numbers of 1 to {MAX_HOPS}, got {hops!r}. "
            "Pass for example hops=(1, 2)."
        )
    for kind in kinds or ():
        check_choice("kinds", kind, [*SHAPES, *dict.fromkeys(map(_family, SHAPES))])


def _family(kind: str) -> str:
    """Return the kind without its number of hops."""
    return kind.rpartition("-")[0]


def document_id(prefix: str, entity: int) -> str:
    """Return the id of an entity's article, unique across worlds."""
    return f"{prefix}-{entity:06d}"


class QuestionGenerator:
    """Generates a world's questions; ``text`` is an entity's article, ids start with ``prefix``.

    The questions on known facts are shared out between the splits.
    """

    def __init__(
        self, facts: Facts, naming: Naming, text: Callable[[int], str], prefix: str, split: str
    ) -> None:
        self._facts, self._split = facts, split
        self._text = lru_cache(maxsize=10_000)(text)
        self._prefix = prefix
        self._english = English(facts, naming)
        self._sampler = Sampler(facts, naming)

    def generate(self, table: QuestionTable, seed: int) -> Iterator[tuple[QuestionForm, Question]]:
        """Yield different questions with their forms, by hops in rotation, until none is drawn."""
        start = key(self._facts.seed, self._facts.split, "questions", seed)
        seen: set[QuestionForm | str] = set()
        for slot, number in enumerate(itertools.cycle(table)):
            question = self._draw(table[number], start + slot, seen)
            if question is None:
                return
            yield question

    def _draw(
        self, shapes: tuple[tuple[str, Shape], ...], start: int, seen: set[QuestionForm | str]
    ) -> tuple[QuestionForm, Question] | None:
        """Return a new question and add it to ``seen``; None after too many draws."""
        draws = Draws(start)
        for _ in range(_ATTEMPTS):
            kind, shape = draws.choice(shapes)
            form = shape(self._sampler, hops_of(kind), draws)
            if form is None or form in seen:
                continue
            question = self._question(kind, form, draws)
            if question is not None and question.text not in seen:
                seen.update((form, question.text))
                return form, question
        return None

    def _question(self, kind: str, form: QuestionForm, draws: Draws) -> Question | None:
        """Return the question of a form, None if its answer shows before the last step."""
        steps = self._english.hops(form)
        entities = [entity for entity, _, _ in steps]
        if len(set(entities)) != hops_of(kind) or not self._is_of_split(steps):
            return None
        text = self._english.question(form, draws)
        answers = self._english.answers(form)
        if not isinstance(form, Compare):
            earlier = (text, *map(self._text, entities[:-1]))
            if any(answers[0] in place for place in earlier):
                return None
        ids = [document_id(self._prefix, entity) for entity in entities]
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return Question(
            id=f"{self._prefix}-q-{digest}",
            text=text,
            answers=answers,
            dataset="world",
            split=self._split,
            kind=kind,
            supporting=tuple(ids),
            hops=tuple(Hop(query, a, i) for (_, query, a), i in zip(steps, ids, strict=True)),
        )

    def _is_of_split(self, steps: Sequence[tuple[int, str, str]]) -> bool:
        """Return whether a question with these steps is one of the split's."""
        if self._facts.split != KNOWN:
            return True
        queries = sorted(query for _, query, _ in steps)
        return SPLITS[key("split", *queries) % len(SPLITS)] == self._split
