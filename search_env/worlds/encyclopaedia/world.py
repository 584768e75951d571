"""The public class: a world of articles and questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice

from search_env.errors import ConfigurationError
from search_env.types import SPLITS, Document, Question
from search_env.validation import as_integer, check_choice
from search_env.worlds.encyclopaedia.articles import Writer
from search_env.worlds.encyclopaedia.entity_names import Naming
from search_env.worlds.encyclopaedia.facts import Facts
from search_env.worlds.encyclopaedia.questions import (
    KNOWN,
    QuestionGenerator,
    QuestionTable,
    document_id,
    kinds_by_hops,
)

MIN_ARTICLES, MAX_ARTICLES = 100, 1_000_000


class _Part:
    """Articles whose facts concern only each other, and the questions on them."""

    def __init__(self, facts: Facts, known: Naming | None, split: str, prefix: str) -> None:
        self.facts, self.naming = facts, Naming(facts, known)
        self.writer = Writer(facts, self.naming)
        self._prefix, self._split = prefix, split

    def document(self, index: int) -> Document:
        """Return the article at an index."""
        name, title = document_id(self._prefix, index), self.naming.title(index)
        return Document(id=name, title=title, text=self.writer.text(index))

    def generator(self) -> QuestionGenerator:
        """Return a generator of questions."""
        return QuestionGenerator(
            self.facts, self.naming, self.writer.text, self._prefix, self._split
        )


def _parts(articles: int, seed: int, split: str, known: int) -> Iterator[_Part]:
    """Yield the world's own articles and the ``known`` ones, where there are any."""
    shared = _Part(Facts(known, 0, KNOWN), None, split, f"world-{KNOWN}-{known}") if known else None
    if known < articles:
        prefix = f"world-{articles}-{seed}-{split}" + (f"-{KNOWN}-{known}" if known else "")
        names = shared.naming if shared else None
        yield _Part(Facts(articles - known, seed, split), names, split, prefix)
    if shared:
        yield shared


class World:
    """A procedural encyclopaedia.

    Each article is written on request; a world keeps only its facts, as arrays of integers (about
    50 MB for a million articles). Worlds of other sizes and seeds differ, also in their document
    ids.

    Args:
        articles: Number of articles, 100 to 1,000,000.
        seed: 0 or greater.
        split: ``"train"``, ``"validation"`` or ``"test"``; they share no name.
        known: Share of the articles, 0 to 1, that are the same in every world with as many of them,
            whatever its seed and split: what a policy may know from before, for studies of internal
            knowledge. They are the last, their ids begin with ``world-known-``, their facts concern
            only each other, and the same share of questions is on them. Splits share the articles,
            not the questions. Both the known and the other articles are none, or 100 or more.

    Raises:
        ConfigurationError: An argument is out of its range.

    Example:
        >>> world = World(articles=100, seed=3, split="test")
        >>> len(world), world.document(12).id
        (100, 'world-100-3-test-000012')
        >>> one, two = World(500, seed=1, known=0.4), World(400, seed=2, split="test", known=0.5)
        >>> one.document(300) == two.document(200), one.document(300).id
        (True, 'world-known-200-000000')
    """

    def __init__(
        self, articles: int = 1000, seed: int = 0, split: str = "train", known: float = 0.0
    ) -> None:
        self.articles = _integer("articles", articles, MIN_ARTICLES, MAX_ARTICLES)
        self.seed = _integer("seed", seed, 0, 2**63 - 1)
        check_choice("split", split, SPLITS)
        self.split = split
        self.known = _share(known, self.articles)
        self._parts = tuple(_parts(self.articles, self.seed, split, round(self.known * articles)))

    def __len__(self) -> int:
        return self.articles

    def __repr__(self) -> str:
        known = f", known={self.known}" if self.known else ""
        return f"World(articles={self.articles}, seed={self.seed}, split={self.split!r}{known})"

    def document(self, index: int) -> Document:
        """Return the article at an index of ``0 .. len(world) - 1``; others raise IndexError."""
        if not 0 <= index < self.articles:
            raise IndexError(
                f"Expected an index of 0 to {self.articles - 1}, got {index}. Pass one of these."
            )
        first = self._parts[0]
        if index < first.facts.articles:
            return first.document(index)
        return self._parts[1].document(index - first.facts.articles)

    def documents(self) -> Iterator[Document]:
        """Yield all articles in the order of their index."""
        return map(self.document, range(self.articles))

    def questions(
        self,
        count: int,
        *,
        hops: Sequence[int] = (1, 2, 3, 4),
        kinds: Sequence[str] | None = None,
        seed: int = 0,
    ) -> list[Question]:
        """Return different questions, evenly spread over the numbers of hops.

        The kinds are ``lookup-1hop``, ``bridge-2hop`` to ``-4hop`` (chains), ``comparison-2hop``,
        ``intersection-1hop`` to ``-3hop`` (the entity with two facts) and ``composition-3hop`` and
        ``-4hop`` (comparisons of chains, chains from intersections). The number of hops is the
        number of articles needed: ``len(hops)``, ``len(supporting)`` and the number in ``kind`` are
        equal. The last hop's answer is the question's, except for comparisons, whose hops end in
        the two compared values. A shorter list is the start of a longer one.

        Args:
            count: Number of questions, 0 or more.
            hops: Numbers of ``1 .. 4``, in rotation; those that no requested kind has are skipped.
            kinds: Kinds as above, or their families such as ``"bridge"``; None for all.
            seed: Seed of the choice; 0 or greater.

        Raises:
            ConfigurationError: An argument is invalid, or the world has fewer questions.

        Example:
            >>> [q.kind for q in World().questions(2, hops=(2,), kinds=["comparison"])]
            ['comparison-2hop', 'comparison-2hop']
        """
        count = _integer("count", count, 0, 2**31)
        table = kinds_by_hops(hops, kinds)
        questions = list(islice(self._all(table, _integer("seed", seed, 0, 2**63 - 1)), count))
        if len(questions) < count:
            raise ConfigurationError(
                f"Expected a world with {count:,} different questions of hops {tuple(table)}, got "
                f"{len(questions):,} from {self!r}. Reduce count, allow more hops or kinds, or "
                "build a World with more articles."
            )
        return questions

    def _all(self, table: QuestionTable, seed: int) -> Iterator[Question]:
        """Yield questions of all parts, one of each number of hops from the same part."""
        parts = [part.generator().generate(table, seed) for part in self._parts]
        for turn in count():
            known = int((turn + 1) * self.known) > int(turn * self.known)
            block = list(islice(parts[-1 if known else 0], len(table)))
            yield from (question for _, question in block)
            if len(block) < len(table):
                return


def _share(known: float, articles: int) -> float:
    """Return the share of known articles, checked."""
    valid = isinstance(known, int | float) and not isinstance(known, bool) and 0 <= known <= 1
    shared = round(known * articles) if valid else 0
    if not valid or any(0 < size < MIN_ARTICLES for size in (shared, articles - shared)):
        raise ConfigurationError(
            f"Expected known to be a share of 0 to 1 that leaves none or at least {MIN_ARTICLES} "
            f"of {articles:,} articles on both sides, got {known!r}. Pass for example known=0.5 "
            "with 1,000 articles."
        )
    return float(known)


def _integer(name: str, value: int, low: int, high: int) -> int:
    """Return an integer argument in its range."""
    try:
        number = as_integer(value)
    except TypeError:
        number = low - 1
    if not low <= number <= high:
        raise ConfigurationError(
            f"Expected {name} to be an integer of {low:,} to {high:,}, got {value!r}. "
            f"Pass for example {name}={max(low, min(high, 1000))}."
        )
    return number
