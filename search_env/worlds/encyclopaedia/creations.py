"""The relations of works and organisations, and the English of questions about them."""

from __future__ import annotations

from search_env.worlds.encyclopaedia.schema import COMPANIES, Comparison, Relation, compared, office

_SITES = ("university", "museum", "club")
_FOUNDED = (*COMPANIES, "university", "club")


def _year(subject: str, name: str, keywords: str, was: str, event: str) -> Relation:
    """Return the year of a work; ``was`` is the participle, ``event`` the noun of the verb."""
    return Relation(
        *(name, (subject,), "year", keywords),
        ask=(f"In which year was {{s}} {was}?", f"What is the year of {event} of {{s}}?"),
        comparison=compared(
            f"Which {subject} was {was} *, {{a}} or {{b}}?",
            f"Was {{a}} {was} * {{b}}?",
            *("first", "later", "before", "after"),
        ),
    )


def _maker(subject: str, role: str, keywords: str, verb: str, did: str) -> Relation:
    """Return the person who made a work; ``verb`` is the participle, ``did`` the past tense."""
    return Relation(
        *(role, (subject,), "person", keywords),
        ask=(f"Who {did} {{s}}?", f"Who was the {role} of {{s}}?"),
        noun=(f"the {role} of {{s}}", f"the person who {did} {{s}}"),
        clause=f"was {verb} by {{o}}",
        same=(f"Were {{a}} and {{b}} {verb} by the same person?",),
        role=role,
    )


WORK_RELATIONS = (
    _maker("novel", "author", "novel", "written", "wrote"),
    _year("novel", "published", "published", "published", "publication"),
    Relation(
        *("publisher", ("novel",), "publisher", "publisher brought out"),
        ask=("Which company published {s}?", "Who is the publisher of {s}?"),
        noun=("the publisher of {s}", "the company that published {s}"),
        clause="was published by {o}",
        same=("Did the same company publish {a} and {b}?",),
    ),
    Relation(
        *("setting", ("novel",), "city", "set story takes place"),
        ask=("In which city is {s} set?", "Which city is the setting of {s}?"),
        noun=("the city in which {s} is set", "the setting of {s}"),
        clause="is set in {o}",
        same=("Are {a} and {b} set in the same city?",),
    ),
    Relation(
        *("dedicatee", ("novel",), "person", "dedicated dedication"),
        ask=("To whom is {s} dedicated?", "Who is the dedicatee of {s}?"),
        noun=("the person to whom {s} is dedicated", "the dedicatee of {s}"),
        clause="is dedicated to {o}",
    ),
    _maker("film", "director", "directed film", "directed", "directed"),
    _year("film", "released", "released", "released", "release"),
    Relation(
        *("studio", ("film",), "studio", "produced studio"),
        ask=("Which film studio produced {s}?", "Which company produced {s}?"),
        noun=("the company that produced {s}", "the film studio that produced {s}"),
        clause="was produced by {o}",
        same=("Did the same film studio produce {a} and {b}?",),
    ),
    Relation(
        *("score", ("film",), "person", "music score"),
        ask=("Who wrote the music for {s}?", "Who composed the score of {s}?"),
        noun=("the person who wrote the music for {s}", "the composer of the score of {s}"),
        clause="has a score by {o}",
        role="composer",
    ),
    Relation(
        *("lead", ("film",), "person", "leading role stars"),
        ask=("Who plays the leading role in {s}?", "Who stars in {s}?"),
        noun=("the star of {s}", "the actor who plays the leading role in {s}"),
        clause="stars {o}",
        role="star",
    ),
    Relation(
        *("basis", ("film",), "novel", "based novel adapted"),
        ask=("On which novel is {s} based?", "Which novel is the basis of {s}?"),
        noun=("the novel on which {s} is based", "the novel behind {s}"),
    ),
    Relation(
        *("runtime", ("film",), "number", "minutes"),
        ask=("How many minutes does {s} last?", "What is the running time in minutes of {s}?"),
        comparison=compared(
            "Which film is *, {a} or {b}?",
            "Is {a} * than {b}?",
            "shorter",
            "longer",
            "shorter",
            "longer",
        ),
        units=("minutes", "min"),
    ),
    Relation(
        *("singer", ("song",), "person", "recorded sung song"),
        ask=("Who recorded {s}?", "Which singer recorded {s}?"),
        noun=("the singer who recorded {s}", "the singer of {s}"),
        clause="was recorded by {o}",
        same=("Were {a} and {b} recorded by the same singer?",),
        role="singer",
    ),
    Relation(
        *("songwriter", ("song",), "person", "written songwriter composer"),
        ask=("Who wrote {s}?", "Who was the songwriter of {s}?"),
        noun=("the songwriter of {s}", "the person who wrote {s}"),
        clause="was written by {o}",
        same=("Were {a} and {b} written by the same person?",),
        role="songwriter",
    ),
    _year("song", "issued", "released year", "released", "release"),
    Relation(
        *("label", ("song",), "label", "label"),
        ask=("Which record label issued {s}?", "On which record label did {s} appear?"),
        noun=("the record label that issued {s}",),
        clause="was issued by {o}",
        same=("Did the same record label issue {a} and {b}?",),
    ),
    Relation(
        *("theme", ("song",), "city", "lyrics describe"),
        ask=("Which city do the lyrics of {s} describe?", "Which city is described in {s}?"),
        noun=("the city that the lyrics of {s} describe", "the city described in {s}"),
        clause="describes {o}",
    ),
    _maker("painting", "painter", "painting", "painted", "painted"),
    _year("painting", "painted", "completed", "completed", "completion"),
    Relation(
        *("museum", ("painting",), "museum", "hangs museum kept"),
        ask=("In which museum does {s} hang?", "Which museum owns {s}?"),
        noun=("the museum where {s} hangs", "the museum that owns {s}"),
        clause="hangs in {o}",
        same=("Do {a} and {b} hang in the same museum?",),
    ),
    Relation(
        *("view", ("painting",), "mountain", "shows depicts"),
        ask=("Which mountain is shown in {s}?", "Which mountain does {s} show?"),
        noun=("the mountain shown in {s}",),
        clause="shows {o}",
        same=("Do {a} and {b} show the same mountain?",),
    ),
    _maker("opera", "composer", "opera", "composed", "composed"),
    _year("opera", "premiered", "first performed", "first performed", "the first performance"),
    Relation(
        *("librettist", ("opera",), "person", "libretto"),
        ask=("Who wrote the libretto of {s}?", "Who was the librettist of {s}?"),
        noun=("the librettist of {s}", "the person who wrote the libretto of {s}"),
        clause="has a libretto by {o}",
        role="librettist",
    ),
    Relation(
        *("premiere", ("opera",), "city", "first performed"),
        ask=("In which city was {s} first performed?", "Which city saw the premiere of {s}?"),
        noun=("the city where {s} was first performed", "the city that saw the premiere of {s}"),
        clause="was first performed in {o}",
        same=("Were {a} and {b} first performed in the same city?",),
    ),
)

ORGANISATION_RELATIONS = (
    Relation(
        *("founder", COMPANIES, "person", "founded founder"),
        ask=("Who founded {s}?", "Who was the founder of {s}?"),
        noun=("the founder of {s}", "the person who founded {s}"),
        clause="was founded by {o}",
    ),
    Relation(
        *("founded", _FOUNDED, "year", "founded"),
        ask=("In which year was {s} founded?", "What is the founding year of {s}?"),
        comparison=Comparison(
            least=("Which was founded first, {a} or {b}?", "Which is older, {a} or {b}?"),
            most=("Which was founded later, {a} or {b}?",),
            less=("Was {a} founded before {b}?", "Is {a} older than {b}?"),
            more=("Was {a} founded after {b}?",),
        ),
    ),
    Relation(
        *("headquarters", COMPANIES, "city", "headquarters"),
        ask=("In which city does {s} have its headquarters?", "Where are the headquarters of {s}?"),
        noun=("the city where {s} has its headquarters", "the home city of {s}"),
        clause="has its headquarters in {o}",
        same=("Do {a} and {b} have their headquarters in the same city?",),
    ),
    office("chief", COMPANIES, "best-known chief executive", keywords="chief executive"),
    Relation(
        *("employees", COMPANIES, "number", "employs people employees"),
        ask=("How many people does {s} employ?", "What is the number of employees of {s}?"),
        comparison=compared(
            "Which company employs * people, {a} or {b}?",
            "Does {a} employ * people than {b}?",
            "fewer",
            "more",
            "fewer",
            "more",
        ),
        units=("people", "employees"),
    ),
    Relation(
        *("city", _SITES, "city", "city"),
        ask=("In which city is {s}?", "Which city is the home of {s}?"),
        noun=("the city where {s} is based", "the home city of {s}"),
        clause="is based in {o}",
        same=("Are {a} and {b} in the same city?",),
    ),
    Relation(
        *("students", ("university",), "number", "students"),
        ask=("How many students does {s} have?", "What is the number of students at {s}?"),
        comparison=compared(
            "Which university has * students, {a} or {b}?",
            "Does {a} have * students than {b}?",
            "fewer",
            "more",
            "fewer",
            "more",
        ),
        units=("students",),
    ),
    office("rector", ("university",), "longest-serving rector"),
    Relation(
        *("architect", ("museum",), "person", "architect building"),
        ask=("Who designed the building of {s}?", "Who was the architect of {s}?"),
        noun=("the architect of {s}", "the person who designed the building of {s}"),
        clause="was designed by {o}",
        same=("Were {a} and {b} designed by the same architect?",),
    ),
    Relation(
        *("opened", ("museum",), "year", "opened"),
        ask=("In which year did {s} open?", "What is the opening year of {s}?"),
        comparison=compared(
            "Which museum opened *, {a} or {b}?",
            "Did {a} open * {b}?",
            "first",
            "later",
            "before",
            "after",
        ),
    ),
    office("coach", ("club",), "most successful coach"),
    Relation(
        *("capacity", ("club",), "number", "ground spectators"),
        ask=(
            "How many spectators does the ground of {s} hold?",
            "What is the capacity of the ground of {s}?",
        ),
        comparison=compared(
            "Which club has the * ground, {a} or {b}?",
            "Does {a} have a * ground than {b}?",
            "smaller",
            "larger",
            "smaller",
            "larger",
        ),
        units=("spectators",),
    ),
)
