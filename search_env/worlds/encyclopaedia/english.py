"""English of logical forms: the question, its hops with keyword queries, its answers."""

from __future__ import annotations

from search_env.worlds.encyclopaedia.entity_names import Naming
from search_env.worlds.encyclopaedia.facts import Facts
from search_env.worlds.encyclopaedia.forms import (
    Compare,
    Form,
    Join,
    Named,
    Path,
    QuestionForm,
    denote,
    depth,
    relation_of,
    root,
    truth,
)
from search_env.worlds.encyclopaedia.relations import RELATIONS
from search_env.worlds.encyclopaedia.rng import Draws
from search_env.worlds.encyclopaedia.schema import KINDS, WORKS, Relation
from search_env.worlds.encyclopaedia.values import LITERALS, literal, literal_answers


class English:
    """English of the forms of one world, from its fact graph and names."""

    def __init__(self, facts: Facts, naming: Naming) -> None:
        self._facts = facts
        self._naming = naming

    def question(self, form: QuestionForm, draws: Draws) -> str:
        """Return the question, in one of its phrasings."""
        if isinstance(form, Compare):
            text = self._comparison(form, draws)
        elif isinstance(form, Join):
            who = "Who" if form.kind == "person" else f"Which {KINDS[form.kind].noun}"
            text = f"{who} {self._clauses(form, draws)}?"
        elif isinstance(form, Path):
            text = self._around(relation_of(self._facts, form).ask, _shortcut(form), draws)
        else:
            raise TypeError(
                f"Expected a form of a question, got {form}. Pass a Path, Join or Compare."
            )
        return text[0].upper() + text[1:]

    def phrase(self, form: Form, draws: Draws) -> str:
        """Return a noun phrase for the entity or value that the form describes."""
        if isinstance(form, Named):
            return self._mention(form.entity, draws)
        if isinstance(form, Join):
            noun, that = (
                ("person", "who") if form.kind == "person" else (KINDS[form.kind].noun, "that")
            )
            return f"the {noun} {that} {self._clauses(form, draws)}"
        return self._around(relation_of(self._facts, form).noun, _shortcut(form), draws)

    def _around(self, templates: tuple[str, ...], subject: Form, draws: Draws) -> str:
        """Return one of the templates around a subject, a long one at the end if possible."""
        if depth(subject) > 1:
            right = tuple(t for t in templates if t.removesuffix("?").endswith("{s}"))
            templates = right or templates
        return draws.choice(templates).format(s=self.phrase(subject, draws))

    def answers(self, form: QuestionForm) -> tuple[str, ...]:
        """Return the gold answer and its aliases."""
        if isinstance(form, Compare):
            holds = truth(self._facts, form)
            if form.operator in ("less", "more", "same"):
                return ("yes",) if holds else ("no",)
            return self._entity_answers(denote(self._facts, root(form.sides[0 if holds else 1])))
        value = denote(self._facts, form)
        if isinstance(form, Path):
            relation = relation_of(self._facts, form)
            if relation.value in LITERALS:
                return literal_answers(relation, value)
        return self._entity_answers(value)

    def hops(self, form: QuestionForm) -> list[tuple[int, str, str]]:
        """Return the steps to the answer: (entity of the article, query, answer of the step)."""
        if isinstance(form, Named):
            return []
        if isinstance(form, Compare):
            return [hop for side in form.sides for hop in self.hops(Path(side, form.relation))]
        if isinstance(form, Join):
            return self._join_hops(form, "")
        relation = relation_of(self._facts, form)
        value = denote(self._facts, form)
        is_literal = relation.value in LITERALS
        answer = literal(relation, value) if is_literal else self._naming.name(value)
        if isinstance(form.of, Join):
            # The article with both facts also states the value: one search, one step.
            *before, (entity, query, _) = self._join_hops(form.of, relation.keywords)
            return [*before, (entity, query, answer)]
        entity = denote(self._facts, form.of)
        return [*self.hops(form.of), (entity, f"{self._key(entity)} {relation.keywords}", answer)]

    def _join_hops(self, form: Join, keywords: str) -> list[tuple[int, str, str]]:
        """Return the steps to both objects, then one search for the article with both."""
        entity = denote(self._facts, form)
        objects = [self._naming.name(denote(self._facts, described)) for described in form.objects]
        keywords = keywords or self._naming.noun(entity)
        steps = [hop for described in form.objects for hop in self.hops(described)]
        return [*steps, (entity, f"{' '.join(objects)} {keywords}", self._naming.name(entity))]

    def _key(self, entity: int) -> str:
        """Return a name for a keyword query, with the noun where the name is ambiguous."""
        name = self._naming.name(entity)
        return f"{name} {self._naming.noun(entity)}" if entity in self._naming.twins else name

    def _comparison(self, form: Compare, draws: Draws) -> str:
        relation = relation_of(self._facts, form)
        templates = _templates(relation, form.operator)
        if form.operator in ("least", "most") and isinstance(form.sides[0], Path):
            return self._which_root(form, draws)
        sides = [_shortcut(Path(side, form.relation)) for side in form.sides]
        if form.operator == "same":
            sides.sort(key=depth)  # "the spouse of A and B" reads as one person
        a, b = (self.phrase(side, draws) for side in sides)
        return draws.choice(templates).format(a=a, b=b)

    def _which_root(self, form: Compare, draws: Draws) -> str:
        """Return a question for the work whose maker was born (or died) first or last."""
        makers = [relation_of(self._facts, side) for side in form.sides if isinstance(side, Path)]
        works = [denote(self._facts, root(side)) for side in form.sides]
        a, b = (self._mention(work, draws) for work in works)
        noun, role = self._naming.noun(works[0]), makers[0].role
        verb = {"birth_date": "was born", "death_date": "died"}[form.relation]
        when = "first" if form.operator == "least" else "later"
        return draws.choice((
            f"Which {noun} has the {role} who {verb} {when}, {a} or {b}?",
            f"Between {a} and {b}, which {noun} has the {role} who {verb} {when}?",
        ))  # fmt: skip

    def _clauses(self, form: Join, draws: Draws) -> str:
        """Return the two facts of a join as verb phrases with "and" between them."""
        facts = sorted(zip(form.objects, form.relations, strict=True), key=lambda f: depth(f[0]))
        first, second = (
            RELATIONS[form.kind, relation].clause.format(o=self.phrase(described, draws))
            for described, relation in facts
        )
        return f"{first}{', and' if depth(facts[0][0]) else ' and'} {second}"

    def _mention(self, entity: int, draws: Draws) -> str:
        """Return the name of an entity, with its noun where needed and sometimes elsewhere."""
        kind = self._facts.kind(entity)
        name = self._naming.name(entity)
        name = f'"{name}"' if kind in WORKS else name
        if entity in self._naming.twins or not KINDS[kind].plain or draws.chance(40):
            return self._naming.typed(entity, name)
        return KINDS[kind].plain.format(name=name)

    def _entity_answers(self, entity: int) -> tuple[str, ...]:
        name, title = self._naming.name(entity), self._naming.title(entity)
        forms = [name, title]
        if self._facts.kind(entity) == "river":
            forms.append(f"{name} River")
        if self._facts.kind(entity) == "mountain":
            forms.append(name.removeprefix("Mount "))
        return tuple(dict.fromkeys(forms))


def _shortcut(form: Path) -> Form:
    """Return the subject of a path in words: a city, not its region, is in a country."""
    if form.relation == "country" and isinstance(form.of, Path) and form.of.relation == "region":
        return form.of.of
    return form.of


def _templates(relation: Relation, operator: str) -> tuple[str, ...]:
    """Return the question templates of a comparison; see :class:`Compare`."""
    if operator == "same":
        return relation.same
    asks = relation.comparison
    if asks is None:
        raise TypeError(f"Expected a relation with a comparison, got {relation.name}.")
    by_operator = {"least": asks.least, "most": asks.most, "less": asks.less, "more": asks.more}
    return by_operator[operator]
