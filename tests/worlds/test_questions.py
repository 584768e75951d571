"""The world's questions, checked against the facts that a reader finds in all articles.

The reader is independent of the fact graph: it extracts the facts from the articles' sentences
with regular expressions and evaluates each question's logical form on them by brute force.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.errors import ConfigurationError
from search_env.worlds.encyclopaedia import World
from search_env.worlds.encyclopaedia.facts import RELATIONS_OF
from search_env.worlds.encyclopaedia.forms import Compare, Join, Named, Path
from search_env.worlds.encyclopaedia.layouts import LAYOUTS
from search_env.worlds.encyclopaedia.questions import kinds_by_hops
from search_env.worlds.encyclopaedia.sampling import SHAPES
from search_env.worlds.encyclopaedia.schema import KINDS, PROFESSIONS

NOUNS = sorted({*PROFESSIONS, *(kind.noun for kind in KINDS.values())}, key=len, reverse=True)
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)


@cache
def patterns(kind: str) -> list[re.Pattern[str]]:
    """The sentences of a kind's articles, those with the most words of their own first."""
    layout = LAYOUTS[kind]
    relations = {relation.name: relation.value for relation in RELATIONS_OF[kind]}
    sentences = (layout.lead, *layout.body, *layout.last)
    templates = [template for sentence in sentences for template in sentence]
    templates.sort(key=lambda template: -len(re.sub(r"\{\w+\}", "", template)))
    return [pattern(template, relations) for template in templates]


LITERAL = {"date": r"\d+ \w+ \d{4}", "year": r"\d{3,4}", "number": r"[\d,]+"}


def pattern(template: str, relations: dict[str, str]) -> re.Pattern[str]:
    """The sentences of a template, with a group for each fact in it."""
    parts = re.split(r"\{(\w+)\}", template)
    for at in range(1, len(parts), 2):
        value = LITERAL.get(relations.get(parts[at], ""), ".+?")
        parts[at] = f"(?P<{parts[at]}>{value})" if parts[at] in relations else value
    for at in range(0, len(parts), 2):
        parts[at] = re.escape(parts[at])
    return re.compile("".join(parts))


class Reader:
    """Knows only the titles and the sentences of the articles."""

    def __init__(self, world: World) -> None:
        self.kinds = {
            d.title: world._parts[0].facts.kind(i) for i, d in enumerate(world.documents())
        }
        self.title_of = {i: d.title for i, d in enumerate(world.documents())}
        self.facts = {d.title: self.read(d.title, d.text) for d in world.documents()}

    def read(self, title: str, text: str) -> dict[str, str]:
        mentions: dict[str, str] = {}
        for sentence in re.split(r"(?<=\.) ", text):
            matches = (candidate.fullmatch(sentence) for candidate in patterns(self.kinds[title]))
            if match := next(filter(None, matches), None):
                assert mentions.keys().isdisjoint(match.groupdict())
                mentions |= match.groupdict()
        return {relation: self.resolve(text) for relation, text in mentions.items()}

    def resolve(self, text: str) -> str:
        """The title that a mention means, or the literal itself."""
        bare = re.sub(r"^[Tt]he ", "", text)
        for noun in NOUNS:
            for start in (f"{noun} of ", f"{noun} "):
                name = bare.removeprefix(start)
                if name != bare:
                    for title in (f"{name} ({noun})", name):
                        if title in self.kinds:
                            return title
        candidates = [title for title in (text, bare) if title in self.kinds]
        assert candidates or re.match(r"[\d,]+$|\d+ \w+ \d{4}$", text), text
        return candidates[0] if candidates else text

    def denote(self, form) -> set[str]:
        """Everything that a description may mean."""
        if isinstance(form, Named):
            return {self.title_of[form.entity]}
        if isinstance(form, Path):
            subjects = [self.facts[title] for title in self.denote(form.of)]
            return {facts[form.relation] for facts in subjects if form.relation in facts}
        described_objects = [self.denote(described) for described in form.objects]
        return {
            title
            for title, kind in self.kinds.items()
            if kind == form.kind
            and all(
                self.facts[title].get(relation) in objects
                for relation, objects in zip(form.relations, described_objects, strict=True)
            )
        }

    def answers(self, form) -> set[str]:
        if not isinstance(form, Compare):
            return {re.sub(r" \([a-z ]+\)$", "", title) for title in self.denote(form)}
        (a,), (b,) = (self.denote(side) for side in form.sides)
        first, second = (comparable(self.facts[title][form.relation]) for title in (a, b))
        if form.operator == "same":
            return {"yes" if first == second else "no"}
        assert first != second
        smaller = first < second
        if form.operator in ("less", "more"):
            return {"yes" if smaller == (form.operator == "less") else "no"}
        side = form.sides[0 if smaller == (form.operator == "least") else 1]
        while isinstance(side, Path):
            side = side.of
        return {re.sub(r" \([a-z ]+\)$", "", title) for title in self.denote(side)}


def comparable(text: str):
    """A date or a number in its order; a name as it is."""
    if match := re.fullmatch(r"(\d+) (\w+) (\d{4})", text):
        return int(match[3]), MONTHS.index(match[2]), int(match[1])
    return int(text.replace(",", "")) if re.fullmatch(r"[\d,]+", text) else text


def generate(world: World, count: int, seed: int = 0):
    """Questions with their logical forms."""
    generator = world._parts[0].generator()
    return list(islice(generator.generate(kinds_by_hops((1, 2, 3, 4), None), seed), count))


@pytest.fixture(scope="module")
def world() -> World:
    return World(1500, seed=3)


@pytest.fixture(scope="module")
def questions(world):
    return generate(world, 3000)


def test_a_reader_of_all_articles_finds_exactly_the_gold_answer(world, questions):
    reader = Reader(world)
    for form, question in questions:
        assert reader.answers(form) == {question.answers[0]}, question.text


def test_a_reader_finds_all_facts(world):
    reader = Reader(world)
    for entity in range(len(world)):
        facts = {relation.name for relation, _ in world._parts[0].facts.of(entity)}
        assert set(reader.facts[world.document(entity).title]) == facts


def names_in(form):
    if isinstance(form, Named):
        return [form.entity]
    if isinstance(form, Path):
        return names_in(form.of)
    parts = form.objects if isinstance(form, Join) else form.sides
    return [entity for part in parts for entity in names_in(part)]


def test_questions_name_their_entities_unambiguously(world, questions):
    naming = world._parts[0].naming
    for form, question in questions:
        for entity in names_in(form):
            name = naming.name(entity)
            assert name in question.text
            if entity in naming.twins:
                quoted = rf"the {naming.noun(entity)} (of )?\"?{re.escape(name)}"
                assert re.search(quoted, question.text), question.text


def test_each_hop_is_answered_by_its_document(world, questions):
    documents = {d.id: d for d in world.documents()}
    for _, question in questions:
        assert question.supporting == tuple(hop.document_id for hop in question.hops)
        assert len(set(question.supporting)) == len(question.hops)
        for hop in question.hops:
            assert hop.answer in documents[hop.document_id].text
            assert hop.query


def test_answers_are_only_in_the_last_article(world, questions):
    documents = {d.id: d for d in world.documents()}
    for form, question in questions:
        if isinstance(form, Compare):
            continue
        assert question.hops[-1].answer == question.answers[0]
        assert question.answers[0] not in question.text
        for document in question.supporting[:-1]:
            assert question.answers[0] not in documents[document].text


def test_kinds_say_the_number_of_hops_and_hops_are_even(questions):
    assert {question.kind for _, question in questions} == set(SHAPES)
    for _, question in questions:
        assert question.kind.endswith(f"-{len(question.hops)}hop")
    assert Counter(len(q.hops) for _, q in questions) == dict.fromkeys((1, 2, 3, 4), 750)


def test_questions_are_all_different(questions):
    assert len({question.text for _, question in questions}) == len(questions)
    assert len({question.id for _, question in questions}) == len(questions)
    assert len({form for form, _ in questions}) == len(questions)


def test_questions_are_clean_english(questions):
    for _, question in questions:
        text = question.text
        assert text[0].isupper()
        assert text.endswith("?")
        assert text.count("?") == 1
        assert not re.search(r"[{}]|  |\bthe the\b|\b[Aa] [aeio]", text), text
        assert text.count('"') % 2 == 0


def test_yes_and_no_and_the_order_of_two_are_balanced():
    world = World(3000, seed=1)
    questions = generate(world, 4000, seed=2)
    compared = [(form, q) for form, q in questions if isinstance(form, Compare)]
    yes = [q.answers[0] == "yes" for f, q in compared if f.operator in ("less", "more", "same")]
    first = [
        q.text.index(q.answers[0]) < len(q.text) - len(q.answers[0]) - 3
        for f, q in compared
        if f.operator in ("least", "most") and q.text.startswith("Wh")
    ]
    for outcomes, least in ((yes, 350), (first, 80)):
        assert len(outcomes) > least
        assert abs(sum(outcomes) / len(outcomes) - 0.5) < 2.6 * 0.5 / len(outcomes) ** 0.5


def test_a_shorter_list_is_the_start_of_a_longer_one(world):
    assert world.questions(40) == world.questions(100)[:40]
    assert world.questions(40, seed=1) != world.questions(40, seed=2)


def test_requested_hops_take_turns_and_kinds_are_kept(world):
    questions = world.questions(30, hops=(4, 2), kinds=["bridge", "composition-4hop"])
    assert [len(q.hops) for q in questions] == [4, 2] * 15
    assert {q.kind for q in questions} == {"bridge-2hop", "bridge-4hop", "composition-4hop"}
    assert {q.kind for q in world.questions(9, kinds="lookup")} == {"lookup-1hop"}
    assert world.questions(0) == []


@pytest.mark.parametrize(("articles", "count"), [(100, 200), (1000, 5000)])
def test_small_worlds_have_enough_questions(articles, count):
    assert len(World(articles, seed=4).questions(count)) == count


def test_an_exhausted_world_says_how_many_there_are():
    world = World(100, seed=1)
    with pytest.raises(ConfigurationError) as caught:
        world.questions(50_000, hops=(1,))
    possible = int(re.search(r"got ([\d,]+) from", str(caught.value))[1].replace(",", ""))
    assert len(world.questions(possible, hops=(1,))) == possible
    assert possible > 400


def test_answers_have_sensible_aliases(world):
    questions = world.questions(600)
    dates = [q.answers for q in questions if re.fullmatch(r"\d+ \w+ \d{4}", q.answers[0])]
    for written, american, iso in dates:
        day, month, year = written.split()
        assert american == f"{month} {day}, {year}"
        assert iso == f"{year}-{MONTHS.index(month) + 1:02d}-{int(day):02d}"
    numbers = [q.answers for q in questions if re.fullmatch(r"\d[\d,]*,\d{3}", q.answers[0])]
    assert dates
    assert numbers
    assert all(answers[1] == answers[0].replace(",", "") for answers in numbers)


@given(st.integers(100, 800), st.integers(0, 2**32), st.sampled_from(["train", "test"]))
@settings(max_examples=8)
def test_answers_are_unique_in_worlds_of_any_size(articles, seed, split):
    world = World(articles, seed, split)
    reader = Reader(world)
    for form, question in generate(world, 60, seed):
        assert reader.answers(form) == {question.answers[0]}, question.text
