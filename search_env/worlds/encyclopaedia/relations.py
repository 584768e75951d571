"""The relations of the world and the English of questions about them.

A relation is stated only in the article of its subject.
"""

from __future__ import annotations

from search_env.worlds.encyclopaedia.creations import ORGANISATION_RELATIONS, WORK_RELATIONS
from search_env.worlds.encyclopaedia.schema import Comparison, Relation, compared, office

_PERSON = ("person",)

_PEOPLE = (
    Relation(
        *("birth_date", _PERSON, "date", "born"),
        ask=(
            "When was {s} born?",
            "On what date was {s} born?",
            "What is the date of birth of {s}?",
        ),
        comparison=Comparison(
            least=("Who was born first, {a} or {b}?", "Who was born earlier, {a} or {b}?"),
            most=("Who was born later, {a} or {b}?",),
            less=("Was {a} born before {b}?", "Was {a} born earlier than {b}?"),
            more=("Was {a} born after {b}?", "Was {a} born later than {b}?"),
        ),
    ),
    Relation(
        *("birthplace", _PERSON, "city", "born"),
        ask=(
            "In which city was {s} born?",
            "Where was {s} born?",
            "What is the birthplace of {s}?",
        ),
        noun=("the city where {s} was born", "the birthplace of {s}"),
        clause="was born in {o}",
        same=("Were {a} and {b} born in the same city?",),
    ),
    Relation(
        *("death_date", _PERSON, "date", "died"),
        ask=("When did {s} die?", "On what date did {s} die?", "What is the date of death of {s}?"),
        comparison=Comparison(
            least=("Who died first, {a} or {b}?", "Who died earlier, {a} or {b}?"),
            most=("Who died later, {a} or {b}?",),
            less=("Did {a} die before {b}?",),
            more=("Did {a} die after {b}?", "Did {a} die later than {b}?"),
        ),
    ),
    Relation(
        *("death_place", _PERSON, "city", "died"),
        ask=(
            "In which city did {s} die?",
            "Where did {s} die?",
            "What was the place of death of {s}?",
        ),
        noun=("the city where {s} died", "the place of death of {s}"),
        clause="died in {o}",
        same=("Did {a} and {b} die in the same city?",),
    ),
    Relation(
        *("university", _PERSON, "university", "studied educated student"),
        ask=(
            "Which university did {s} attend?",
            "At which university did {s} study?",
            "Which university was attended by {s}?",
        ),
        noun=("the university where {s} studied", "the university attended by {s}"),
        clause="studied at {o}",
        same=(
            "Did {a} and {b} attend the same university?",
            "Did {a} and {b} study at the same university?",
        ),
    ),
    Relation(
        *("teacher", _PERSON, "person", "teacher taught pupil"),
        ask=("Who taught {s}?", "Who was the teacher of {s}?"),
        noun=("the teacher of {s}", "the person who taught {s}"),
        clause="was taught by {o}",
    ),
    Relation(
        *("spouse", _PERSON, "person", "married"),
        ask=("Who was {s} married to?", "Who was the spouse of {s}?"),
        noun=("the spouse of {s}", "the person who was married to {s}"),
    ),
    Relation(
        *("home", _PERSON, "city", "settled"),
        ask=(
            "In which city did {s} settle?",
            "Where did {s} settle?",
            "Which city became the adopted home of {s}?",
        ),
        noun=("the city where {s} settled", "the adopted home of {s}"),
        clause="settled in {o}",
        same=("Did {a} and {b} settle in the same city?",),
    ),
)

_PLACES = (
    Relation(
        *("capital", ("country",), "city", "capital"),
        ask=("What is the capital of {s}?", "Which city is the capital of {s}?"),
        noun=("the capital of {s}",),
    ),
    office("president", ("country",), "first president", keywords="first president"),
    Relation(
        *("independence", ("country",), "year", "independent"),
        ask=(
            "Since which year has {s} been independent?",
            "In which year did {s} become independent?",
            "What is the year of independence of {s}?",
        ),
        comparison=compared(
            "Which country became independent *, {a} or {b}?",
            "Did {a} become independent * {b}?",
            "first",
            "later",
            "before",
            "after",
        ),
    ),
    Relation(
        *("country", ("region",), "country", "region country"),
        ask=(
            "In which country is {s}?",
            "Which country does {s} belong to?",
            "Which country includes {s}?",
        ),
        noun=("the country in which {s} lies", "the country that includes {s}"),
        clause="lies in {o}",
        same=("Are {a} and {b} in the same country?", "Do {a} and {b} belong to the same country?"),
    ),
    Relation(
        *("seat", ("region",), "city", "administrative seat"),
        ask=("What is the administrative seat of {s}?",),
        noun=("the administrative seat of {s}",),
    ),
    Relation(
        *("area", ("country", "region"), "number", "square kilometres"),
        ask=(
            "What is the area in square kilometres of {s}?",
            "How many square kilometres does {s} cover?",
        ),
        comparison=Comparison(
            least=("Which is smaller in area, {a} or {b}?",),
            most=("Which is larger in area, {a} or {b}?", "Which covers more land, {a} or {b}?"),
            less=("Does {a} cover a smaller area than {b}?",),
            more=("Does {a} cover a larger area than {b}?",),
        ),
        units=("square kilometres", "km2"),
    ),
    Relation(
        *("population", ("country", "city"), "number", "inhabitants population"),
        ask=("What is the population of {s}?", "How many inhabitants does {s} have?"),
        comparison=Comparison(
            least=("Which has fewer inhabitants, {a} or {b}?",),
            most=("Which has more inhabitants, {a} or {b}?", "Which is more populous, {a} or {b}?"),
            less=("Does {a} have fewer inhabitants than {b}?",),
            more=("Does {a} have more inhabitants than {b}?",),
        ),
        units=("inhabitants",),
    ),
    Relation(
        *("region", ("city", "mountain"), "region", "region"),
        ask=(
            "In which region is {s}?",
            "Which region does {s} belong to?",
            "Which region includes {s}?",
        ),
        noun=("the region in which {s} lies", "the region that includes {s}"),
        clause="lies in {o}",
        same=("Are {a} and {b} in the same region?", "Do {a} and {b} lie in the same region?"),
    ),
    Relation(
        *("recorded", ("city",), "year", "first mentioned document"),
        ask=(
            "In which year was {s} first mentioned in a document?",
            "What is the year of the first document that mentions {s}?",
        ),
        comparison=compared(
            "Which city was first mentioned in a document *, {a} or {b}?",
            "Was {a} first mentioned in a document * {b} was?",
            "earlier",
            "later",
            "before",
            "after",
        ),
    ),
    Relation(
        *("river", ("city",), "river", "stands river"),
        ask=("On which river does {s} stand?", "Which river flows through {s}?"),
        noun=("the river on which {s} stands", "the river that flows through {s}"),
        clause="stands on {o}",
        same=("Do {a} and {b} stand on the same river?",),
    ),
    office("mayor", ("city",), "longest-serving mayor"),
    Relation(
        *("source", ("river",), "mountain", "rises source"),
        ask=("On which mountain does {s} rise?", "Which mountain is the source of {s}?"),
        noun=("the mountain on which {s} rises", "the mountain at the source of {s}"),
        clause="rises on {o}",
        same=("Do {a} and {b} rise on the same mountain?",),
    ),
    Relation(
        *("mouth", ("river",), "river", "flows into joins river"),
        ask=("Into which river does {s} flow?", "Which river is joined by {s}?"),
        noun=("the river into which {s} flows", "the river joined by {s}"),
        clause="flows into {o}",
        same=("Do {a} and {b} flow into the same river?",),
    ),
    Relation(
        *("length", ("river",), "number", "kilometres long"),
        ask=("How long is {s} in kilometres?", "What is the length in kilometres of {s}?"),
        comparison=compared(
            "Which river is *, {a} or {b}?",
            "Is {a} * than {b}?",
            "shorter",
            "longer",
            "shorter",
            "longer",
        ),
        units=("kilometres", "km"),
    ),
    Relation(
        *("height", ("mountain",), "number", "metres high"),
        ask=("How high is {s} in metres?", "What is the height in metres of {s}?"),
        comparison=Comparison(
            least=("Which mountain is lower, {a} or {b}?",),
            most=("Which mountain is higher, {a} or {b}?", "Which mountain is taller, {a} or {b}?"),
            less=("Is {a} lower than {b}?",),
            more=("Is {a} higher than {b}?",),
        ),
        units=("metres", "m"),
    ),
    Relation(
        *("climber", ("mountain",), "person", "first climbed ascent"),
        ask=("Who first climbed {s}?", "Who made the first ascent of {s}?"),
        noun=("the person who first climbed {s}",),
        clause="was first climbed by {o}",
    ),
    Relation(
        *("ascent", ("mountain",), "year", "first climbed ascent"),
        ask=("In which year was {s} first climbed?", "When was the first ascent of {s}?"),
        comparison=Comparison(
            least=("Which mountain was climbed first, {a} or {b}?",),
            most=("Which mountain was first climbed later, {a} or {b}?",),
            less=("Was {a} climbed before {b}?",),
            more=("Was {a} first climbed later than {b}?",),
        ),
    ),
)

RELATIONS: dict[tuple[str, str], Relation] = {
    (subject, relation.name): relation
    for relation in (*_PEOPLE, *_PLACES, *WORK_RELATIONS, *ORGANISATION_RELATIONS)
    for subject in relation.subjects
}
"""Every relation by (kind of subject, name)."""
