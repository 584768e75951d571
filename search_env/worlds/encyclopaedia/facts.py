"""The fact graph: every fact of a world as columns of integers, computed on first use.

Entities are numbered ``0 .. articles - 1``, kind by kind. A fact is ``(subject, relation, value)``
and a value is an entity, a day (``datetime.date.toordinal``), a year or a number; -1 means that the
subject has no such fact. A million articles take about 50 MB with all columns.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from search_env.worlds.encyclopaedia import rules
from search_env.worlds.encyclopaedia.relations import RELATIONS
from search_env.worlds.encyclopaedia.rng import Bits, key, stream
from search_env.worlds.encyclopaedia.schema import KINDS, Relation, kind_counts

Column = NDArray[np.int64]


class Facts:
    """All facts of one world: by kind, ``counts`` of entities and the number of the ``first``."""

    def __init__(self, articles: int, seed: int, split: str) -> None:
        self.articles, self.seed, self.split = articles, seed, split
        self.counts = kind_counts(articles)
        starts = accumulate(self.counts.values(), initial=0)
        self.first = dict(zip(KINDS, starts, strict=False))
        self._starts, self._kinds = list(self.first.values()), list(KINDS)
        self._columns: dict[tuple[str, str], Column] = {}
        self._inverse: dict[tuple[str, str], tuple[Column, Column]] = {}

    def kind(self, entity: int) -> str:
        """Return the kind of an entity."""
        return self._kinds[bisect_right(self._starts, entity) - 1]

    def value(self, entity: int, relation: str) -> int:
        """Return the value of a relation of an entity, -1 where the entity has none."""
        kind = self.kind(entity)
        return int(self.column(kind, relation)[entity - self.first[kind]])

    def of(self, entity: int) -> list[tuple[Relation, int]]:
        """Return all facts whose subject is the entity."""
        kind = self.kind(entity)
        facts = ((r, self.value(entity, r.name)) for r in RELATIONS_OF[kind])
        return [(relation, value) for relation, value in facts if value >= 0]

    def subjects(self, kind: str, relation: str, value: int) -> Column:
        """Return the entities of a kind whose relation has this value, in ascending order."""
        if (kind, relation) not in self._inverse:
            column = self.column(kind, relation)
            order = np.argsort(column, kind="stable")
            self._inverse[kind, relation] = (column[order], order + self.first[kind])
        values, entities = self._inverse[kind, relation]
        low, high = np.searchsorted(values, [value, value + 1])
        return entities[low:high]

    def column(self, kind: str, name: str) -> Column:
        """Return the values of a relation, or an auxiliary column, for a kind: ``(count,)``."""
        if (kind, name) not in self._columns:
            self._columns[kind, name] = rules.RULES[kind, name](self, kind, name)
        return self._columns[kind, name]

    def bits(self, kind: str, name: str, salt: int = 0) -> Bits:
        """Return independent random bits for each entity of a kind."""
        return stream(key(self.seed, self.split, kind, name, salt), self.counts[kind])


RELATIONS_OF: dict[str, tuple[Relation, ...]] = {
    kind: tuple(r for (subject, _), r in RELATIONS.items() if subject == kind) for kind in KINDS
}
"""The relations of each kind."""
