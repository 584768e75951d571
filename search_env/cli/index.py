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
        Path | None,
        typer.Argument(
            help="Passages in any supported layout: JSON lines, JSON, CSV, TSV (also .gz, .xz, "
            ".bz2), Parquet, or a folder of such files."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Argument(help="Folder to write the index to.")] = None,
    format: Annotated[
        str | None, typer.Option(help="Layout; by default detected from the first record.")
    ] = None,
    k1: Annotated[float, typer.Option(help="Term-frequency saturation.")] = 0.9,
    b: Annotated[float, typer.Option(help="Length normalisation.")] = 0.4,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing index.")] = False,
    check: Annotated[
        Path | None,
        typer.Option(help="Only verify an index: every byte against the stored checksums."),
    ] = None,
) -> None:
    """Build a BM25 index of a corpus, to be used as corpus= of any environment, or check one."""
    if check is not None and corpus is None and out is None:
        _check(check)
    elif check is None and corpus is not None and out is not None:
        _build(corpus.expanduser(), out.expanduser(), format, k1=k1, b=b, force=force)
    else:
        given = [str(path) for path in (corpus, out, check) if path is not None]
        raise ConfigurationError(
            f"Expected `search-env index CORPUS OUT` or `search-env index --check FOLDER`, got "
            f"{given or 'neither'}. Name a corpus and a folder to write to, or an index to check."
        )


def _check(folder: Path) -> None:
    from search_env.retrieval.bm25.retriever import BM25Retriever

    index = BM25Retriever.load(folder, verify=True)
    say(f"{folder}: as it was written, {len(index):,} passages, digest {index.digest}")


def _build(
    corpus: Path, out: Path, format: str | None, *, k1: float, b: float, force: bool
) -> None:
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
