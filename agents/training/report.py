"""The report of a finished run: scores before and after training, curves, episodes to read."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from search_env.agents.reporting.summary import results_table, select_samples, show_episodes
from search_env.agents.training.config import TrainConfig
from search_env.agents.training.run import FinalTest, TrainResult
from search_env.agents.types import Trajectory
from search_env.cli.console import PIPE_WIDTH, open_console, say
from search_env.metrics.statistics import compare_paired
from search_env.paths import atomic_path

_FORCED = "before, forced to search"


def write_report(config: TrainConfig, result: TrainResult, test: FinalTest) -> None:
    """Show and write what came of a run.

    ``report.txt`` and, where matplotlib is installed, ``training.png`` are written to the folder of
    the run.
    """
    envs, before, after, forced = test
    rows = {"before training": before, "after training": after}
    if forced is not None:
        rows = {"before training": before, _FORCED: forced, "after training": after}
    seen = "never seen in training" if config.is_held_out("test") else "trained on"
    out = Path(config.out)
    report = out / "report.txt"
    with atomic_path(report) as temporary, temporary.open("w", encoding="utf-8") as file:
        for console in (open_console(), Console(file=file, width=PIPE_WIDTH, highlight=False)):
            console.print(f"\n{len(after):,} questions {seen}:\n", markup=False)
            console.print(results_table(rows))
            if forced is not None:
                console.print(f"\n{_gain(forced, after)}", markup=False)
            show_episodes(
                select_samples(after, before), envs.tokenizer, envs.questions, console=console
            )
    files = [str(result.model), str(report), str(out / "metrics.jsonl")]
    if importlib.util.find_spec("matplotlib") is not None and result.steps:
        from search_env.agents.reporting.plots import training_figure

        training_figure([out / "metrics.jsonl"], out / "training.png")
        files.append(str(out / "training.png"))
    say("\nWrote " + ", ".join(files))
    recorded = sorted((out / "episodes").glob("step-*.jsonl"))
    if recorded:
        say(f"Episodes of the training: search-env view {shlex.join(map(str, recorded))} --open")


def _gain(forced: Sequence[Trajectory], after: Sequence[Trajectory]) -> str:
    """Say what training added to the answers of the base that is forced to search."""
    pairs = [(a, b) for a, b in zip(after, forced, strict=True) if a.valid and b.valid]
    scores = [[t.scores["exact_match"] for t in side] for side in zip(*pairs, strict=True)]
    if not scores:
        return "No question was played by both."
    change = compare_paired(*scores).difference
    return (
        f"Beyond the decision to search: EM {100 * change.mean:+.1f} points over the base that is "
        f"forced to search (95 % {100 * change.low:+.1f} to {100 * change.high:+.1f})."
    )
