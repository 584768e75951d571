"""The procedural world: how fast it is made, and what a search finds in it.

    python -m benchmarks.studies.encyclopaedia [--output benchmarks/results/world.md]

Retrieval is this project's BM25 over a test world, its hop queries at k = 3 and its questions as
they stand at k = 5, by kind of question.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.reports.measurement_page import heading, publish, table
from search_env.datasets.world import World
from search_env.retrieval import BM25Retriever

T = TypeVar("T")


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """Return what a call gives and its seconds."""
    start = time.perf_counter()
    result = make()
    return result, time.perf_counter() - start


def generation() -> str:
    """Return a table of what making worlds takes."""
    rows = []
    for articles in (1_000, 10_000, 100_000):
        world = World(articles)
        _, written = timed(lambda w=world: sum(len(d.text) for d in w.documents()))
        _, asked = timed(lambda w=world: w.questions(1000))
        rows.append([f"{articles:,}", f"{written:.2f}", f"{asked:.2f}"])
    world = World(1_000_000)
    _, first = timed(lambda: world.document(999_999))
    _, asked = timed(lambda: world.questions(1000))
    rows.append(["1,000,000", f"the last one alone: {first:.2f}", f"{asked:.2f}"])
    return table(["articles", "all articles, s", "1,000 questions, s"], rows)


def retrieval(articles: int, count: int) -> str:
    """Return a table of what hop queries and questions find, by kind."""
    world = World(articles, split="test")
    retriever = BM25Retriever.build(world.documents())
    hits: dict[str, list[bool]] = defaultdict(list)
    whole: dict[str, list[bool]] = defaultdict(list)
    for question in world.questions(count):
        found = retriever.search([hop.query for hop in question.hops], 3)
        for hop, documents in zip(question.hops, found, strict=True):
            hits[question.kind].append(hop.document_id in {d.id for d in documents})
        (documents,) = retriever.search([question.text], 5)
        whole[question.kind].append({d.id for d in documents} >= set(question.supporting))
    total = {"all": ([x for v in hits.values() for x in v], [x for v in whole.values() for x in v])}
    kinds = {kind: (hits[kind], whole[kind]) for kind in sorted(whole)} | total
    rows = [
        [
            kind,
            f"{len(asked):,}",
            f"{sum(found) / len(found):.4f}",
            f"{sum(asked) / len(asked):.3f}",
        ]
        for kind, (found, asked) in kinds.items()
    ]
    columns = ["kind", "questions", "hop query finds its article, k = 3"]
    return table([*columns, "question finds all supports, k = 5"], rows)


def share(hits: list[bool], digits: int) -> str:
    """Return the share of hits as a figure."""
    return f"{sum(hits) / len(hits):.{digits}f}"


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--articles", type=int, default=10_000, help="size of the world searched")
    parser.add_argument("--questions", type=int, default=4_000, help="asked in it")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    command = (
        f"python -m benchmarks.studies.encyclopaedia --articles {arguments.articles} "
        f"--questions {arguments.questions}"
    )
    parts = [
        heading("The procedural world", command, ["search-env", "numpy", "bm25s"]),
        "## Making it\n",
        generation() + "\n",
        f"## Searching in {arguments.articles:,} articles\n",
        retrieval(arguments.articles, arguments.questions) + "\n",
    ]
    publish("\n".join(parts), arguments.output)


if __name__ == "__main__":
    main()
