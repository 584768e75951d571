"""All bundled agents on all sets that the sample data has evidence for: the committed report.

    SEARCH_ENV_DATA=... python -m benchmarks.studies.sweep --output benchmarks/results/scores.md

Each row is one ``search-env bench`` command, which is printed with it; results lie in
``runs/bench`` and are gone on with. ``--limit`` plays the first questions of each set, under ids
that say so. Scores go into the store beside the page, and a leaderboard is made of the store.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cli.bench import default_path, play
from benchmarks.harness.results_file import Results
from benchmarks.harness.scores import MEASURES, score
from benchmarks.players.base import make_player
from benchmarks.question_sets.registry import NAMES, get_protocol, part
from benchmarks.reports.leaderboard import add, entry_of, read
from benchmarks.reports.measurement_page import heading, publish
from benchmarks.reports.pages import leaderboard
from benchmarks.reports.tables import GROUPED, breakdowns, score_markdown
from search_env.errors import DataError

PACKAGES = ("search-env", "gymnasium", "numpy", "tokenizers", "bm25s", "torch", "transformers")

BUNDLED: tuple[tuple[str, str | None], ...] = (
    ("closed-book", None),
    ("question-as-query", None),
    ("oracle-queries", None),
    ("oracle", None),
    ("model:tiny-trained", None),
    ("model:tiny-trained", "no-documents"),
    ("model:tiny-trained", "shuffled-documents"),
)
"""Agents that the package brings, with the controls that say what searching is worth to them."""


@dataclass(frozen=True, slots=True)
class Run:
    """One row of a report.

    Attributes:
        protocol: Its id.
        agent: As on the command line.
        control: One of :data:`~benchmarks.harness.ablations.CONTROLS`, or None.
    """

    protocol: str
    agent: str
    control: str | None = None

    @property
    def label(self) -> str:
        """Return what the row is called."""
        name = self.agent.removeprefix("model:")
        return f"{name}, {self.control}" if self.control else name

    def command(self, limit: int | None) -> str:
        """Return the command that makes the row."""
        words = ["search-env", "bench", self.protocol, "--agent", self.agent]
        words += ["--control", self.control] if self.control else []
        words += ["--limit", str(limit)] if limit else []
        return shlex.join(words)


def main() -> None:
    """Play what is not there yet and publish one page."""
    import torch  # here: protocols are listed without it

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="question sets")
    parser.add_argument("--limit", type=int, help="only the first N questions of each set")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--store", type=Path, help="store to put the scores into")
    parser.add_argument("--leaderboard", type=Path, help="Markdown file to make of the store")
    given = parser.parse_args()
    command = "SEARCH_ENV_DATA=... python -m benchmarks.studies.sweep"
    if given.limit:
        command += f" --limit {given.limit}"
    torch.set_num_threads(1)  # models this small are slower on more
    parts = [heading("Scores of the bundled agents", command, PACKAGES), _LEGEND]
    for name in given.only:
        runs = part(name, "sweep").SWEEP
        for protocol in dict.fromkeys(run.protocol for run in runs):
            rows = [run for run in runs if run.protocol == protocol]
            try:
                found = {run: play_one(run, given.limit) for run in rows}
            except DataError as error:
                parts.append(f"## {protocol}\n\nNot run: {str(error).splitlines()[0]}\n")
                continue
            parts.append(section(protocol, found, given.limit))
            if given.store is not None:
                add(given.store, map(entry_of, found.values()))
    publish("\n".join(parts), given.output)
    if given.store is not None and given.leaderboard is not None:
        given.leaderboard.write_text(f"# Leaderboard\n\n{leaderboard(read(given.store))}", "utf-8")


def section(protocol: str, found: Mapping[Run, Results], limit: int | None) -> str:
    """Return the tables of one protocol.

    Args:
        protocol: Its id.
        found: Results by row.
        limit: How many questions were asked of each set; None for all.
    """
    scores = {run.label: score(results.episodes) for run, results in found.items()}
    any_of_them = next(iter(found.values()))
    lines = [
        f"## {any_of_them.header['protocol']}\n",
        f"{get_protocol(protocol).note} {_digests(any_of_them)}\n",
        score_markdown(scores, "agent", list(MEASURES)) + "\n",
    ]
    for run, results in found.items():
        if run.agent in _BROKEN_DOWN and run.control is None:
            for title, groups in breakdowns(results).items():
                held = {name: score(episodes) for name, episodes in groups.items()}
                lines += [
                    f"{run.label}, by {title}:\n",
                    score_markdown(held, title, GROUPED) + "\n",
                ]
    lines += ["```", *(run.command(limit) for run in found), "```\n"]
    return "\n".join(lines)


def play_one(run: Run, limit: int | None) -> Results:
    """Return the results of a row, played as far as they are not there."""
    protocol = get_protocol(run.protocol)
    player = make_player(run.agent, protocol, seed=0)
    path = default_path(protocol, str(player.description["name"]), "", run.control, limit)
    return play(
        protocol, player, path, control=run.control, limit=limit, command=run.command(limit)
    )


_BROKEN_DOWN = ("question-as-query", "oracle-queries", "model:tiny-trained")
_LEGEND = """
Means with 95 % bootstrap intervals (2,000 resamples) over questions. *cover EM*: every word of a
gold answer is in the answer; *in a row*: as a substring; *answer recall*: a gold answer stands in a
retrieved passage; *support recall*: share of a question's supporting passages among all that the
episode retrieved; *all supports*: all of them; *format faults*: share of episodes with any. The
oracle's answer is the gold answer, so its scores only say that the harness is right and what its
queries find. Controls take the evidence away: *no-documents* finds nothing, *shuffled-documents*
finds what another question would. Tables of different ids are not to be compared.
"""


def _digests(results: Results) -> str:
    held = results.header["digests"]
    return f"Questions {held['questions'][:12]}, corpus {held['corpus'][:12]}."


if __name__ == "__main__":
    main()
