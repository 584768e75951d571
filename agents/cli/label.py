"""``search-env label``: how many rollouts a model needs for each question."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from search_env.agents.cli.common import ModelName, Seed, Threads, need_agents, progress
from search_env.cli import options
from search_env.cli.console import check_output, say
from search_env.interrupts import exit_code
from search_env.validation import check_choice


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "label",
        epilog="Example: search-env label SearchQA-v0 --model runs/first/model --out hard.jsonl",
    )(label_command)


def label_command(
    out: Annotated[Path, typer.Option(help="File to write; an existing one is continued.")],
    env_id: options.EnvId = "SearchQA-v0",
    model: ModelName = "tiny-base",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.")] = None,
    rollouts: Annotated[int, typer.Option(min=1, help="Most rollouts of a question.")] = 21,
    right: Annotated[str, typer.Option(help="exact_match or cover_exact_match.")] = "exact_match",
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature.")] = 1.0,
    num_envs: Annotated[int, typer.Option(min=1, help="Episodes side by side.")] = 64,
    dtype: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    dataset: options.Dataset = None,
    split: options.Split = None,
    dataset_options: options.DatasetOptions = None,
    corpus: options.Corpus = None,
    retriever: options.RetrieverName = None,
    top_k: options.TopK = None,
    protocol: options.ProtocolName = None,
    prompt: options.PromptStyle = None,
    tokenizer: options.TokenizerName = None,
    max_tokens: options.MaxTokens = 4096,
    modules: options.Modules = None,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Measure how many rollouts a model needs for each question: easy, medium or difficult."""
    need_agents("label")
    import torch

    from search_env.agents.inference.engine import Engine
    from search_env.agents.inference.sampling import Sampling
    from search_env.agents.learning.precision import TORCH_DTYPES, dtype_in_words, resolve_dtype
    from search_env.agents.models import check_fits, count_ids, load_model, with_tokenizer
    from search_env.agents.rollouts.collect import make_envs
    from search_env.agents.rollouts.curriculum import RIGHT, label_difficulty
    from search_env.envs.checks import check_arguments

    options.import_modules(modules)
    check_choice("--right", right, RIGHT)
    sampling = Sampling(temperature=temperature)
    named = options.arguments_for(
        env_id,
        "train",
        **{"dataset": dataset, "split": split, "corpus": corpus, "retriever": retriever},
        **{"top_k": top_k, "protocol": protocol, "prompt": prompt, "tokenizer": tokenizer},
        **{"dataset_options": options.named_values(dataset_options), "max_tokens": max_tokens},
    )
    check_arguments(env_id, named, "the options")
    check_output(out)
    if threads is not None:
        torch.set_num_threads(threads)
    precision = resolve_dtype(dtype, "cpu")
    say(f"Computed in {dtype_in_words(precision, 'cpu')}.", stderr=True)
    loaded = load_model(str(model), dtype=TORCH_DTYPES[precision])
    arguments = with_tokenizer(named, loaded)
    envs = make_envs(env_id, num_envs=num_envs, vocabulary=count_ids(loaded), options=arguments)
    check_fits(loaded, envs.tokenizer)
    length = envs.protocol.max_tokens
    engine = Engine(loaded, rows=num_envs, max_tokens=length, sampling=sampling)
    count = len(envs.questions) if limit is None else min(limit, len(envs.questions))
    try:
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
    except KeyboardInterrupt as error:
        say(f"Interrupted. Run the same command to go on with {out}.", "yellow", stderr=True)
        raise typer.Exit(exit_code(error)) from None
    words = ["--dataset", dataset] if dataset is not None else []
    words += [word for text in dataset_options or () for word in ("--dataset-option", text)]
    _show([label.level for label in labels.values()], [env_id, *words], out)


def _show(levels: Sequence[str], words: Sequence[str], out: Path) -> None:
    """Print the totals, and the command that uses them; ``words`` name its questions."""
    from search_env.agents.rollouts.curriculum import LEVELS

    shares = ", ".join(f"{levels.count(level):,} {level}" for level in LEVELS)
    say(
        f"{len(levels):,} questions: {shares}.\n"
        f"Use it: search-env train {shlex.join(words)} --difficulties {shlex.quote(str(out))}"
    )
