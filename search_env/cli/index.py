"""``search-env index``: a BM25 index of a corpus."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from search_env.cli.console import say
from search_env.errors import ConfigurationError


def register(app: typer.Typer) -> None:
    """Add the command."""
    example = "Example: search-env index wiki-18.jsonl indexes/wiki-18 --format flashrag"
    app.command("index", epilog=example)(index_command)


def index_command(
    corpus: Annotated[
        Path, typer.Argument(help="Passages in any supported layout, also .gz or .xz.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write the index to.")],
    format: Annotated[
        str | None, typer.Option(help="Layout; by default detected from the first record.")
    ] = None,
    k1: Annotated[float, typer.Option(help="Term-frequency saturation.")] = 0.9,
    b: Annotated[float, typer.Option(help="Length normalisation.")] = 0.4,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing index.")] = False,
) -> None:
    """Build a BM25 index of a corpus, to be used as corpus= of any environment."""
    from search_env.datasets.detect import read_documents
    from search_env.retrieval.bm25.retriever import BM25Retriever

    if not force and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigurationError(
            f"Expected a new path or an empty folder to write to, got {out}. "
            "Choose another path, or pass --force to replace an index."
        )
    index = BM25Retriever.build(read_documents(corpus, format), k1=k1, b=b, progress=True)
    index.save(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    say(
        f"{len(index):,} passages, {size / 1e6:,.1f} MB, digest {index.digest}\n"
        f"Use it: gym.make(..., corpus={str(out)!r}), or search-env eval SearchQA-Bamboogle-v0 "
        f"--corpus {shlex.quote(str(out))}"
    )
