"""All bundled agents on all sets that the sample data has evidence for: the committed report.

    SEARCH_ENV_DATA=... python -m search_env.benchmarks.studies.sweep --output
    benchmarks/results/scores.md

Each row is one ``search-env bench`` command; results lie in ``runs/bench`` and are gone on with.
``--limit`` plays the first questions of each set, under ids that say so.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from search_env.benchmarks.cli.bench import default_path, play
from search_env.benchmarks.harness.results_file import Results
from search_env.benchmarks.players.factory import make_agent
from search_env.benchmarks.question_sets.registry import QUESTION_SETS, get_benchmark
from search_env.benchmarks.reports.leaderboard import add, entry_of, leaderboard, read
from search_env.benchmarks.reports.measurement_page import measure, parser
from search_env.benchmarks.reports.pages import by_protocol, report_markdown
from search_env.errors import DataError
from search_env.provenance import PACKAGES

ROWS = (
    ("closed-book", None),
    ("question-as-query", None),
    ("oracle-queries", None),
    ("oracle", None),
    ("model:tiny-trained", None),
    ("model:tiny-trained", "no-documents"),
    ("model:tiny-trained", "shuffled-documents"),
)
"""Agents as on the command line, with the ablations that say what searching is worth to them."""

_LEGEND = """\
Means with 95 % bootstrap intervals (2,000 resamples) over questions. *cover EM*: every word of a
gold answer is in the answer; *in a row*: as a substring; *answer recall*: a gold answer stands in a
retrieved passage; *support recall*: share of a question's supporting passages among all that the
episode retrieved; *all supports*: all of them; *format faults*: share of episodes with any. The
oracle's answer is the gold answer, so its scores only say that the harness is right and what its
queries find. Ablations take the evidence away: *no-documents* finds nothing, *shuffled-documents*
finds what another question would. Tables of different ids are not to be compared.
"""


def page(args: argparse.Namespace) -> str:
    """Play what is not there yet, and return the tables."""
    import torch  # here: protocols are listed without it

    torch.set_num_threads(1)  # models this small are slower on more
    parts = [_LEGEND]
    for protocol in (id for name in args.only for id in QUESTION_SETS[name].reported):
        try:
            results = [play_row(protocol, agent, ablation, args.limit) for agent, ablation in ROWS]
        except DataError as error:
            parts.append(f"## {protocol}\n\nNot run: {str(error).splitlines()[0]}\n")
            continue
        parts.append(report_markdown(by_protocol(results)))
        if args.store is not None:
            add(args.store, map(entry_of, results))
    if args.store is not None and args.leaderboard is not None:
        args.leaderboard.write_text(f"# Leaderboard\n\n{leaderboard(read(args.store))}", "utf-8")
    return "\n".join(parts)


def play_row(protocol: str, agent: str, ablation: str | None, limit: int | None) -> Results:
    """Return the results of a row, played as far as they are not there."""
    words = ["search-env", "bench", protocol, "--agent", agent]
    words += ["--ablation", ablation] if ablation else []
    words += ["--limit", str(limit)] if limit else []
    options = {"dtype": "fp32"} if agent.startswith("model:") else {}  # the same on all machines
    words += ["--dtype", "fp32"] if options else []
    benchmark = get_benchmark(protocol)
    player = make_agent(agent, benchmark, seed=0, **options)
    path = default_path(benchmark, str(player.description["name"]), "", ablation, limit)
    command = shlex.join(words)
    return play(benchmark, player, path, ablation=ablation, limit=limit, command=command)


def main() -> None:
    """Play, print and write."""
    options = parser(__doc__, __spec__.name)
    options.add_argument("--only", nargs="+", choices=QUESTION_SETS, default=list(QUESTION_SETS))
    options.add_argument("--limit", type=int, help="only the first N questions of each set")
    options.add_argument("--store", type=Path, help="store to put the scores into")
    options.add_argument("--leaderboard", type=Path, help="Markdown file to make of the store")
    measure(options, "Scores of the bundled agents", PACKAGES, page)


if __name__ == "__main__":
    main()
