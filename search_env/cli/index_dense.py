"""The dense part of ``search-env index``: from embeddings, or from a file of FAISS."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from search_env.cli.console import say
from search_env.errors import ConfigurationError

_PANEL = "Dense indexes (extra: dense)"

Embeddings = Annotated[
    Path | None,
    typer.Option(
        help="Embeddings of search-env embed: build a dense index.", rich_help_panel=_PANEL
    ),
]
Kind = Annotated[
    str,
    typer.Option(
        help="flat (exact), hnsw, ivf-sq8, or rabitq (smallest in memory).",
        rich_help_panel=_PANEL,
    ),
]
Lists = Annotated[
    int | None,
    typer.Option(min=1, help="Inverted lists of ivf-sq8 and rabitq.", rich_help_panel=_PANEL),
]
Questions = Annotated[
    str | None,
    typer.Option(
        help="Dataset or file whose questions measure the recall; by default passages do.",
        rich_help_panel=_PANEL,
    ),
]
FaissFile = Annotated[
    Path | None,
    typer.Option(help="A file of FAISS to use as it is, with --model.", rich_help_panel=_PANEL),
]
Model = Annotated[
    Path | None,
    typer.Option(help="Folder of the encoder that it was made with.", rich_help_panel=_PANEL),
]
Card = Annotated[
    Path | None,
    typer.Option(help="How that encodes, as for search-env embed.", rich_help_panel=_PANEL),
]


def build(
    embeddings: Path,
    corpus: Path | None,
    out: Path,
    *,
    kind: str,
    lists: int | None,
    questions: str | None,
    format: str | None,
) -> None:
    """Build an index of embeddings; recall is measured with questions where they are named."""
    from search_env.datasets.detect import read_documents
    from search_env.retrieval.dense.build import KINDS, build_dense_index
    from search_env.retrieval.dense.embeddings import Embeddings
    from search_env.retrieval.dense.encoder import need_packages
    from search_env.validation import check_choice

    check_choice("--kind", kind, KINDS)
    need_packages()
    vectors = Embeddings(embeddings)
    if corpus is None and not vectors.card.corpus:
        raise ConfigurationError(
            f"Expected the corpus that {embeddings} was made of, got none: its card does not say. "
            "Name it: search-env index --dense EMBEDDINGS CORPUS OUT."
        )
    measured = build_dense_index(
        read_documents(corpus or vectors.card.corpus, format),
        vectors,
        out,
        kind=kind,
        lists=lists,
        queries=None if questions is None else _encoded(vectors, questions),
        source=questions or "",
        progress=lambda step: say(f"{step} ...", stderr=True),
    )
    settings = ", ".join(f"{name}: {value:.3f}" for name, value in measured["measured"].items())
    say(
        f"Recall@{measured['k']} against exact search, {measured['queries']:,} queries "
        f"({measured['source']}): {measured['recall']:.3f} ({settings})"
    )
    _say_how_to_use(out)


def _encoded(vectors: Any, questions: str) -> Any:
    """Return the vectors of a dataset's questions, at most 1,000 of them."""
    from search_env.envs.loading import load_questions
    from search_env.retrieval.dense.encoder import Encoder

    encoder = Encoder(vectors.card.model, vectors.card.encoder)
    texts = [question.text for question in load_questions(questions, None, None)]
    return encoder.encode_queries(texts[:: max(1, len(texts) // 1000)][:1000])


def adopt(
    file: Path, corpus: Path, out: Path, *, model: Path, card: Path | None, format: str | None
) -> None:
    """Make an index folder of a file of FAISS that somebody else has built."""
    from search_env.datasets.detect import read_documents
    from search_env.retrieval.dense.build import adopt_faiss_file
    from search_env.retrieval.dense.card import read_card
    from search_env.retrieval.dense.encoder import Encoder, need_packages

    need_packages()
    encoder = Encoder(model, read_card(model, card), device="cpu")
    adopt_faiss_file(
        read_documents(corpus, format),
        file,
        out,
        model=model,
        card=encoder.card,
        dimension=encoder.dimension,
    )
    _say_how_to_use(out)


def _say_how_to_use(out: Path) -> None:
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    name = f"faiss:{out}"
    say(
        f"{out}: {size / 1e6:,.1f} MB\nUse it: gym.make(..., retriever={name!r}), or search-env "
        f"eval SearchQA-Bamboogle-v0 --retriever {shlex.quote(name)}"
    )
