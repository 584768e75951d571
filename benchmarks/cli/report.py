"""``search-env report``: runs of any kind as one page, and as Markdown.

The page is made by :mod:`search_env.benchmarks.reports.pages`.
"""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from search_env.cli.console import check_output, say
from search_env.datasets.streaming import open_binary
from search_env.paths import atomic_path

if TYPE_CHECKING:
    from search_env.viewer.page import Tab

_LOG = "metrics.jsonl"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", epilog="Example: search-env report runs/bench runs/train --open")(
        report_command
    )


def report_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Results of search-env bench, recorded episodes, folders of search-env train, or "
            "folders of these."
        ),
    ],
    out: Annotated[Path, Option(help="Page to write.")] = Path("report.html"),
    markdown: Annotated[Path | None, Option(help="Markdown file for the scores as well.")] = None,
    limit: Annotated[
        int | None, Option(min=1, help="Only the first N episodes of each recording.")
    ] = None,
    title: Annotated[str, Option(help="Title of the page.")] = "Report",
    open_page: Annotated[bool, Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Write one self-contained page: scores, learning curves, and every token of every episode."""
    from search_env.benchmarks.harness.results_file import read_results
    from search_env.benchmarks.reports import pages
    from search_env.cli.view import read_page_episodes
    from search_env.errors import ConfigurationError
    from search_env.viewer.page import write_page

    check_output(out)
    check_output(markdown)
    results, recordings, trainings = classify(runs)
    if not (results or recordings or trainings):
        raise ConfigurationError(
            f"Expected runs in {', '.join(map(str, runs))}, got none. Make some with search-env "
            "bench or search-env train."
        )
    scored = pages.by_protocol(read_results(path) for path in results)
    tabs: list[Tab] = [pages.score_tab(scored)] if scored else []
    tabs += [pages.training_tab(trainings)] if trainings else []
    count = write_page(out, title, read_page_episodes(recordings, limit, "skip"), tabs)
    say(
        f"Wrote {out}: {len(results):,} results, {len(trainings):,} trainings, {count:,} episodes, "
        f"{out.stat().st_size / 1e6:.1f} MB"
    )
    if markdown is not None:
        text = f"# {title}\n\n{pages.LEGEND}\n\n{pages.report_markdown(scored)}"
        with atomic_path(markdown) as temporary:
            temporary.write_text(text, "utf-8", "replace")
        say(f"Wrote {markdown}")
    if open_page:
        webbrowser.open(out.resolve().as_uri())


def classify(runs: list[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Return the files of results, recordings of episodes, and training folders, at any depth."""
    from search_env.benchmarks.harness.errors import ResultsError
    from search_env.errors import DataNotFoundError

    kinds: dict[str, list[Path]] = {"results": [], "episodes": [], "training": []}
    for run in runs:
        if not run.exists():
            raise DataNotFoundError(
                f"Expected a run at {run}, got no such file or folder. Check the path."
            )
        for path in _files_in(run) if run.is_dir() else [run]:
            kind = kind_of(path)
            if kind is None and path == run:
                raise ResultsError(
                    f"Expected results, recorded episodes or a training's folder at {path}, got "
                    "another kind of file. Score outputs of other systems with search-env score."
                )
            if kind is not None:
                kinds[kind].append(path.parent if kind == "training" else path)
    return kinds["results"], kinds["episodes"], kinds["training"]


def _files_in(folder: Path) -> list[Path]:
    suffixes = (".jsonl", ".jsonl.gz", ".jsonl.xz")
    return sorted(p for p in folder.rglob("*.jsonl*") if p.name.endswith(suffixes) and p.is_file())


def kind_of(path: Path) -> str | None:
    """Return what a file is, by its first bytes and its name."""
    with open_binary(path) as file:
        head = file.read(64)
    if head.startswith(b'{"search_env_results"'):
        return "results"
    if head.startswith(b'{"search_env_episode"'):
        return "episodes"
    return "training" if path.name == _LOG else None
