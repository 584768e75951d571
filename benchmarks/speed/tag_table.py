"""What the tag automaton's table costs: size, time to build, time to read from the cache.

    SEARCH_ENV_DATA=... python -m search_env.benchmarks.speed.tag_table [--output FILE]

Building is what a new vocabulary or protocol costs once; its bytes' digest, which names the cached
file, is counted with the reading.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from search_env.benchmarks.harness.spec import data_folder
from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.benchmarks.speed.measure import nanoseconds
from search_env.paths import CACHE_VARIABLE
from search_env.protocols.registry import get_protocol
from search_env.tokens.tag_automaton import build_tag_automaton, load_tag_automaton
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer

VOCABULARIES = (("qwen2.json.xz", 151_936), ("gpt2.json", None), ("smollm2.json", None))
PROTOCOLS = ("r1-searcher", "search-r1")


def milliseconds(load: Callable[..., object], tokenizer: Tokenizer, tags: Any, repeats: int) -> str:
    """Return the median time of a call that finds nothing prepared, as a figure."""
    times = []
    for _ in range(repeats):
        load_tag_automaton.cache_clear()
        vars(tokenizer).pop("digest", None)
        times.append(nanoseconds(lambda: load(tokenizer, tags)))
    return f"{np.median(times) / 1e6:.0f}"


def rows(repeats: int) -> Iterator[list[str]]:
    """Yield a row for each vocabulary and protocol."""
    for file, size in VOCABULARIES:
        tokenizer = load_tokenizer(str(data_folder() / "tokenizers" / file), size)
        for name in PROTOCOLS:
            tags = get_protocol(name).tag_texts
            automaton = load_tag_automaton(tokenizer, tags)
            states, columns = automaton.table.shape
            yield [
                f"{file.split('.')[0]} ({tokenizer.size:,}), {name}",
                f"{states} x {columns}",
                f"{automaton.nbytes / 1e6:.2f}",
                milliseconds(build_tag_automaton, tokenizer, tags, repeats),
                milliseconds(load_tag_automaton, tokenizer, tags, repeats),
            ]


def page(args: argparse.Namespace) -> str:
    """Measure and return the table."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ[CACHE_VARIABLE] = cache
        lines = list(rows(args.repeats))
    columns = ["vocabulary (ids), protocol", "states x classes", "MB", "build, ms", "read, ms"]
    note = f"Medians of {args.repeats}. Targets: under 2 s and under 32 MB."
    return f"{note}\n\n{table(columns, lines)}\n"


if __name__ == "__main__":
    options = parser(__doc__, __spec__.name)
    options.add_argument("--repeats", type=int, default=5, help="medians are over this many")
    measure(options, "The tag automaton's table", ["numpy", "tokenizers"], page)
