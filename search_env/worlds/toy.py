"""The toy: the smallest search task, with a vocabulary of two dozen symbols.

A question names two keys. The value of a pair is drawn independently in each split, so a table
learnt on one split is worth a guess on another; what transfers is to copy the two keys into a
query and the value from the document into the answer. The best return is 1; the best without a
search on an unseen split is 1/8 on average.

Two options change what searching is worth at first: a *common answer* pays a policy that does not
search, and *encoded* documents have to be learnt before a search pays.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

from search_env.errors import ConfigurationError
from search_env.retrieval.base import FakeRetriever
from search_env.types import Document, Hop, Question
from search_env.validation import check_count

KEYS = 8
VALUES = 8


@dataclass(frozen=True, slots=True)
class ToyOptions:
    """The ``dataset_options`` of the toy.

    Attributes:
        seed: Another seed draws other values, 0 or greater.
        common_answer: Share of the pairs, 0 to 1, whose value is ``value0`` in every split; the
            others are drawn. It is the return of always answering so, but for a few draws.
        encoded: Whether documents state a value by a key, by the same code in every split.

    Raises:
        ConfigurationError: A value of another type, or out of range.
    """

    seed: int = 0
    common_answer: float = 0.0
    encoded: bool = False

    def __post_init__(self) -> None:
        check_count("seed", self.seed)
        share, valid = self.common_answer, isinstance(self.common_answer, int | float)
        if not valid or isinstance(share, bool) or not 0 <= share <= 1:
            raise ConfigurationError(
                f"Expected common_answer to be a share of 0 to 1, got {share!r}. Pass for example "
                "common_answer=0.4."
            )
        if not isinstance(self.encoded, bool):
            raise ConfigurationError(
                f"Expected encoded to be True or False, got {self.encoded!r}. Pass one of them."
            )


PLAIN = ToyOptions()


def toy_pairs(split: str, options: ToyOptions = PLAIN) -> list[tuple[str, str]]:
    """Return ``(query, value)`` for each of the 64 pairs of keys, in order.

    Example:
        >>> len(toy_pairs("train")), toy_pairs("train")[9][0]
        (64, 'key1 key1')
    """
    table = f"{split}/{options.seed}" if options.seed else split
    pairs = []
    for a, b in itertools.product(range(KEYS), repeat=2):
        digest = hashlib.sha256(f"{table}/{a}/{b}".encode()).digest()
        common = int.from_bytes(digest[1:5], "big") < options.common_answer * 2**32
        pairs.append((f"key{a} key{b}", f"value{0 if common else digest[0] % VALUES}"))
    return pairs


def toy_questions(split: str, options: ToyOptions = PLAIN) -> tuple[Question, ...]:
    """Return the 64 questions of a split."""
    return tuple(
        Question(
            id=f"{_prefix(split, options)}-{i:02d}",
            text=f"find {query}",
            answers=(value,),
            dataset="toy",
            split=split,
            kind="1hop",
            supporting=(_document_id(split, options, i),),
            hops=(Hop(query, value, _document_id(split, options, i)),),
        )
        for i, (query, value) in enumerate(toy_pairs(split, options))
    )


def toy_retriever(split: str, options: ToyOptions = PLAIN) -> FakeRetriever:
    """Return the retriever that answers exactly the 64 queries of a split.

    Example:
        >>> plain = toy_retriever("train").search(["key0 key0"], k=1)[0][0]
        >>> encoded = toy_retriever("train", ToyOptions(encoded=True)).search(["key0 key0"], k=1)
        >>> plain.text, encoded[0][0].text
        ('value6', 'key5')
    """
    code = {f"value{v}": f"key{(3 * v + 3) % KEYS}" for v in range(VALUES)}
    documents = {}
    for i, (query, value) in enumerate(toy_pairs(split, options)):
        text = code[value] if options.encoded else value
        documents[query] = [Document(_document_id(split, options, i), "", text)]
    return FakeRetriever(documents, remember=False)


def _prefix(split: str, options: ToyOptions) -> str:
    """Return the start of ids, which differ between worlds that differ."""
    seed = f"-{options.seed}" if options.seed else ""
    common = f"-common-{options.common_answer}" if options.common_answer else ""
    return f"toy-{split}{seed}{common}{'-encoded' if options.encoded else ''}"


def _document_id(split: str, options: ToyOptions, i: int) -> str:
    return f"{_prefix(split, options)}-document-{i:02d}"
