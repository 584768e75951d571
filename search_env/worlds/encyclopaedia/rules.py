"""Rules that draw the values of relations, one for each column, in integer arithmetic.

The rules keep the world plausible: authors are adults when they write, teachers are older than
their pupils, a film comes after the novel it is based on, rivers form no cycle. Where a few draws
give no suitable value, the fact is absent (-1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.worlds.encyclopaedia.rng import Bits
from search_env.worlds.encyclopaedia.schema import COMPANIES, PROFESSION_WEIGHTS, PROFESSIONS

Column: TypeAlias = NDArray[np.int64]


class Facts(Protocol):
    """The part of the facts that rules read."""

    counts: dict[str, int]
    first: dict[str, int]

    def column(self, kind: str, name: str) -> Column:
        """Return the values of a relation for a kind."""
        ...

    def bits(self, kind: str, name: str, salt: int = 0) -> Bits:
        """Return fresh random bits for each entity of a kind."""
        ...


Rule: TypeAlias = Callable[[Facts, str, str], Column]

FIRST_BIRTH = 1870  # early enough for long chains of teachers, late enough for films
TODAY = 737425  # 1 January 2020 as an ordinal; nobody dies later
_TRIES = 6


def _below(bits: Bits, n: int | Column) -> Column:
    """Like :func:`rng.below`, but for scalar or elementwise bounds, and signed."""
    bound = n if isinstance(n, int) else n.astype(np.uint64)
    return (((bits >> np.uint64(32)) * bound) >> np.uint64(32)).astype(np.int64)


def _keep(facts: Facts, kind: str, name: str, percent: int) -> NDArray[np.bool_]:
    """Return a mask of the entities that have the fact."""
    return _below(facts.bits(kind, name, 99), 100) < percent


def members(facts: Facts, profession: str) -> Column:
    """Return the entities of one profession."""
    index = PROFESSIONS.index(profession)
    return np.flatnonzero(facts.column("person", "profession") == index) + facts.first["person"]


def _birth_years(facts: Facts, people: Column) -> Column:
    return facts.column("person", "birth_year")[people - facts.first["person"]]


def _entity(target: str, percent: int = 100) -> Rule:
    """An entity of the target kind, for ``percent`` of the subjects."""

    def rule(facts: Facts, kind: str, name: str) -> Column:
        chosen = facts.first[target] + _below(facts.bits(kind, name), facts.counts[target])
        return np.where(_keep(facts, kind, name, percent), chosen, -1)

    return rule


def _cyclic(target: str) -> Rule:
    """The entities of the target kind in rotation, so that they are evenly used."""

    def rule(facts: Facts, kind: str, name: str) -> Column:
        return facts.first[target] + np.arange(facts.counts[kind]) % facts.counts[target]

    return rule


def _number(low: int, doublings: int) -> Rule:
    """A number of ``low .. low * 2**doublings``, about log-uniform, without floats."""

    def rule(facts: Facts, kind: str, name: str) -> Column:
        base = low << _below(facts.bits(kind, name), doublings)
        return base + _below(facts.bits(kind, name, 1), base)

    return rule


def _between(low: int, high: int) -> Rule:
    """A number of ``low .. high``, uniform."""

    def rule(facts: Facts, kind: str, name: str) -> Column:
        return low + _below(facts.bits(kind, name), high - low + 1)

    return rule


def _maker(profession: str) -> Rule:
    """The maker of a work or a company; a few people make many."""

    def rule(facts: Facts, kind: str, name: str) -> Column:
        people, bits = members(facts, profession), facts.bits(kind, name)
        # The product of two uniform numbers favours the start of the list.
        product = (bits >> np.uint64(32)) * (bits & np.uint64(0xFFFF_FFFF))
        return people[_below(product, len(people))]

    return rule


def _year_by(maker: str, low: int, high: int) -> Rule:
    """A year in which the maker is ``low .. high`` years old."""

    def rule(facts: Facts, kind: str, name: str) -> Column:
        born = _birth_years(facts, facts.column(kind, maker))
        return born + low + _below(facts.bits(kind, name), high - low + 1)

    return rule


def _helper(profession: str, year: str, low: int = 20, high: int = 59) -> Rule:
    """A person of the profession aged ``low .. high`` in the year of the subject."""

    def rule(facts: Facts, kind: str, name: str) -> Column:
        people, years = members(facts, profession), facts.column(kind, year)
        out = np.full(facts.counts[kind], -1)
        for salt in range(_TRIES):
            chosen = people[_below(facts.bits(kind, name, salt), len(people))]
            age = years - _birth_years(facts, chosen)
            out = np.where((out < 0) & (age >= low) & (age <= high), chosen, out)
        return out

    return rule


def _office(profession: str, before: tuple[str, ...] = (), since: str = "") -> Rule:
    """A holder of an office, each for one subject, for as many subjects as there are people.

    Holders of the kinds ``before`` are taken first; in the year ``since`` they are at most 60.
    """

    def rule(facts: Facts, kind: str, name: str) -> Column:
        people, count = members(facts, profession), facts.counts[kind]
        free = people[sum(facts.counts[other] for other in before) :][:count]
        out = np.full(count, -1)
        # Spread the few holders over all subjects, not only the first, which are seats of regions.
        order = np.argsort(facts.bits(kind, name), kind="stable")
        out[order[: len(free)]] = free
        if since:
            late = facts.column(kind, since) - _birth_years(facts, np.maximum(out, people[0])) > 60
            out[late] = -1
        return out

    return rule


def _profession(facts: Facts, kind: str, name: str) -> Column:
    table = np.repeat(np.arange(len(PROFESSIONS)), PROFESSION_WEIGHTS)
    out = table[_below(facts.bits(kind, name), len(table))]
    # The first people cycle through the professions, so that small worlds have all of them.
    out[: len(PROFESSIONS)] = np.arange(len(PROFESSIONS))
    return out


def _birth_year(facts: Facts, kind: str, name: str) -> Column:
    # Neighbours 2q and 2q + 1 are of similar age, so that they can marry.
    couple = facts.bits(kind, name)[np.arange(facts.counts[kind]) // 2]
    return FIRST_BIRTH + _below(couple, 88) + _below(facts.bits(kind, name, 1), 16)


def _birth_date(facts: Facts, kind: str, name: str) -> Column:
    past = facts.column(kind, "birth_year") - 1
    new_year = 365 * past + past // 4 - past // 100 + past // 400 + 1  # as an ordinal
    return new_year + _below(facts.bits(kind, name), 365)


def _death_date(facts: Facts, kind: str, name: str) -> Column:
    days = 60 * 366 + _below(facts.bits(kind, name), 35 * 365)
    date = facts.column(kind, "birth_date") + days
    return np.where(date < TODAY, date, -1)


def _death_place(facts: Facts, kind: str, name: str) -> Column:
    return np.where(facts.column(kind, "death_date") < 0, -1, _entity("city")(facts, kind, name))


def _home(facts: Facts, kind: str, name: str) -> Column:
    chosen = _entity("city", 70)(facts, kind, name)
    return np.where(chosen == facts.column(kind, "birthplace"), -1, chosen)


def _alma_mater(facts: Facts, kind: str, name: str) -> Column:
    chosen = _entity("university")(facts, kind, name)
    founded = facts.column("university", "founded")[chosen - facts.first["university"]]
    open_then = founded <= facts.column(kind, "birth_year") + 18
    return np.where(open_then & _keep(facts, kind, name, 75), chosen, -1)


def _teacher(facts: Facts, kind: str, name: str) -> Column:
    professions, born = facts.column(kind, "profession"), facts.column(kind, "birth_year")
    order = np.argsort(professions, kind="stable")
    sizes = np.bincount(professions, minlength=len(PROFESSIONS))
    start = np.cumsum(sizes) - sizes
    out = np.full(facts.counts[kind], -1)
    for salt in range(_TRIES):
        draw = _below(facts.bits(kind, name, salt), sizes[professions])
        chosen = order[start[professions] + draw]
        older = born - born[chosen]
        out = np.where((out < 0) & (older >= 18) & (older <= 50), chosen, out)
    return np.where(out < 0, -1, out + facts.first[kind])


def _spouse(facts: Facts, kind: str, name: str) -> Column:
    people = np.arange(facts.counts[kind])
    couple = facts.bits(kind, name)[people // 2]
    # Only one of the two articles states the marriage; otherwise every step would have a way back.
    states = (people % 2 == _below(couple, 2)) & (people ^ 1 < len(people))
    married = _below(facts.bits(kind, name, 1)[people // 2], 100) < 60
    return np.where(states & married, (people ^ 1) + facts.first[kind], -1)


def _president(facts: Facts, kind: str, name: str) -> Column:
    people = members(facts, "politician")
    return people[np.arange(facts.counts[kind]) % len(people)]


def _capital(facts: Facts, kind: str, name: str) -> Column:
    # City c lies in region c % regions and region r in country r % countries, so the capital is
    # in its country, and is not the seat of its region.
    countries, regions = np.arange(facts.counts[kind]), facts.counts["region"]
    step = 1 + _below(facts.bits(kind, name), max(1, facts.counts["city"] // regions - 1))
    return facts.first["city"] + countries + regions * step


def _mouth(facts: Facts, kind: str, name: str) -> Column:
    rivers = np.arange(facts.counts[kind])
    chosen = facts.first[kind] + _below(facts.bits(kind, name), rivers)  # earlier ones: no cycle
    return np.where(_keep(facts, kind, name, 75) & (rivers > 0), chosen, -1)


def _dedicatee(facts: Facts, kind: str, name: str) -> Column:
    chosen = _entity("person")(facts, kind, name)
    age = facts.column(kind, "published") - _birth_years(facts, chosen)
    keep = _keep(facts, kind, name, 60) & (chosen != facts.column(kind, "author"))
    return np.where(keep & (age >= 5) & (age < 60), chosen, -1)


def _basis(facts: Facts, kind: str, name: str) -> Column:
    published, released = facts.column("novel", "published"), facts.column(kind, "released")
    out = np.full(facts.counts[kind], -1)
    for salt in range(3):
        chosen = _below(facts.bits(kind, name, salt), facts.counts["novel"])
        out = np.where((out < 0) & (published[chosen] < released), chosen, out)
    keep = _keep(facts, kind, name, 55) & (out >= 0)
    return np.where(keep, out + facts.first["novel"], -1)


def _of(kind: str, **rules: Rule) -> dict[tuple[str, str], Rule]:
    return {(kind, name): rule for name, rule in rules.items()}


RULES: dict[tuple[str, str], Rule] = {
    **_of("person", profession=_profession, birth_year=_birth_year, birth_date=_birth_date),
    **_of("person", birthplace=_entity("city"), death_date=_death_date, death_place=_death_place),
    **_of("person", university=_alma_mater, teacher=_teacher, spouse=_spouse, home=_home),
    **_of("country", capital=_capital, president=_president, area=_number(60_000, 3)),
    **_of("country", population=_number(2_000_000, 5)),
    **_of("region", country=_cyclic("country")),
    **_of("region", seat=_cyclic("city")),  # fewer regions than cities: each its own seat
    **_of("region", area=_number(2_000, 4)),
    **_of("city", region=_cyclic("region"), population=_number(4_000, 8)),
    **_of("city", recorded=_between(910, 1795), river=_entity("river", 75)),
    **_of("city", mayor=_office("politician", before=("country",))),
    **_of("river", source=_entity("mountain"), mouth=_mouth, length=_number(40, 5)),
    **_of("mountain", region=_entity("region"), height=_number(900, 3)),
    **_of("mountain", climber=_maker("mountaineer"), ascent=_year_by("climber", 20, 45)),
    **_of("university", city=_entity("city"), founded=_between(1650, 1885)),
    **_of("university", students=_number(1_500, 5), rector=_office("physicist")),
    **_of("museum", city=_entity("city"), architect=_maker("architect")),
    **_of("museum", opened=_year_by("architect", 28, 45)),
    **_of("club", city=_entity("city"), founded=_between(1872, 1950)),
    **_of("club", coach=_office("football coach", since="founded"), capacity=_number(2_500, 5)),
    **_of("novel", author=_maker("novelist"), published=_year_by("author", 22, 45)),
    **_of("novel", publisher=_entity("publisher"), setting=_entity("city", 85)),
    **_of("novel", dedicatee=_dedicatee),
    **_of("film", director=_maker("film director"), released=_year_by("director", 24, 42)),
    **_of("film", studio=_entity("studio"), score=_helper("composer", "released")),
    **_of("film", lead=_helper("actor", "released"), basis=_basis, runtime=_between(71, 214)),
    **_of("song", singer=_maker("singer"), issued=_year_by("singer", 20, 45)),
    **_of("song", songwriter=_helper("composer", "issued"), label=_entity("label")),
    **_of("song", theme=_entity("city", 70)),
    **_of("painting", painter=_maker("painter"), painted=_year_by("painter", 20, 45)),
    **_of("painting", museum=_entity("museum"), view=_entity("mountain", 70)),
    **_of("opera", composer=_maker("composer"), premiered=_year_by("composer", 22, 45)),
    **_of("opera", librettist=_helper("novelist", "premiered"), premiere=_entity("city")),
}
"""The rule of each column, by (kind of subject, relation or auxiliary)."""

# The first president is 30 to 45 at independence, a founder 24 to 42 at the foundation.
RULES["country", "independence"] = _year_by("president", 30, 45)
for _index, _company in enumerate(COMPANIES):
    RULES[_company, "founder"] = _maker("entrepreneur")
    RULES[_company, "founded"] = _year_by("founder", 24, 42)
    RULES[_company, "headquarters"] = _entity("city")
    RULES[_company, "chief"] = _office("entrepreneur", COMPANIES[:_index], since="founded")
    RULES[_company, "employees"] = _number(40, 9)
