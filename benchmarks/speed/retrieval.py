"""One BM25 search: text in, documents out.

    python -m search_env.benchmarks.speed.retrieval 100000 1000000 \
        --output benchmarks/results/speed_retrieval.md

A million passages take 4 GB of memory, 1 GB of disk for a while and 5 minutes. The corpus is
synthetic, so that anyone can repeat it at any size: passages of 100 words, Zipf in two regimes
(exponent 1.0 to rank 8,000, then 1.6) over 2 million words, a fifth of each passage drawn from its
own 12-word topic. Half of the queries are 2 to 5 content words, half "who was the X of Y Z".
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.retrieval import BM25Retriever
from search_env.types import Document

K = 5
NUM_QUERIES = 1000
FUNCTION_WORDS = """
    the of and in to a is was for on as with by at from that it his an be are which or this he were
    also has had its but not have one their new first who been after two they other when there all
    during into time she more would her him many only can over between later some
""".split()  # noqa: SIM905
NUM_WORDS = 2_000_000
FIRST_CONTENT_RANK = 200  # queries use words rarer than this
SYLLABLES = [a + b for a in [*"bdfgklmnprtvz", "ch", "sh"] for b in "aeiou"]


class Words:
    """Words by falling frequency, and how to draw them."""

    def __init__(self) -> None:
        rank = np.arange(1, NUM_WORDS + 1, dtype=np.float64)
        weight = np.where(rank <= 8000, 1 / rank, (8000 / rank) ** 1.6 / 8000)
        self._cumulative = np.cumsum(weight / weight.sum())
        spelled = [_spell(i) for i in range(NUM_WORDS - len(FUNCTION_WORDS))]
        self.by_rank = np.array(FUNCTION_WORDS + spelled, dtype=object)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Return ranks drawn by frequency."""
        return np.searchsorted(self._cumulative, rng.random(shape))


def _spell(number: int) -> str:
    """Return an invented word of two or more syllables that no stemmer shortens."""
    word = ""
    while number or len(word) < 4:
        number, syllable = divmod(number, len(SYLLABLES))
        word += SYLLABLES[syllable]
    return word + "k"


def corpus(words: Words, num_passages: int) -> Iterator[Document]:
    """Yield the passages, the same ones every time."""
    rng = np.random.default_rng(0)
    for start in range(0, num_passages, 1000):
        rows = min(1000, num_passages - start)
        ranks = words.draw(rng, (rows, 100))
        topics = words.draw(rng, (rows, 12))
        of_topic = np.take_along_axis(topics, rng.integers(0, 12, (rows, 100)), axis=1)
        ranks = np.where(rng.random((rows, 100)) < 0.2, of_topic, ranks)
        for i, text in enumerate(words.by_rank[ranks], start):
            yield Document(str(i), "", " ".join(text))


def queries(words: Words) -> list[str]:
    """Return keyword queries and questions in turn, the same ones every time."""
    rng = np.random.default_rng(1)
    ranks = words.draw(rng, (NUM_QUERIES * 40,))
    content = iter(words.by_rank[ranks[ranks >= FIRST_CONTENT_RANK]])
    return [
        f"who was the {next(content)} of {next(content)} {next(content)}"
        if i % 2
        else " ".join(next(content) for _ in range(rng.integers(2, 6)))
        for i in range(NUM_QUERIES)
    ]


def latencies(index: Path, texts: Sequence[str]) -> str:
    """Return the table of latencies; the first answer's includes opening the index."""
    clock = [time.perf_counter()]
    retriever = BM25Retriever.load(index)
    for text in texts:
        retriever.search([text], K)
        clock.append(time.perf_counter())
    first, *later = np.diff(clock)
    figures = [first, np.median(later), np.quantile(later, 0.99)]
    row = [f"{len(texts):,} queries", *(f"{1e3 * value:,.3f}" for value in figures)]
    columns = ["", "opening and first answer, ms", "p50, ms", "p99, ms", "all, s"]
    return table(columns, [[*row, f"{clock[-1] - clock[0]:.2f}"]])


def run(words: Words, num_passages: int) -> str:
    """Build an index of this many passages and return its section of the report."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        start = time.perf_counter()
        BM25Retriever.build(corpus(words, num_passages)).save(index)
        built = time.perf_counter() - start
        manifest = json.loads((index / "format.json").read_text())
        figures = latencies(index, queries(words))
    counts, sizes = manifest["counts"], manifest["files"]
    return (
        f"\n## {num_passages:,} passages\n\n{figures}\n\n"
        f"{counts['postings']:,} postings of {counts['terms']:,} terms, "
        f"{sum(sizes.values()) / 1e6:,.0f} MB on disk with the texts. Drawing, building and saving "
        f"took {built:.0f} s.\n"
    )


def page(args: argparse.Namespace) -> str:
    """Measure all sizes and return the tables."""
    words = Words()
    return (
        f"Latency of one query, k={K}, over {NUM_QUERIES:,} queries on a synthetic corpus (the "
        "script describes it), from text to documents. Where the page cache has lost their text "
        "that is a disk read, seen in the first answer and in p99. p50 and p99 leave out the first "
        "answer.\n" + "".join(run(words, size) for size in args.passages)
    )


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__, __spec__.name)
    options.add_argument("passages", type=int, nargs="+", help="corpus sizes, smallest first")
    packages = ["numpy", "bm25s", "PyStemmer"]
    measure(options, "Speed of BM25 retrieval", packages, page, positional="passages")


if __name__ == "__main__":
    main()
