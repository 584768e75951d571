"""Options and helpers that the agents' commands share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from search_env.cli.console import open_console
from search_env.errors import ConfigurationError

_NEEDED = ("torch", "transformers", "safetensors")

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="tiny-base, tiny-trained, or the folder or hub id of a causal language model.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch.")]


def need_agents(command: str) -> None:
    """Raise an error that says what to install if a package is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"Expected {', '.join(_NEEDED)} for search-env {command}, got no {missing[0]}. Run "
            '`pip install "search-env[agents]"`.'
        )
    from transformers.utils import logging

    # Progress bars of loading and writing would break the display.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def progress(name: str, total: int) -> Iterator[Any]:
    """Show a progress bar; yield the function that advances it."""
    from rich.progress import Progress

    with Progress(console=open_console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done, _: bar.update(task, completed=done)
