"""``search-env view``: a page that shows recorded episodes."""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Callable, Iterator
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
    files: Annotated[
        list[Path],
        typer.Argument(help="Recorded episodes, see RecordEpisodes, or folders of these."),
    ],
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("episodes.html"),
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N episodes of each file.")
    ] = None,
    torn_tail: TornTail = "raise",
    open_page: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Write the page again whenever a run has recorded more, until Ctrl-C; an open "
            "page loads itself again and keeps its place.",
        ),
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.5, help="Seconds between two looks at the files, with --follow.")
    ] = 5.0,
) -> None:
    """Write one page with every token of recorded episodes, to open without a server."""
    from search_env.viewer.page import write_page

    check_output(out)
    if follow:
        show = (lambda: webbrowser.open(out.resolve().as_uri())) if open_page else None
        follow_files(files, out, limit, every, first_written=show)
        return
    files = episode_files(files)
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


def episode_files(paths: list[Path]) -> list[Path]:
    """Return the files, and for each folder the recordings of episodes in it, at any depth.

    Raises:
        DataNotFoundError: A folder has no recorded episodes.
    """
    from search_env.errors import DataNotFoundError

    found = []
    for path in paths:
        inside = _recordings(path) if path.is_dir() else [path]
        if not inside:
            raise DataNotFoundError(
                f"Expected recorded episodes in the folder {path}, got none. Record some with the "
                "wrapper RecordEpisodes(env, path), or wait for a run with --follow."
            )
        found += inside
    return found


def _recordings(folder: Path) -> list[Path]:
    from search_env.datasets.streaming import open_binary
    from search_env.recording.record import LINE_START

    recordings = []
    for path in sorted(folder.rglob("*.jsonl*")):
        if path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.xz")):
            with open_binary(path) as file:
                if file.read(len(LINE_START)) == LINE_START:
                    recordings.append(path)
    return recordings


def follow_files(
    paths: list[Path],
    out: Path,
    limit: int | None,
    every: float,
    *,
    first_written: Callable[[], object] | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Write the page whenever a recording has changed, until KeyboardInterrupt.

    Files and folders need not be there yet. The last page no longer loads itself again.

    Args:
        paths: Recordings, or folders of these.
        out: The page.
        limit: Number of episodes of each recording; None for all.
        every: Seconds between two looks.
        first_written: Called after the first page.
        wait: Waits for so many seconds.
    """
    from search_env.viewer.page import write_page

    seen: list[tuple[Path, int, int]] | None = None
    say(f"Following {', '.join(map(str, paths))} into {out}. Ctrl-C ends.")
    try:
        while True:
            state = _state_of(paths)
            if state != seen:
                episodes = read_page_episodes([path for path, *_ in state], limit, "skip")
                count = write_page(out, "Episodes", episodes, refresh=every)
                say(f"Wrote {out}: {count:,} episodes")
                if seen is None and first_written is not None:
                    first_written()
                seen = state
            wait(every)
    except KeyboardInterrupt:
        files = [path for path, *_ in _state_of(paths)]
        count = write_page(out, "Episodes", read_page_episodes(files, limit, "skip"))
        say(f"Wrote {out}: {count:,} episodes, which is no longer live")


def _state_of(paths: list[Path]) -> list[tuple[Path, int, int]]:
    """Return path, size and time of change of each recording that has begun."""
    files = [file for path in paths for file in (_recordings(path) if path.is_dir() else [path])]
    stats = [(file, file.stat()) for file in files if file.is_file()]
    return [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats if stat.st_size]
