"""``search-env suite``: how good is an algorithm, and at what?

The experiments and their scores are in :mod:`search_env.benchmarks.suite`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from search_env.cli.console import check_output, say

if TYPE_CHECKING:
    from search_env.benchmarks.suite.scores import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("suite", epilog="Example: search-env suite grpo rloo --seeds 3")(suite_command)


def suite_command(
    algorithms: Annotated[
        list[str],
        typer.Argument(
            help="Functions of a task, MODULE:NAME, or reference algorithms: reinforce++, grpo, "
            "rloo, ppo, dapo, gspo, broken-no-mask, broken-late-mask.",
            metavar="MODULE:ALGORITHM",
        ),
    ],
    experiments: Annotated[
        str | None, Option(help="Names of experiments with commas; all by default.")
    ] = None,
    seeds: Annotated[int, Option(min=1, help="Seeds 0 to N - 1.")] = 10,
    jobs: Annotated[
        int | None, Option(min=1, help="Processes side by side; one for each processor by default.")
    ] = None,
    out: Annotated[
        Path, Option(help="Folder of runs and page; runs that it holds are not made again.")
    ] = Path("runs/suite"),
    against: Annotated[
        Path | None, Option(help="File of runs to compare with, such as the repository's.")
    ] = None,
) -> None:
    """Train an algorithm in ten small experiments; show one score, and what it is good at."""
    from rich.progress import Progress

    from search_env.benchmarks.suite import page
    from search_env.benchmarks.suite.run import check_experiments, name_of, read_runs, run_suite
    from search_env.benchmarks.suite.scores import by_algorithm
    from search_env.viewer.page import write_page

    names = check_experiments(experiments.split(",") if experiments else None)
    check_output(out / "suite.html")
    others = read_runs(against) if against is not None else []
    runs: list[Run] = []
    for algorithm in algorithms:
        name = name_of(algorithm)
        with Progress() as progress:
            bar = progress.add_task(name, total=len(names) * seeds)
            file = out / f"{name}.jsonl"
            made = run_suite(
                algorithm,
                file,
                experiments=names,
                seeds=seeds,
                jobs=jobs,
                on_run=lambda _: progress.advance(bar),  # noqa: B023 - called before the next
            )
            progress.update(bar, completed=len(names) * seeds)
        runs += made
    found = by_algorithm([*runs, *(run for run in others if run.experiment in names)])
    text = page.markdown(found)
    say(text)
    (out / "suite.md").write_text(f"# Suite\n\n{text}", "utf-8")
    write_page(out / "suite.html", "Suite", [], [page.tab(found)])
    say(f"Wrote {out / 'suite.html'} and {out / 'suite.md'}")
