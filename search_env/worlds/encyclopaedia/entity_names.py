"""Names of the entities of a world, and the pairs that share one.

A full name belongs to one entity, or deliberately to two: two people of different professions, a
city and a river, a film and the novel it is based on, an opera and a painting. Such pairs carry
their noun in the title, as in ``"Tervan Olmsaridde (painter)"``, and every mention of them is
unambiguous.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search_env.types import SPLITS
from search_env.worlds.encyclopaedia.facts import Facts
from search_env.worlds.encyclopaedia.rng import Draws, below, key, mix, stream
from search_env.worlds.encyclopaedia.schema import (
    KINDS,
    PROFESSIONS,
    TITLE_ADJECTIVES,
    TITLE_NOUNS,
    WORKS,
)
from search_env.worlds.encyclopaedia.syllables import capacity, codes, word

_FAMILY = 3  # people of one surname
_NAMESAKES = {"person": 12, "city": 15, "film": 45, "opera": 12}  # percent of those possible


class Naming:
    """Names, titles and mentions of the entities of one world; none is built on ``known`` words."""

    def __init__(self, facts: Facts, known: Naming | None = None) -> None:
        self._facts, self._known = facts, known
        self._key = key(facts.seed, facts.split, "name")
        self._people = facts.counts["person"]
        self._families = -(-self._people // _FAMILY)

    def name(self, entity: int) -> str:
        """Return the name, which namesakes share."""
        kind = self._facts.kind(entity)
        if kind == "person":
            return " ".join(self.person(entity))
        if kind in _NAMESAKES and entity in self.twins:
            return self.name(self.twins[entity])
        draws = Draws(self._key + entity)
        code = self._words[kind][entity - self._facts.first[kind]]
        return draws.choice(KINDS[kind].patterns).format(
            w=word(KINDS[kind].style, int(code)),
            n=draws.choice(TITLE_NOUNS),
            a=draws.choice(TITLE_ADJECTIVES),
        )

    def person(self, entity: int) -> tuple[str, str]:
        """Return given name and surname of a person."""
        index = entity - self._facts.first["person"]
        given_name, gender = divmod(int(self._given[index]), 2)
        style = "woman" if gender else "man"
        surname = self._words["person"][index % self._families]
        return word(style, int(self._given_words[style][given_name])), word("surname", int(surname))

    def is_woman(self, entity: int) -> bool:
        """Return whether a person is a woman."""
        return bool(self._given[entity - self._facts.first["person"]] % 2)

    def noun(self, entity: int) -> str:
        """Return the profession of a person, the kind of any other entity."""
        kind = self._facts.kind(entity)
        if kind == "person":
            return PROFESSIONS[self._facts.value(entity, "profession")]
        return KINDS[kind].noun

    def title(self, entity: int) -> str:
        """Return the title of the entity's article, unique in the world."""
        name = self.name(entity)
        return f"{name} ({self.noun(entity)})" if entity in self.twins else name

    def typed(self, entity: int, name: str = "") -> str:
        """Return a mention with the noun, such as ``the painter Tervan Olmsen``."""
        pattern = KINDS[self._facts.kind(entity)].typed
        return pattern.format(noun=self.noun(entity), name=name or self.name(entity))

    def mention(self, entity: int) -> str:
        """Return the shortest unambiguous mention, for running text."""
        kind = self._facts.kind(entity)
        if entity in self.twins or kind in WORKS or not KINDS[kind].plain:
            return self.typed(entity)
        return KINDS[kind].plain.format(name=self.name(entity))

    @cached_property
    def twins(self) -> dict[int, int]:
        """The namesake of each entity that has one."""
        cities = min(self._facts.counts["city"], self._facts.counts["river"])
        operas = min(self._facts.counts["opera"], self._facts.counts["painting"])
        pairs = [
            self._pairs("city", "river", self._chosen("city", np.arange(cities))),
            self._pairs("opera", "painting", self._chosen("opera", np.arange(operas))),
            self._pairs("person", "person", self._namesakes, self._families),
        ]
        basis = self._facts.column("film", "basis")
        _, films = np.unique(basis, return_index=True)  # the first film of each novel
        films = self._chosen("film", films[basis[films] >= 0])
        films, novels = films + self._facts.first["film"], basis[films]
        pairs.append(list(zip(films.tolist(), novels.tolist(), strict=True)))
        return {a: b for pair in pairs for one, two in pair for a, b in ((one, two), (two, one))}

    def _pairs(
        self, kind: str, other: str, indices: NDArray[np.int64], shift: int = 0
    ) -> list[tuple[int, int]]:
        """Return the entities of two kinds at the same indices, shifted for the second kind."""
        one, two = self._facts.first[kind], self._facts.first[other] + shift
        return [(index + one, index + two) for index in indices.tolist()]

    def _chosen(self, kind: str, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices, among these of a kind, of entities that share a name."""
        bits = self._facts.bits(kind, "namesake")[indices]
        return indices[below(bits, 100) < _NAMESAKES[kind]]

    @cached_property
    def _namesakes(self) -> NDArray[np.int64]:
        """Families whose first two members share the given name too."""
        professions = self._facts.column("person", "profession")
        first = np.arange(min(self._families, self._people - self._families))
        differ = professions[first] != professions[first + self._families]
        return self._chosen("person", first[differ])

    @cached_property
    def _given(self) -> NDArray[np.int64]:
        """Twice the number of the given name, plus 1 for women; differs within a family."""
        names = self._given_count
        family = np.arange(self._people) % self._families
        member = np.arange(self._people) // self._families
        base = key(self._facts.seed, self._facts.split, "given")
        start = below(stream(base, self._families), 2 * names)[family].astype(np.int64)
        # Two steps are less than one cycle, so three members get three names.
        step = 1 + below(stream(mix(base), self._families), names - 1)[family].astype(np.int64)
        numbers = (start + member * step) % (2 * names)
        numbers[self._namesakes + self._families] = numbers[self._namesakes]
        return numbers

    @cached_property
    def _given_words(self) -> dict[str, NDArray[np.int64]]:
        return {style: self._codes(style, self._given_count) for style in ("woman", "man")}

    @property
    def _given_count(self) -> int:
        """Number of given names of each gender: about six people to a name in small worlds."""
        return min(2000, 12 + self._people // 12)

    @cached_property
    def _words(self) -> dict[str, NDArray[np.int64]]:
        """Word codes for each kind; kinds of one style take turns in one sequence."""
        sizes = {**self._facts.counts, "person": self._families}
        out = {}
        for style in {kind.style: None for kind in KINDS.values()}:
            kinds = [name for name, kind in KINDS.items() if kind.style == style]
            total = sum(sizes[name] for name in kinds)
            sequence = self._codes(style, total)
            for name in kinds:
                out[name], sequence = sequence[: sizes[name]], sequence[sizes[name] :]
        return out

    def _codes(self, style: str, count: int) -> NDArray[np.int64]:
        """Return the codes of words that the known names do not have."""
        known = self._known.codes_of(style) if self._known else np.zeros(0, np.int64)
        drawn = min(count + len(known), capacity(style))
        split = self._facts.split if self._facts.split in SPLITS else SPLITS[0]
        sequence = codes(style, self._facts.seed, split, drawn)
        return sequence[~np.isin(sequence, known)][:count]

    def codes_of(self, style: str) -> NDArray[np.int64]:
        """Return the codes of all words of a style."""
        if style in self._given_words:
            return self._given_words[style]
        return np.concatenate([c for kind, c in self._words.items() if KINDS[kind].style == style])
