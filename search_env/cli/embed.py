"""``search-env embed``: the vectors of a corpus, for a dense index."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from search_env.cli.console import progress_bar, say
from search_env.interrupts import exit_code


def register(app: typer.Typer) -> None:
    """Add the command."""
    example = "Example: search-env embed wiki-18.jsonl vectors/wiki-18 --model models/e5-base-v2"
    app.command("embed", epilog=example)(embed_command)


def embed_command(
    corpus: Annotated[
        Path, typer.Argument(help="Passages in any layout that search-env index reads.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write to; one that was begun goes on.")],
    model: Annotated[Path, typer.Option(help="Folder of an encoder of transformers.")],
    card: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with pooling, normalize, query_prefix, passage_prefix, "
            "passage_template, max_length; by default from the model's files and name."
        ),
    ] = None,
    shard: Annotated[
        str, typer.Option(help="I/N: this process embeds every N-th block, from the I-th.")
    ] = "1/1",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="Computed in: fp32, bf16, fp16; auto is fp32 on CPUs, else fp16.")
    ] = "auto",
    stored: Annotated[str, typer.Option(help="Type of the files: float16 or float32.")] = "float16",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens in a batch.")] = 16_384,
    format: Annotated[
        str | None, typer.Option(help="Layout; by default detected from the first record.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
) -> None:
    """Write the vectors of a corpus into files, for `search-env index --dense`.

    A run that was stopped, even killed, goes on where it was when the same command is run again.
    """
    from search_env.datasets.detect import read_documents
    from search_env.retrieval.dense.card import read_card
    from search_env.retrieval.dense.embeddings import Shard, embed
    from search_env.retrieval.dense.encoder import Encoder, need_packages

    part = Shard.parse(shard)
    need_packages()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    corpus, out, model = (path.expanduser() for path in (corpus, out, model))
    encoder = Encoder(
        model,
        read_card(model, card),
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
    )
    say(
        f"{model.name}: {encoder.dimension} dimensions, {encoder.card.pooling} pooling, "
        f"{encoder.dtype} on {encoder.device}; {encoder.card}",
        stderr=True,
    )
    try:
        with progress_bar() as bar:
            task = bar.add_task("embed", total=None)
            count = embed(
                read_documents(corpus, format),
                out,
                encoder,
                shard=part,
                stored=stored,
                corpus=str(corpus.absolute()),
                progress=lambda read: bar.update(task, completed=read),
            )
    except KeyboardInterrupt as error:
        say(f"Interrupted. Run the same command to go on with {out}.", "yellow", stderr=True)
        raise typer.Exit(exit_code(error)) from None
    say(
        f"{out}: shard {part.number}/{part.total} is complete, {count:,} passages embedded now\n"
        f"Index it: search-env index --dense {shlex.quote(str(out))} OUT --kind flat"
    )
