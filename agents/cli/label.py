"""``search-env label``: how many rollouts a model needs for each question."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from search_env.agents.cli.common import (
    ProtocolName,
    Seed,
    Threads,
    TokenizerName,
    count_ids,
    need_agents,
    progress,
    without_none,
)
from search_env.cli.console import say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "label",
        epilog="Example: search-env label SearchQA-v0 --model runs/first/model --out hard.jsonl",
    )(label_command)


def label_command(
    out: Annotated[Path, typer.Option(help="File to write; an existing one is continued.")],
    model: Annotated[
        str, typer.Option(help="Bundled name, folder or hub id of a causal language model.")
    ] = "tiny-base",
    env_id: Annotated[str, typer.Argument(help="Id of the environment.")] = "SearchQA-v0",
    split: Annotated[str | None, typer.Option(help="Split of the questions.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.")] = None,
    rollouts: Annotated[int, typer.Option(min=1, help="Most rollouts of a question.")] = 21,
    right: Annotated[str, typer.Option(help="exact_match or cover_exact_match.")] = "exact_match",
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature.")] = 1.0,
    num_envs: Annotated[int, typer.Option(min=1, help="Episodes side by side.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=2, help="Context in tokens.")] = 4096,
    protocol: ProtocolName = None,
    tokenizer: TokenizerName = None,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Measure how many rollouts a model needs for each question: easy, medium or difficult."""
    need_agents("label")
    import torch

    from search_env.agents.inference.engine import Engine
    from search_env.agents.inference.sampling import Sampling
    from search_env.agents.models import check_fits, load_model, with_tokenizer
    from search_env.agents.rollouts.collect import make_envs
    from search_env.agents.rollouts.curriculum import LEVELS, label_difficulty

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_model(model)
    options: dict[str, Any] = {"split": split, "protocol": protocol, "tokenizer": tokenizer}
    options["max_tokens"] = max_tokens
    options = with_tokenizer(without_none(options), loaded)
    envs = make_envs(env_id, num_envs=num_envs, vocabulary=count_ids(loaded), options=options)
    check_fits(loaded, envs.tokenizer)
    engine = Engine(
        loaded, rows=num_envs, max_tokens=max_tokens, sampling=Sampling(temperature=temperature)
    )
    count = len(envs.questions) if limit is None else min(limit, len(envs.questions))
    with progress("label", count) as advance:
        labels = label_difficulty(
            envs,
            engine,
            out,
            indices=range(count),
            rollouts=rollouts,
            right=right,
            seed=seed,
            progress=advance,
        )
    levels = [label.level for label in labels.values()]
    shares = ", ".join(f"{levels.count(level):,} {level}" for level in LEVELS)
    say(
        f"{len(levels):,} questions: {shares}.\n"
        f"Use it: search-env train {env_id} --difficulties {shlex.quote(str(out))}"
    )
