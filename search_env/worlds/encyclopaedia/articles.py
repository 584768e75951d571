"""Articles of entities, written from their facts.

The wording is drawn from the key of the entity, so an article does not depend on the others.
"""

from __future__ import annotations

from functools import cache
from string import Formatter

from search_env.worlds.encyclopaedia.entity_names import Naming
from search_env.worlds.encyclopaedia.facts import Facts
from search_env.worlds.encyclopaedia.fillers import FAME, FILLERS
from search_env.worlds.encyclopaedia.layouts import LAYOUTS, Sentence
from search_env.worlds.encyclopaedia.rng import Draws, key
from search_env.worlds.encyclopaedia.schema import KINDS
from search_env.worlds.encyclopaedia.values import LITERALS, literal


class Writer:
    """Writes the articles of one world."""

    def __init__(self, facts: Facts, naming: Naming) -> None:
        self._facts = facts
        self._naming = naming
        self._key = key(facts.seed, facts.split, "article")

    def text(self, entity: int) -> str:
        """Return the text of the entity's article: one paragraph of about 35 to 90 words."""
        draws = Draws(self._key + entity)
        layout = LAYOUTS[self._facts.kind(entity)]
        words = self._facts_in_words(entity)
        subjects = self._grammar(entity, words, draws)
        written = []
        for sentence in (layout.lead, *draws.jittered(layout.body), *layout.last):
            words["S"] = draws.choice(subjects)
            written.append(_write(sentence, words, draws))
        written.append(self._hatnote(entity))
        return " ".join(filter(None, written))

    def _facts_in_words(self, entity: int) -> dict[str, str]:
        """Return the facts of the entity in words, by relation."""
        return {
            relation.name: literal(relation, value)
            if relation.value in LITERALS
            else self._naming.mention(value)
            for relation, value in self._facts.of(entity)
        }

    def _grammar(self, entity: int, words: dict[str, str], draws: Draws) -> tuple[str, ...]:
        """Add name, noun and pronouns to ``words``; return the possible sentence subjects."""
        kind, noun = self._facts.kind(entity), self._naming.noun(entity)
        words |= {"noun": noun, "s": "it", "P": "Its", "p": "its"}
        if kind != "person":
            words["name"] = self._naming.name(entity)
            return KINDS[kind].pronouns
        given_name, surname = self._naming.person(entity)
        woman = self._naming.is_woman(entity)
        words |= (
            {"s": "she", "P": "Her", "p": "her"} if woman else {"s": "he", "P": "His", "p": "his"}
        )
        words["name"] = f"{given_name} {surname}"
        words["was"] = "was" if "death_date" in words else "is"
        words["profession"] = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
        words["fame"] = draws.choice(FAME[noun])
        return ("She", "She", surname) if woman else ("He", "He", surname)

    def _hatnote(self, entity: int) -> str:
        """Return the sentence about the entity's namesake, "" where there is none."""
        if entity not in self._naming.twins:
            return ""
        other = self._naming.noun(self._naming.twins[entity])
        subject = "It"
        if self._facts.kind(entity) == "person":
            subject = "She" if self._naming.is_woman(entity) else "He"
        return f"{subject} should not be confused with the {other} of the same name."


def _write(sentence: Sentence, words: dict[str, str], draws: Draws) -> str:
    """Return one of the alternatives, filled in; "" where a fact is absent."""
    template = draws.choice(sentence)
    for name in _fields(template):
        if name in FILLERS:
            words[name] = draws.choice(FILLERS[name])
        elif name not in words:
            return ""
    text = template.format_map(words)
    return text[0].upper() + text[1:]


@cache
def _fields(template: str) -> tuple[str, ...]:
    """Return the placeholders of a template."""
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name)
