"""All bundled agents on all sets that the sample data has evidence for: the committed report.

    SEARCH_ENV_DATA=... python -m search_env.benchmarks.studies.sweep --output
    benchmarks/results/scores.md

Each row is one ``search-env bench`` command, which is printed with it; results lie in
``runs/bench`` and are gone on with. ``--limit`` plays the first questions of each set, under ids
that say so. Scores go into the store beside the page, and a leaderboard is made of the store.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from search_env.benchmarks.cli.bench import default_path, play
from search_env.benchmarks.harness.results_file import Results
from search_env.benchmarks.players.factory import make_agent
from search_env.benchmarks.question_sets.registry import QUESTION_SETS, get_benchmark
from search_env.benchmarks.reports.leaderboard import add, entry_of, leaderboard, read
from search_env.benchmarks.reports.measurement_page import heading, parser, publish
from search_env.benchmarks.reports.pages import by_protocol, report_markdown
from search_env.errors import DataError
from search_env.provenance import PACKAGES


class Row(NamedTuple):
    """One row of the report: an agent as on the command line, and its ablation."""

    agent: str
    ablation: str | None = None

    def command(self, protocol: str, limit: int | None) -> str:
        """Return the command that makes the row."""
        words = ["search-env", "bench", protocol, "--agent", self.agent]
        words += ["--ablation", self.ablation] if self.ablation else []
        words += ["--limit", str(limit)] if limit else []
        return shlex.join(words)


ROWS = (
    Row("closed-book"),
    Row("question-as-query"),
    Row("oracle-queries"),
    Row("oracle"),
    Row("model:tiny-trained"),
    Row("model:tiny-trained", "no-documents"),
    Row("model:tiny-trained", "shuffled-documents"),
)
"""Agents that the package brings, with the ablations that say what searching is worth to them."""

_LEGEND = """
Means with 95 % bootstrap intervals (2,000 resamples) over questions. *cover EM*: every word of a
gold answer is in the answer; *in a row*: as a substring; *answer recall*: a gold answer stands in a
retrieved passage; *support recall*: share of a question's supporting passages among all that the
episode retrieved; *all supports*: all of them; *format faults*: share of episodes with any. The
oracle's answer is the gold answer, so its scores only say that the harness is right and what its
queries find. Ablations take the evidence away: *no-documents* finds nothing, *shuffled-documents*
finds what another question would. Tables of different ids are not to be compared.
"""


def main() -> None:
    """Play what is not there yet and publish one page."""
    import torch  # here: protocols are listed without it

    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=QUESTION_SETS, default=list(QUESTION_SETS))
    options.add_argument("--limit", type=int, help="only the first N questions of each set")
    options.add_argument("--store", type=Path, help="store to put the scores into")
    options.add_argument("--leaderboard", type=Path, help="Markdown file to make of the store")
    args = options.parse_args()
    command = "SEARCH_ENV_DATA=... python -m search_env.benchmarks.studies.sweep"
    command += f" --limit {args.limit}" if args.limit else ""
    torch.set_num_threads(1)  # models this small are slower on more
    parts = [heading("Scores of the bundled agents", command, ("search-env", *PACKAGES)), _LEGEND]
    for protocol in (id for name in args.only for id in QUESTION_SETS[name].reported):
        try:
            results = [play_row(protocol, row, args.limit) for row in ROWS]
        except DataError as error:
            parts.append(f"## {protocol}\n\nNot run: {str(error).splitlines()[0]}\n")
            continue
        parts.append(report_markdown(by_protocol(results)))
        if args.store is not None:
            add(args.store, map(entry_of, results))
    publish("\n".join(parts), args.output)
    if args.store is not None and args.leaderboard is not None:
        args.leaderboard.write_text(f"# Leaderboard\n\n{leaderboard(read(args.store))}", "utf-8")


def play_row(protocol: str, row: Row, limit: int | None) -> Results:
    """Return the results of a row, played as far as they are not there."""
    benchmark = get_benchmark(protocol)
    agent = make_agent(row.agent, benchmark, seed=0)
    path = default_path(benchmark, str(agent.description["name"]), "", row.ablation, limit)
    command = row.command(protocol, limit)
    return play(benchmark, agent, path, ablation=row.ablation, limit=limit, command=command)


if __name__ == "__main__":
    main()
