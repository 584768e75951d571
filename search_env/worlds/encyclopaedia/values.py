"""Dates, years and numbers in words, and the aliases of an answer."""

from __future__ import annotations

from datetime import date

from search_env.worlds.encyclopaedia.schema import Relation

LITERALS = ("date", "year", "number")  # types of values that are not entities

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)


def literal(relation: Relation, value: int) -> str:
    """Return a date, year or number as the articles write it.

    Example:
        >>> from search_env.worlds.encyclopaedia.relations import RELATIONS
        >>> literal(RELATIONS["person", "birth_date"], 683102)
        '9 April 1871'
        >>> literal(RELATIONS["city", "population"], 12430)
        '12,430'
    """
    if relation.value == "date":
        day = date.fromordinal(value)  # not strftime, whose month names depend on the locale
        return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"
    return f"{value:,}" if relation.value == "number" else str(value)


def literal_answers(relation: Relation, value: int) -> tuple[str, ...]:
    """Return :func:`literal` and the aliases of the value.

    Example:
        >>> from search_env.worlds.encyclopaedia.relations import RELATIONS
        >>> literal_answers(RELATIONS["person", "birth_date"], 683102)
        ('9 April 1871', 'April 9, 1871', '1871-04-09')
        >>> literal_answers(RELATIONS["river", "length"], 1240)
        ('1,240', '1240', '1,240 kilometres', '1240 kilometres', '1,240 km', '1240 km')
    """
    gold = literal(relation, value)
    if relation.value == "date":
        day = date.fromordinal(value)
        return gold, f"{_MONTHS[day.month - 1]} {day.day}, {day.year}", day.isoformat()
    forms = (gold, str(value), *(f"{n} {u}" for u in relation.units for n in (gold, str(value))))
    return tuple(dict.fromkeys(forms))
