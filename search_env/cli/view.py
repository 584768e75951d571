"""``search-env view``: a page that shows recorded episodes."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search_env.cli.console import check_output, progress_bar, say
from search_env.cli.options import TornTail

if TYPE_CHECKING:
    from search_env.viewer.page import PageEntry


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("view", epilog="Example: search-env view episodes.jsonl --open")(view_command)


def view_command(
    files: Annotated[list[Path], typer.Argument(help="Recorded episodes, see RecordEpisodes.")],
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("episodes.html"),
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N episodes of each file.")
    ] = None,
    torn_tail: TornTail = "raise",
    open_page: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Write one page with every token of recorded episodes, to open without a server."""
    from search_env.viewer.page import write_page

    check_output(out)
    with progress_bar() as bar:
        episodes = bar.track(read_page_episodes(files, limit, torn_tail), description="read")
        count = write_page(out, "Episodes", episodes)
    say(f"Wrote {out}: {count:,} episodes, {out.stat().st_size / 1e6:.1f} MB")
    if open_page:
        webbrowser.open(out.resolve().as_uri())


def read_page_episodes(files: list[Path], limit: int | None, torn_tail: str) -> Iterator[PageEntry]:
    """Yield the first ``limit`` episodes of each file, or all, named after their file."""
    from itertools import islice

    from search_env.recording.files import read_episodes
    from search_env.viewer.page import PageEntry

    for file in files:
        for episode in islice(read_episodes(file, torn_tail=torn_tail), limit):
            yield PageEntry(file.name.partition(".")[0], episode)
