"""The logical forms of questions and their denotations in the fact graph.

A form describes one entity or one value: by name, as the value of a relation of something
described, or as the only entity of a kind with two facts. :class:`Compare` compares two described
entities. Everything is immutable and hashable, so equal questions are equal forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from search_env.worlds.encyclopaedia.facts import Facts
from search_env.worlds.encyclopaedia.relations import RELATIONS
from search_env.worlds.encyclopaedia.schema import Relation


@dataclass(frozen=True, slots=True)
class Named:
    """An entity, described by its name."""

    entity: int


@dataclass(frozen=True, slots=True)
class Path:
    """The value of a relation of a described entity: ``the teacher of X``."""

    of: Form
    relation: str


@dataclass(frozen=True, slots=True)
class Join:
    """The only entity of a kind with two facts: ``the novel that X wrote and that is set in Y``."""

    kind: str
    relations: tuple[str, str]
    objects: tuple[Form, Form]


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison of two described entities by the value of a relation.

    Operators ``"least"`` and ``"most"`` ask which of the two; the answer is the entity that the
    question names (the ``X`` of ``the director of X``). ``"less"``, ``"more"``, ``"same"``: yes or
    no.
    """

    operator: str
    relation: str
    sides: tuple[Form, Form]


Form: TypeAlias = Named | Path | Join
QuestionForm: TypeAlias = Form | Compare


def relation_of(facts: Facts, form: Path | Compare) -> Relation:
    """Return the relation that a path or a comparison ends with."""
    subject = form.of if isinstance(form, Path) else form.sides[0]
    return RELATIONS[facts.kind(denote(facts, subject)), form.relation]


def denote(facts: Facts, form: Form) -> int:
    """Return the entity or value that a form describes, -1 where there is none or more than one."""
    if isinstance(form, Named):
        return form.entity
    if isinstance(form, Path):
        return facts.value(denote(facts, form.of), form.relation)
    first, second = (
        facts.subjects(form.kind, relation, denote(facts, described)).tolist()
        for relation, described in zip(form.relations, form.objects, strict=True)
    )
    both = set(first) & set(second)
    return both.pop() if len(both) == 1 else -1


def truth(facts: Facts, form: Compare) -> bool:
    """Return whether a comparison holds; for ``least`` and ``most``, of the first side."""
    first, second = (facts.value(denote(facts, side), form.relation) for side in form.sides)
    if form.operator == "same":
        return first == second
    return first < second if form.operator in ("less", "least") else first > second


def root(form: Form) -> Named | Join:
    """Return the start of a chain of relations."""
    return root(form.of) if isinstance(form, Path) else form


def depth(form: Form) -> int:
    """Return the nesting depth of a description, 0 for a name."""
    if isinstance(form, Join):
        return 1 + max(map(depth, form.objects))
    return 1 + depth(form.of) if isinstance(form, Path) else 0
