"""``search-env index``: a BM25 or a dense index of a corpus."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from search_env.cli import index_dense
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
            ".bz2), Parquet, or a folder of such files. With --dense: by default those that were "
            "embedded."
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
    dense: index_dense.Embeddings = None,
    kind: index_dense.Kind = "flat",
    lists: index_dense.Lists = None,
    questions: index_dense.Questions = None,
    faiss: index_dense.FaissFile = None,
    model: index_dense.Model = None,
    card: index_dense.Card = None,
) -> None:
    """Build an index of a corpus, or check one.

    search-env index CORPUS OUT: BM25, to be used as corpus= of any environment.
    search-env index --dense EMBEDDINGS OUT: dense, to be used as retriever="faiss:OUT".
    search-env index --faiss FILE CORPUS OUT --model FOLDER: a dense one that exists already.
    search-env index --check FOLDER
    """
    given = [path.expanduser() for path in (corpus, out) if path is not None]
    modes = [path is not None for path in (check, dense, faiss)]
    if check is not None and not given and sum(modes) == 1:
        _check(check)
    elif dense is not None and given and sum(modes) == 1:
        *named, target = given
        _refuse_to_overwrite(target, force)
        index_dense.build(
            dense.expanduser(),
            named[0] if named else None,
            target,
            kind=kind,
            lists=lists,
            questions=questions,
            format=format,
        )
    elif faiss is not None and len(given) == 2 and sum(modes) == 1 and model is not None:
        source, target = given
        _refuse_to_overwrite(target, force)
        index_dense.adopt(faiss, source, target, model=model.expanduser(), card=card, format=format)
    elif not any(modes) and len(given) == 2:
        source, target = given
        _refuse_to_overwrite(target, force)
        _build(source, target, format, k1=k1, b=b)
    else:
        paths = [str(path) for path in (corpus, out, check, dense, faiss) if path is not None]
        raise ConfigurationError(
            f"Expected `search-env index CORPUS OUT` or `search-env index --check FOLDER` (or "
            f"`--dense EMBEDDINGS OUT`, `--faiss FILE CORPUS OUT --model FOLDER`), got "
            f"{paths or 'neither'}. Name a corpus and a folder to write to, or an index to check."
        )


def _check(folder: Path) -> None:
    from search_env.retrieval.bm25.retriever import BM25Retriever
    from search_env.retrieval.storage.array_folder import DENSE, kind_of

    if kind_of(folder) == DENSE:
        from search_env.retrieval.dense.index import open_dense_index

        index = open_dense_index(folder, verify_all=True)
        count, digest = len(index.passages), index.manifest["digest"]
    else:
        bm25 = BM25Retriever.load(folder, verify=True)
        count, digest = len(bm25), bm25.digest
    say(f"{folder}: as it was written, {count:,} passages, digest {digest}")


def _refuse_to_overwrite(out: Path, force: bool) -> None:
    if not force and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigurationError(
            f"Expected a new path or an empty folder to write to, got {out}. "
            "Choose another path, or pass --force to replace an index."
        )


def _build(corpus: Path, out: Path, format: str | None, *, k1: float, b: float) -> None:
    from search_env.datasets.detect import read_documents
    from search_env.retrieval.bm25.retriever import BM25Retriever

    index = BM25Retriever.build(read_documents(corpus, format), k1=k1, b=b, progress=True)
    index.save(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    say(
        f"{len(index):,} passages, {size / 1e6:,.1f} MB, digest {index.digest}\n"
        f"Use it: gym.make(..., corpus={str(out)!r}), or search-env eval SearchQA-Bamboogle-v0 "
        f"--corpus {shlex.quote(str(out))}"
    )
