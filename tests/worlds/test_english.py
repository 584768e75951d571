"""The world's English: templates fit the facts, articles state every fact once."""

from __future__ import annotations

import re
from string import Formatter

import pytest

from search_env.worlds.encyclopaedia.articles import Writer
from search_env.worlds.encyclopaedia.entity_names import Naming
from search_env.worlds.encyclopaedia.facts import RELATIONS_OF, Facts
from search_env.worlds.encyclopaedia.fillers import FAME, FILLERS
from search_env.worlds.encyclopaedia.layouts import LAYOUTS
from search_env.worlds.encyclopaedia.relations import RELATIONS
from search_env.worlds.encyclopaedia.rules import RULES
from search_env.worlds.encyclopaedia.schema import KINDS, PROFESSIONS
from search_env.worlds.encyclopaedia.values import LITERALS, literal

GRAMMAR = {"name", "noun", "profession", "fame", "was", "S", "s", "P", "p"}


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name}


@pytest.fixture(scope="module")
def world():
    facts = Facts(2000, 4, "train")
    naming = Naming(facts)
    return facts, naming, Writer(facts, naming)


@pytest.mark.parametrize("kind", KINDS)
def test_each_relation_is_stated_by_one_sentence_of_the_layout(kind):
    names = {relation.name for relation in RELATIONS_OF[kind]}
    layout, stated = LAYOUTS[kind], []
    for sentence in (layout.lead, *layout.body, *layout.last):
        facts = {frozenset(fields(template) & names) for template in sentence}
        assert len(facts) == 1, f"the alternatives of {sentence} state different facts"
        stated += facts.pop()
        for template in sentence:
            assert fields(template) <= names | set(FILLERS) | GRAMMAR, template
            assert template.endswith(".")
    assert sorted(stated) == sorted(names)


def test_every_relation_has_a_rule():
    auxiliary = {("person", "profession"), ("person", "birth_year")}
    assert set(RULES) == set(RELATIONS) | auxiliary
    assert set(FAME) == set(PROFESSIONS)


def test_question_templates_have_the_right_places():
    for relation in set(RELATIONS.values()):
        assert relation.value in {*KINDS, *LITERALS}
        for template in (*relation.ask, *relation.noun):
            assert fields(template) == {"s"}
        for template in relation.ask:
            assert template.endswith("?")
        for template in relation.same:
            assert fields(template) == {"a", "b"}
        if relation.clause:
            assert fields(relation.clause) == {"o"}
        if comparison := relation.comparison:
            for templates in (comparison.least, comparison.most, comparison.less, comparison.more):
                assert all(fields(t) == {"a", "b"} and t.endswith("?") for t in templates)
        # A chain continues through an entity and ends at a literal.
        assert bool(relation.noun) == (relation.value in KINDS)


def test_every_fact_stands_in_its_article(world):
    facts, naming, writer = world
    for entity in range(facts.articles):
        text = writer.text(entity)
        assert naming.name(entity) in text
        for relation, value in facts.of(entity):
            is_literal = relation.value in LITERALS
            mention = literal(relation, value) if is_literal else naming.mention(value)
            assert mention in text or mention[0].upper() + mention[1:] in text


def test_articles_are_clean_english(world):
    facts, _, writer = world
    lengths = []
    for entity in range(facts.articles):
        text = writer.text(entity)
        lengths.append(len(text.split()))
        assert not re.search(r"[{}]|  |\.\.| \.|,,|\bNone\b", text), text
        assert not re.search(r"\b[Aa] [aeioAEIO]", text), text
        assert not re.search(r"\b[Aa]n [^aeiouAEIOU]", text), text
        assert not re.search(r"\b(\w+) \1\b", text), text
        assert all(s[0].isupper() for s in re.split(r"(?<=\.) ", text)), text
    assert sorted(lengths)[len(lengths) // 50] >= 35
    assert sorted(lengths)[len(lengths) * 49 // 50] <= 95


def test_people_live_plausible_lives(world):
    facts, _, _ = world
    people = facts.first["person"]
    for entity in range(people, people + facts.counts["person"]):
        born = facts.value(entity, "birth_date")
        died, teacher = facts.value(entity, "death_date"), facts.value(entity, "teacher")
        assert died < 0 or 60 * 365 < died - born < 97 * 366
        if teacher >= 0:
            assert 17 * 365 < born - facts.value(teacher, "birth_date") < 51 * 366
        spouse = facts.value(entity, "spouse")
        if spouse >= 0:
            assert facts.value(spouse, "spouse") == -1
            assert abs(facts.value(spouse, "birth_date") - born) < 17 * 366


def test_geography_and_works_fit_together(world):
    facts, _, _ = world
    for country in range(facts.counts["country"]):
        region = facts.value(facts.value(country, "capital"), "region")
        assert facts.value(region, "country") == country
    for index in range(facts.counts["region"]):
        region = facts.first["region"] + index
        assert facts.value(facts.value(region, "seat"), "region") == region
    for index in range(facts.counts["river"]):
        river = facts.first["river"] + index
        assert facts.value(river, "mouth") < river
    for index in range(facts.counts["film"]):
        film = facts.first["film"] + index
        basis = facts.value(film, "basis")
        assert basis < 0 or facts.value(basis, "published") < facts.value(film, "released")


def test_namesakes_differ_in_title_and_their_articles_say_so(world):
    facts, naming, writer = world
    twins = naming.twins
    assert {facts.kind(e) for e in twins} == {
        *("person", "city", "river", "film", "novel", "opera", "painting"),
    }
    for entity, other in twins.items():
        assert twins[other] == entity
        assert naming.name(entity) == naming.name(other)
        assert naming.noun(entity) != naming.noun(other)
        assert naming.title(entity) == f"{naming.name(entity)} ({naming.noun(entity)})"
        assert f"confused with the {naming.noun(other)} of the same name" in writer.text(entity)


def test_many_people_share_a_surname_or_a_given_name(world):
    facts, naming, _ = world
    first = facts.first["person"]
    people = [naming.person(e) for e in range(first, first + facts.counts["person"])]
    assert len({surname for _, surname in people}) < len(people) / 2
    assert len({name for name, _ in people}) < len(people) / 3
