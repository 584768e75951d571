r"""How long an evaluation takes: the harness with scripted agents, and the bundled model.

    SEARCH_ENV_DATA=... python -m benchmarks.speed.evaluation \
        --output benchmarks/results/speed_evaluation.md

Each row is what ``search-env bench`` does, results written line by line, on the first questions of
a protocol; loading corpus and model is timed apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.harness.spec import BenchmarkProtocol
from benchmarks.players.base import Player, make_player
from benchmarks.question_sets.registry import get_protocol
from benchmarks.reports.measurement_page import heading, publish, table
from benchmarks.run import run

QUESTIONS = 500
SCRIPTED = ("question-as-query", "oracle-queries", "oracle")
PROTOCOLS = ("world-2hop/r1-searcher/bm25-world1k/v1", "musique-dev/r1-searcher/bm25-pool81k/v1")
MODEL = "model:tiny-trained"
EPISODES_A_SECOND, MODEL_SECONDS = 200.0, 180.0
PACKAGES = ("search-env", "gymnasium", "numpy", "tokenizers", "bm25s", "torch", "transformers")


def seconds(protocol: BenchmarkProtocol, player: Player) -> tuple[float, float]:
    """Return how long a few questions and then all took, each in a new file."""
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for limit in (5, QUESTIONS):  # the first loads what there is to load
            start = time.perf_counter()
            run(protocol, player, Path(folder) / f"{limit}.jsonl", limit=limit)
            times.append(time.perf_counter() - start)
    return times[0], times[1]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    command = f"SEARCH_ENV_DATA=... python -m benchmarks.speed.evaluation --threads {given.threads}"
    head = heading("Evaluation", command, PACKAGES).replace(
        "one thread;", f"{given.threads} threads of torch, one of the harness;"
    )
    rows = []
    for id in PROTOCOLS:
        protocol = get_protocol(id)
        for agent in (*SCRIPTED, MODEL):
            first, took = seconds(protocol, make_player(agent, protocol, seed=0))
            pace = QUESTIONS / took
            kept = took < MODEL_SECONDS if agent == MODEL else pace >= EPISODES_A_SECOND
            target = (
                f"under {MODEL_SECONDS:.0f} s" if agent == MODEL else f"{EPISODES_A_SECOND:.0f}/s"
            )
            cells = [f"{first:.1f}", f"{took:.1f}", f"{pace:,.0f}", target, "yes" if kept else "no"]
            rows.append([f"{id}, {agent}", *cells])
    columns = ["run", "first 5, s", f"{QUESTIONS}, s", "episodes/s", "target", "kept"]
    publish(f"{head}\n{table(columns, rows)}\n", given.output)


if __name__ == "__main__":
    main()
