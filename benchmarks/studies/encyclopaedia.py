"""The procedural world: how fast it is made, and what a search finds in it.

    python -m search_env.benchmarks.studies.encyclopaedia [--output benchmarks/results/world.md]

Retrieval is this project's BM25 over a test world: hop queries at k = 3, and whole questions at
k = 5, by kind of question.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from itertools import chain

import numpy as np

from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.benchmarks.speed.measure import nanoseconds
from search_env.retrieval import BM25Retriever
from search_env.worlds.encyclopaedia import World


def seconds(call: Callable[[], object]) -> str:
    """Return the seconds of a call as a figure."""
    return f"{nanoseconds(call) / 1e9:.2f}"


def generation(sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)) -> str:
    """Return a table of what making worlds takes; of the largest, one article alone is written."""
    rows = []
    for articles in sizes:
        world = World(articles)
        if articles == max(sizes):
            written = f"the last one alone: {seconds(lambda w=world: w.document(len(w) - 1))}"
        else:
            written = seconds(lambda w=world: [len(d.text) for d in w.documents()])
        rows.append([f"{articles:,}", written, seconds(lambda w=world: w.questions(1000))])
    return table(["articles", "all articles, s", "1,000 questions, s"], rows)


def retrieval(articles: int, count: int) -> str:
    """Return a table of what hop queries and questions find, by kind."""
    world = World(articles, split="test")
    retriever = BM25Retriever.build(world.documents())
    hops: dict[str, list[bool]] = defaultdict(list)  # is the hop's article found?
    wholes: dict[str, list[bool]] = defaultdict(list)  # are all supporting articles found?
    for question in world.questions(count):
        results = retriever.search([hop.query for hop in question.hops], 3)
        for hop, documents in zip(question.hops, results, strict=True):
            hops[question.kind].append(hop.document_id in {d.id for d in documents})
        (documents,) = retriever.search([question.text], 5)
        wholes[question.kind].append({d.id for d in documents} >= set(question.supporting))
    kinds = {kind: (hops[kind], wholes[kind]) for kind in sorted(wholes)}
    kinds["all"] = ([*chain(*hops.values())], [*chain(*wholes.values())])
    rows = [
        [kind, f"{len(whole):,}", f"{np.mean(hop):.4f}", f"{np.mean(whole):.3f}"]
        for kind, (hop, whole) in kinds.items()
    ]
    columns = ["kind", "questions", "hop query finds its article, k = 3"]
    return table([*columns, "question finds all supports, k = 5"], rows)


def page(args: argparse.Namespace) -> str:
    """Measure and return the tables."""
    return (
        f"## Making it\n\n{generation()}\n\n## Searching in {args.articles:,} articles\n\n"
        f"{retrieval(args.articles, args.questions)}\n"
    )


if __name__ == "__main__":
    options = parser(__doc__, __spec__.name)
    options.add_argument("--articles", type=int, default=10_000, help="size of the world searched")
    options.add_argument("--questions", type=int, default=4_000, help="number of its questions")
    measure(options, "The procedural world", ["numpy", "bm25s"], page)
