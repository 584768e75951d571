"""The parts of the world: kinds of entities, professions, and the type of a relation.

``relations`` and ``creations`` list the relations, ``rules`` draws their values and ``layouts``
states them in articles.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of entity."""

    noun: str  # as in "Which novel ...?"
    weight: int  # share of the articles, relative to the other kinds
    style: str  # of its words, see :mod:`syllables`; kinds of one style share no word either
    patterns: tuple[str, ...]  # names, around the invented word {w}
    typed: str = "the {noun} {name}"  # a mention with the kind, or a person's profession
    plain: str = "{name}"  # a mention without the kind; empty where every mention has it
    pronouns: tuple[str, ...] = ("It",)  # subjects after the first mention, beside the name


@dataclass(frozen=True, slots=True)
class Comparison:
    """Question templates that compare ``{a}`` and ``{b}`` by a date, a year or a number."""

    least: tuple[str, ...]
    most: tuple[str, ...]
    less: tuple[str, ...]
    more: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact and the questions about it; a subject has one value or none."""

    name: str  # unique among the relations of a subject
    subjects: tuple[str, ...]  # kinds of the subjects, whose articles state it
    value: str  # kind of the object, or "date", "year", "number"
    keywords: str  # words of the sentences that state it, for a keyword query
    ask: tuple[str, ...]  # questions for the value, around the subject {s}
    noun: tuple[str, ...] = ()  # phrases for the value, around {s}; empty where no chain continues
    clause: str = ""  # verb phrase of a subject, around the object {o}; empty where not needed
    same: tuple[str, ...] = ()  # yes/no questions whether {a} and {b} share the value
    comparison: Comparison | None = None
    role: str = ""  # of a person in a work, such as "author"
    units: tuple[str, ...] = ()  # to write after the number, long form first


def compared(which: str, whether: str, *words: str) -> Comparison:
    """Return questions with ``*`` replaced by four words: of least, most, less and more."""
    least, most, less, more = words
    return Comparison(
        *((which.replace("*", least),), (which.replace("*", most),)),
        *((whether.replace("*", less),), (whether.replace("*", more),)),
    )


def office(name: str, subjects: tuple[str, ...], title: str, keywords: str = "") -> Relation:
    """Return a relation to a person who is the one ``title`` of the subject."""
    return Relation(
        *(name, subjects, "person", keywords or name),
        ask=(f"Who was the {title} of {{s}}?",),
        noun=(f"the {title} of {{s}}",),
    )


_WORKS = ("The {n} of {w}", "{w} and the {n}", "The {a} {n} of {w}", "The {w} {n}", "{w}")

KINDS: dict[str, Kind] = {
    "country": Kind("country", 8, "country", ("{w}",), "the {noun} of {name}"),
    "region": Kind("region", 24, "region", ("{w}",), "the {noun} of {name}", plain=""),
    "city": Kind(
        "city", 130, "city", ("{w}",), "the {noun} of {name}", pronouns=("It", "The city")
    ),
    "river": Kind("river", 44, "nature", ("{w}",), plain=""),
    "mountain": Kind("mountain", 40, "nature", ("Mount {w}",), "{name}"),
    "university": Kind(
        *("university", 30, "organisation"),
        ("{w} University", "{w} College", "{w} Polytechnic"),
        "{name}",
        pronouns=("It", "The university"),
    ),
    "museum": Kind(
        *("museum", 24, "organisation"),
        ("{w} Museum", "{w} Gallery", "{w} Collection"),
        "the {name}",
        "the {name}",
        pronouns=("It", "The museum"),
    ),
    "club": Kind(
        *("football club", 26, "organisation"),
        ("{w} Rovers", "{w} United", "{w} Athletic", "{w} Wanderers", "Sporting {w}"),
        pronouns=("It", "The club"),
    ),
    "publisher": Kind(
        *("publisher", 20, "organisation"),
        ("{w} Press", "{w} Books", "{w} House"),
        pronouns=("It", "The company"),
    ),
    "studio": Kind(
        *("film studio", 20, "organisation"),
        ("{w} Pictures", "{w} Films", "{w} Studios"),
        pronouns=("It", "The studio", "The company"),
    ),
    "label": Kind(
        *("record label", 16, "organisation"),
        ("{w} Records", "{w} Music", "{w} Sound"),
        pronouns=("It", "The label", "The company"),
    ),
    "manufacturer": Kind(
        *("manufacturer", 36, "organisation"),
        ("{w} Motors", "{w} Instruments", "{w} Works", "{w} Textiles", "{w} Optics"),
        pronouns=("It", "The company"),
    ),
    "person": Kind("person", 330, "surname", ("{w}",), pronouns=("He", "She")),
    "novel": Kind("novel", 90, "work", _WORKS, pronouns=("It", "The novel")),
    "film": Kind("film", 90, "work", _WORKS, pronouns=("It", "The film")),
    "song": Kind(
        *("song", 56, "work"),
        ("The {n} of {w}", "Goodbye, {w}", "{w} Waltz", "Letters from {w}", "Back to {w}"),
        pronouns=("It", "The song"),
    ),
    "painting": Kind(
        *("painting", 60, "work"),
        ("The {n} of {w}", "{w} at Dusk", "{w} with a Lamp", "The {a} {n} of {w}"),
        pronouns=("It", "The painting"),
    ),
    "opera": Kind(
        *("opera", 36, "work"),
        ("{w}", "The {n} of {w}", "{w} and the {n}", "The {a} {n} of {w}"),
        pronouns=("It", "The opera"),
    ),
}
"""Every kind, in the order of the articles."""

WORKS = ("novel", "film", "song", "painting", "opera")
COMPANIES = ("publisher", "studio", "label", "manufacturer")

TITLE_NOUNS = (
    *("Bell", "Bridge", "Clock", "Crown", "Door", "Feast", "Garden", "Harvest", "Keeper"),
    *("Lantern", "Ledger", "Letter", "Mask", "Mirror", "Orchard", "Promise", "Raven", "Ring"),
    *("Secret", "Shadow", "Stranger", "Tower", "Voyage", "Widow", "Winter"),
)
TITLE_ADJECTIVES = (
    *("Blind", "Broken", "Burning", "Distant", "Golden", "Hidden", "Last", "Patient", "Pale"),
    *("Quiet", "Restless", "Second", "Silent", "Silver", "Stolen", "White"),
)

PROFESSIONS = (
    *("novelist", "film director", "composer", "singer", "actor", "painter", "architect"),
    *("politician", "mountaineer", "entrepreneur", "football coach", "physicist"),
)
PROFESSION_WEIGHTS = (5, 5, 5, 4, 5, 5, 3, 7, 3, 5, 4, 5)


def kind_counts(articles: int) -> dict[str, int]:
    """Return the number of articles of each kind in a world; people fill it up."""
    total = sum(kind.weight for kind in KINDS.values())
    counts = {name: max(2, articles * kind.weight // total) for name, kind in KINDS.items()}
    counts["person"] += articles - sum(counts.values())
    return counts
