"""What the tag automaton's table costs: size, time to build, time to read from the cache.

    SEARCH_ENV_DATA=... python -m benchmarks.speed.tag_table [--output FILE]

Building is what a new vocabulary or protocol costs once; its bytes' digest, which names the cached
file, is counted with the reading.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.reports.measurement_page import heading, publish, table
from search_env.matcher import build_matcher, load_matcher
from search_env.paths import CACHE_VARIABLE, data_dir
from search_env.protocols import get_protocol
from search_env.tokenizer import Tokenizer, load_tokenizer

VOCABULARIES = (("qwen2.json.xz", 151_936), ("gpt2.json", None), ("smollm2.json", None))
PROTOCOLS = ("r1-searcher", "search-r1")


def seconds(call: Callable[[], object], repeats: int, before: Callable[[], None]) -> float:
    """Return the median time of a call, each after ``before``."""
    times = []
    for _ in range(repeats):
        before()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def rows(data: Path, repeats: int) -> list[list[str]]:
    """Return a line for each vocabulary and protocol."""
    lines = []
    for file, size in VOCABULARIES:
        tokenizer = load_tokenizer(str(data / "tokenizers" / file), size)
        for name in PROTOCOLS:
            tags = get_protocol(name).tag_texts
            matcher = load_matcher(tokenizer, tags)

            def forget(tokenizer: Tokenizer = tokenizer) -> None:
                load_matcher.cache_clear()
                vars(tokenizer).pop("digest", None)

            built = seconds(lambda t=tokenizer, g=tags: build_matcher(t, g), repeats, forget)
            read = seconds(lambda t=tokenizer, g=tags: load_matcher(t, g), repeats, forget)
            states, columns = matcher.table.shape
            lines.append(
                [
                    f"{file.split('.')[0]} ({tokenizer.size:,}), {name}",
                    f"{states} x {columns}",
                    f"{matcher.nbytes / 1e6:.2f}",
                    f"{built * 1e3:.0f}",
                    f"{read * 1e3:.0f}",
                ]
            )
    return lines


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="medians are over this many")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    data = data_dir()
    if data is None:
        parser.error("expected SEARCH_ENV_DATA to name the folder with tokenizers/, got nothing")
    command = "SEARCH_ENV_DATA=... python -m benchmarks.speed.tag_table"
    with tempfile.TemporaryDirectory() as cache:
        os.environ[CACHE_VARIABLE] = cache
        lines = rows(data, arguments.repeats)
    columns = ["vocabulary (ids), protocol", "states x classes", "MB", "build, ms", "read, ms"]
    note = f"\nMedians of {arguments.repeats}. Targets: under 2 s and under 32 MB.\n\n"
    title = heading("The tag automaton's table", command, ["search-env", "numpy", "tokenizers"])
    publish(title + note + table(columns, lines) + "\n", arguments.output)


if __name__ == "__main__":
    main()
