"""Draws the logical forms of questions, kind by kind.

A sampler returns a form that denotes exactly one entity or value, or None for a failed draw, after
which the caller draws again. Yes and no, and the first and the second of two, are equally frequent
by construction: both variants must exist before a coin decides between them.
"""

from __future__ import annotations

from collections.abc import Callable

from search_env.worlds.encyclopaedia.entity_names import Naming
from search_env.worlds.encyclopaedia.facts import RELATIONS_OF, Facts
from search_env.worlds.encyclopaedia.forms import (
    Compare,
    Form,
    Join,
    Named,
    Path,
    QuestionForm,
    denote,
    truth,
)
from search_env.worlds.encyclopaedia.relations import RELATIONS
from search_env.worlds.encyclopaedia.rng import Draws
from search_env.worlds.encyclopaedia.schema import KINDS
from search_env.worlds.encyclopaedia.values import LITERALS

MAX_HOPS = 4

INCOMING: dict[str, tuple[tuple[str, str], ...]] = {
    kind: tuple(at for at, r in RELATIONS.items() if r.value == kind and r.noun) for kind in KINDS
}
"""Relations that lead to a kind and have a noun phrase, as (kind of subject, name)."""


class Sampler:
    """Draws forms over the facts of one world."""

    def __init__(self, facts: Facts, naming: Naming) -> None:
        self._facts = facts
        self._naming = naming

    def chain(self, hops: int, draws: Draws) -> QuestionForm | None:
        """Return a chain of ``hops`` relations from a named entity."""
        return self._walk(Named(draws.below(self._facts.articles)), hops, draws)

    def comparison(self, hops: int, draws: Draws) -> QuestionForm | None:
        """Return a comparison whose sides are described by ``hops - 2`` relations together."""
        first = draws.below(self._facts.articles)
        relations = [(r, v) for r, v in self._facts.of(first) if r.comparison or r.same]
        if not relations:
            return None
        relation, value = draws.choice(relations)
        steps = self._split(hops - 2, draws)
        if relation.same:
            operator, second = "same", self._alike(first, relation.name, value, steps[1], draws)
        else:
            # A chain would name the compared entities, so only yes/no questions have one.
            operator = draws.choice(
                ("less", "more") if hops > 2 else ("less", "more", "least", "most")
            )
            second = self._other(first, relation.name, value, steps[1], draws)
        side = self.describe(first, steps[0], draws)
        if side is None or second is None:
            return None
        return self._ordered(operator, relation.name, (side, second), draws)

    def makers(self, hops: int, draws: Draws) -> QuestionForm | None:
        """Return which of two works has the older (or younger) maker: always four hops."""
        first = draws.below(self._facts.articles)
        kind = self._facts.kind(first)
        roles = [r.name for r in RELATIONS_OF[kind] if r.role]
        if not roles:
            return None
        role = draws.choice(roles)
        second = self._facts.first[kind] + draws.below(self._facts.counts[kind])
        people = [self._facts.value(work, role) for work in (first, second)]
        aspect = draws.choice(("birth_date", "birth_date", "death_date"))
        if min(people) < 0 or len({self._facts.value(p, aspect) for p in people} - {-1}) < 2:
            return None
        sides = (Path(Named(first), role), Path(Named(second), role))
        return self._ordered(draws.choice(("least", "most")), aspect, sides, draws)

    def join(self, hops: int, draws: Draws) -> QuestionForm | None:
        """Return an intersection whose objects are described by ``hops - 1`` relations together."""
        return self._join(self._split(hops - 1, draws), draws)

    def join_chain(self, hops: int, draws: Draws) -> QuestionForm | None:
        """Return a chain that starts from an intersection."""
        # The article of the intersection also states the first step, so a chain of n + 1 relations
        # takes n more articles.
        after = 1 + draws.below(hops - 1)
        start = self._join(self._split(hops - 1 - after, draws), draws)
        return None if start is None else self._walk(start, after + 1, draws)

    def describe(self, entity: int, steps: int, draws: Draws) -> Form | None:
        """Return a description of an entity by a chain of ``steps`` relations that lead to it."""
        if not steps:
            return Named(entity)
        for kind, relation in draws.shuffled(INCOMING[self._facts.kind(entity)]):
            subjects = self._facts.subjects(kind, relation, entity)
            if len(subjects):
                subject = int(subjects[draws.below(len(subjects))])
                inner = self.describe(subject, steps - 1, draws)
                return None if inner is None else Path(inner, relation)
        return None

    def _walk(self, form: Form, steps: int, draws: Draws) -> Form | None:
        """Return the form followed by ``steps`` relations, without returning to an entity."""
        seen = {denote(self._facts, form)}
        used: tuple[str, ...] = form.relations if isinstance(form, Join) else ()
        for remaining in range(steps, 0, -1):
            entity = denote(self._facts, form)
            onward = [
                relation.name
                for relation, value in self._facts.of(entity)
                if (remaining == 1 or relation.noun)
                and relation.name not in used
                and (relation.value in LITERALS or value not in seen)
            ]
            if not onward:
                return None
            form, used = Path(form, draws.choice(onward)), ()
            seen.add(denote(self._facts, form))
        return form

    def _join(self, steps: tuple[int, int], draws: Draws) -> Join | None:
        entity = draws.below(self._facts.articles)
        kind = self._facts.kind(entity)
        facts = [(r.name, value) for r, value in self._facts.of(entity) if r.clause]
        if len(facts) < 2:
            return None
        (one, first), (two, second) = draws.shuffled(facts)[:2]
        # Each fact alone must leave more than one candidate, or the other would be redundant.
        for relation, value in ((one, first), (two, second)):
            if len(self._facts.subjects(kind, relation, value)) < 2:
                return None
        a, b = (self.describe(v, n, draws) for v, n in ((first, steps[0]), (second, steps[1])))
        if a is None or b is None:
            return None
        form = Join(kind, (one, two), (a, b))
        return form if denote(self._facts, form) == entity else None

    def _alike(
        self, entity: int, relation: str, value: int, steps: int, draws: Draws
    ) -> Form | None:
        """Return a description of an entity with the same value or another one, by a coin."""
        like = self._facts.subjects(self._facts.kind(entity), relation, value)
        partner = int(like[draws.below(len(like))])
        if partner == entity:
            return None
        forms = (
            self.describe(partner, steps, draws),
            self._other(entity, relation, value, steps, draws),
        )
        return forms[draws.below(2)] if None not in forms else None

    def _other(
        self, entity: int, relation: str, value: int, steps: int, draws: Draws
    ) -> Form | None:
        """Return a description of an entity of the same kind with another value."""
        kind = self._facts.kind(entity)
        other = self._facts.first[kind] + draws.below(self._facts.counts[kind])
        if self._facts.value(other, relation) in (-1, value):
            return None
        return self.describe(other, steps, draws)

    def _ordered(
        self, operator: str, relation: str, sides: tuple[Form, Form], draws: Draws
    ) -> Compare | None:
        """Return the comparison with its sides in random order."""
        names = {self._naming.name(denote(self._facts, side)) for side in sides}
        if len(names) < 2:
            return None  # the answer would be ambiguous
        form = Compare(operator, relation, sides)
        swap = draws.chance(50) != (operator != "same" and truth(self._facts, form))
        return Compare(operator, relation, (sides[1], sides[0])) if swap else form

    @staticmethod
    def _split(steps: int, draws: Draws) -> tuple[int, int]:
        """Return two numbers of steps with this sum."""
        first = draws.below(steps + 1)
        return first, steps - first


Shape = Callable[[Sampler, int, Draws], "QuestionForm | None"]

SHAPES: dict[str, tuple[tuple[int, Shape], ...]] = {
    "lookup-1hop": ((4, Sampler.chain),),
    "intersection-1hop": ((1, Sampler.join),),
    "bridge-2hop": ((4, Sampler.chain),),
    "comparison-2hop": ((2, Sampler.comparison),),
    "intersection-2hop": ((2, Sampler.join),),
    "bridge-3hop": ((3, Sampler.chain),),
    "intersection-3hop": ((2, Sampler.join),),
    "composition-3hop": ((2, Sampler.comparison), (2, Sampler.join_chain)),
    "bridge-4hop": ((3, Sampler.chain),),
    "composition-4hop": ((2, Sampler.comparison), (1, Sampler.makers), (2, Sampler.join_chain)),
}
"""The kinds of question: weight among those of equally many hops, and sampler."""


def hops_of(kind: str) -> int:
    """Return the number of hops of a kind of question, such as 2 of ``"bridge-2hop"``."""
    return int(kind.rpartition("-")[2].removesuffix("hop"))
