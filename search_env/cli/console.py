"""Output of commands: results on standard output, progress and errors on standard error.

rich is imported only when it is used, so that ``--help`` is fast.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search_env.errors import ConfigurationError
from search_env.paths import why_not_writable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

PIPE_WIDTH = 100
"""Columns of output that is not a terminal."""


def open_console(*, stderr: bool = False) -> Console:
    """Return a console whose lines in a pipe are :data:`PIPE_WIDTH` wide instead of 80."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False)


def say(text: str, style: str = "", *, stderr: bool = False) -> None:
    """Print text unchanged: no markup, no line wrapping."""
    open_console(stderr=stderr).print(text, style=style, markup=False, soft_wrap=True)


def progress_bar() -> Progress:
    """Return a bar with counts and the remaining time, shown only if stderr is a terminal."""
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description:<17}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=open_console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def print_any_text() -> None:
    """Print "?" for characters that the encoding of the terminal or pipe lacks."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def open_table(*names: str, numbers: Sequence[str]) -> Table:
    """Return an empty table with columns of text, which may fold, and of numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def check_output(path: Path | None) -> None:
    """Check before the work starts that an output file can be written; make nothing.

    Raises:
        ConfigurationError: The path is a folder, or its folder is not writable.
    """
    if path is None:
        return
    reason = "it is a folder" if path.is_dir() else why_not_writable(path.parent)
    if reason:
        raise ConfigurationError(
            f"Expected --out to be a file that can be written, got {path}: {reason}. Choose "
            "another path."
        )
