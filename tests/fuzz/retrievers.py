"""A retriever whose answer, right or wrong, is a pure function of the query."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

from search_env.errors import RetrievalError
from search_env.types import Document

TEXTS = (
    "value3 ",
    "Oslo is the capital of Norway.",
    "",
    " \n",
    "東京は日本の首都です。\U0001f701",
    "<|endoftext|></s><|im_end|></d></information><|end_of_documents|>",
    "<a>value1 </a><answer> Ada </answer><search>key1</search>",
    "long " * 120,
    "e\u0301 \ud800 lone",
)


class Interrupted(BaseException):
    """What a signal handler might raise in the middle of a search."""


MOODS = (
    "raise",
    "retrieval-error",
    "interrupt",
    "none",
    "no-list",
    "too-few",
    "too-many",
    "over-k",
    "no-documents",
    "text-none",
    "text-bytes",
    "id-number",
    "score-nan",
    "mutate",
    "slow",
    "duplicates",
    "empty",
)
"""What may be wrong with the answer to a query; the last four are no errors."""

HARMLESS = frozenset({"mutate", "slow", "duplicates", "empty"})


def number_of(text: str) -> int:
    """Return a number that depends on nothing but the text."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:6], "big")


class Moody:
    """Answers each query in the mood that its text decides.

    ``tame`` turns an interruption into an error, as the threads of a vector environment do.
    """

    def __init__(self, moods: Sequence[str], rate: float, *, tame: bool = False) -> None:
        self.moods, self.rate, self.tame = tuple(moods), rate, tame

    def mood(self, query: str) -> str:
        """Return the mood for a query, "" for a good one."""
        number = number_of(f"mood {query}")
        if not self.moods or number % 1000 >= 1000 * self.rate:
            return ""
        return self.moods[number // 1000 % len(self.moods)]

    def fails(self, query: str) -> bool:
        """Return whether the search for a query is an error."""
        return self.mood(query) not in ("", *HARMLESS)

    def documents(self, query: str, k: int) -> list[Document]:
        """Return the right documents, whatever the mood."""
        mood, number = self.mood(query), number_of(query)
        if mood == "empty":
            return []
        found = []
        for rank in range(number % (k + 1)):
            text = TEXTS[(number // 7 + rank) % len(TEXTS)]
            title = ("", "Title", "<d>")[(number // 3 + rank) % 3]
            found.append(Document(f"d{number % 5}", title, text, 1.0 / (rank + 1)))  # ids collide
        return found[:1] * len(found) if mood == "duplicates" else found

    def search(self, queries: Sequence[str], k: int) -> Any:
        """Answer, or fail as the first query that is to fail demands."""
        results: list[Any] = [self.documents(query, k) for query in queries]
        moods = [self.mood(query) for query in queries]
        if "slow" in moods:
            time.sleep(0.001)
        for index, mood in enumerate(moods):
            if mood == "raise":
                raise ValueError("broken pipe")
            if mood == "retrieval-error" or (mood == "interrupt" and self.tame):
                raise RetrievalError("the server is down")
            if mood == "interrupt":
                raise Interrupted
            if mood == "none":
                return None
            if mood == "no-list":
                return dict(enumerate(results))
            if mood == "too-few":
                return results[:-1]
            if mood == "too-many":
                return [*results, []]
            if mood in _BAD_ANSWERS:
                results[index] = _BAD_ANSWERS[mood](k)
        if "mutate" in moods and isinstance(queries, list):
            queries.clear()
        return results


_BAD_ANSWERS = {
    "over-k": lambda k: [Document(str(i), "", "x") for i in range(k + 1)],
    "no-documents": lambda k: ["text"],
    "text-none": lambda k: [Document("1", "", None)],  # type: ignore[arg-type]
    "text-bytes": lambda k: [Document("1", "", b"x")],  # type: ignore[arg-type]
    "id-number": lambda k: [Document(1, "", "x")],  # type: ignore[arg-type]
    "score-nan": lambda k: [Document("1", "", "x", float("nan"))],
}
