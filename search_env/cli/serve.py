"""``search-env serve``: a search server over any retriever."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated

import typer

from search_env.cli.console import say
from search_env.cli.options import Modules, RetrieverName, import_modules
from search_env.validation import check_count

if TYPE_CHECKING:
    from search_env.retrieval.base import Retriever

_BATCHES = "Batches, queue, cache"


def register(app: typer.Typer) -> None:
    """Add the command."""
    example = "Example: search-env serve indexes/wiki-18 --port 8000 --workers 4"
    app.command("serve", epilog=example)(serve_command)


def serve_command(
    corpus: Annotated[
        str | None,
        typer.Argument(help="Corpus file, or index of search-env index; a dataset's by default."),
    ] = None,
    retriever: RetrieverName = None,
    dataset: Annotated[
        str, typer.Option(help="Whose documents are served where no corpus is named.")
    ] = "musique",
    modules: Modules = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    workers: Annotated[int, typer.Option(help="Processes over one memory-mapped index.")] = 1,
    window: Annotated[
        float,
        typer.Option(
            help="Seconds that a query waits for others at most.", rich_help_panel=_BATCHES
        ),
    ] = 0.002,
    max_batch: Annotated[
        int, typer.Option(help="Queries in one search at most.", rich_help_panel=_BATCHES)
    ] = 64,
    max_queue: Annotated[
        int,
        typer.Option(
            help="Queries that may wait; more are answered with 503.", rich_help_panel=_BATCHES
        ),
    ] = 4096,
    cache: Annotated[
        int, typer.Option(help="Queries whose documents are kept.", rich_help_panel=_BATCHES)
    ] = 10_000,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Offer the MCP tool `search` at /mcp too.")
    ] = False,
) -> None:
    """Serve a retriever to Search-R1, verl, SkyRL, ReSearch, R1-Searcher, RAGEN, GEM and others."""
    from search_env.retrieval.server.run import open_socket, serve
    from search_env.retrieval.server.settings import ServerSettings

    settings = ServerSettings(window, max_batch, max_queue, cache, mcp, host)
    check_count("workers", workers, 1)
    load = functools.partial(_load, retriever, dataset, corpus, tuple(modules or ()))
    load()  # says what is wrong before any process begins, and builds what the workers map
    listening = open_socket(host, port)
    address = listening.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    say(
        f"Serving {retriever or 'bm25'} on http://{shown}:{address[1]} "
        f"({workers} process{'es' if workers > 1 else ''}). "
        f"Use it: retriever='http://{shown}:{address[1]}?dialect=search-r1'. Ctrl-C ends it."
    )
    serve(load, settings, listening, workers=workers)
    say("Stopped; all requests are answered.", stderr=True)


def _load(
    retriever: str | None, dataset: str, corpus: str | None, modules: tuple[str, ...]
) -> Retriever:
    """Load a retriever in any process."""
    from search_env.envs.loading import load_retriever

    import_modules(list(modules))
    return load_retriever(retriever, dataset=dataset, split=None, options=None, corpus=corpus)
