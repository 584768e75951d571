"""The public class: a world of articles and questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from search_env.errors import ConfigurationError
from search_env.types import SPLITS, Document, Question
from search_env.validation import as_integer, check_choice
from search_env.worlds.encyclopaedia.articles import Writer
from search_env.worlds.encyclopaedia.entity_names import Naming
from search_env.worlds.encyclopaedia.facts import Facts
from search_env.worlds.encyclopaedia.questions import QuestionGenerator, document_id, kinds_by_hops

MIN_ARTICLES, MAX_ARTICLES = 100, 1_000_000


class World:
    """A procedural encyclopaedia.

    Each article is written on request; a world keeps only its facts, as arrays of integers (about
    50 MB for a million articles). Worlds of other sizes and seeds differ, also in their document
    ids.

    Args:
        articles: Number of articles, 100 to 1,000,000.
        seed: 0 or greater.
        split: ``"train"``, ``"validation"`` or ``"test"``; they share no name.

    Raises:
        ConfigurationError: An argument is out of its range.

    Example:
        >>> world = World(articles=100, seed=3, split="test")
        >>> len(world), world.document(12).id
        (100, 'world-100-3-test-000012')
    """

    def __init__(self, articles: int = 1000, seed: int = 0, split: str = "train") -> None:
        self.articles = _integer("articles", articles, MIN_ARTICLES, MAX_ARTICLES)
        self.seed = _integer("seed", seed, 0, 2**63 - 1)
        check_choice("split", split, SPLITS)
        self.split = split
        self._prefix = f"world-{self.articles}-{self.seed}-{split}"
        self._facts = Facts(self.articles, self.seed, split)
        self._naming = Naming(self._facts)
        self._writer = Writer(self._facts, self._naming)

    def __len__(self) -> int:
        return self.articles

    def __repr__(self) -> str:
        return f"World(articles={self.articles}, seed={self.seed}, split={self.split!r})"

    def document(self, index: int) -> Document:
        """Return the article at an index of ``0 .. len(world) - 1``; others raise IndexError."""
        if not 0 <= index < self.articles:
            raise IndexError(
                f"Expected an index of 0 to {self.articles - 1}, got {index}. Pass one of these."
            )
        return Document(
            id=document_id(self._prefix, index),
            title=self._naming.title(index),
            text=self._writer.text(index),
        )

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
        generator = QuestionGenerator(self._facts, self._naming, self._writer.text, self._prefix)
        pairs = generator.generate(table, _integer("seed", seed, 0, 2**63 - 1))
        questions = [question for _, question in islice(pairs, count)]
        if len(questions) < count:
            raise ConfigurationError(
                f"Expected a world with {count:,} different questions of hops {tuple(table)}, got "
                f"{len(questions):,} from {self!r}. Reduce count, allow more hops or kinds, or "
                "build a World with more articles."
            )
        return questions


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
