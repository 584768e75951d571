"""Commands that imitate: ``search-env pretrain`` and ``search-env sft``.

Texts and episodes become examples here; the steps are :mod:`search_env.agents.imitation.sft`.
Whatever needs torch is imported inside the functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from search_env.errors import ConfigurationError
from search_env.validation import check_choice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from search_env.agents.types import Example
    from search_env.envs.search_qa import SearchQAEnv
    from search_env.tokens.tokenizer import Tokenizer

_WINDOW = 512  # tokens of articles in one example
_CARDS = 4  # reading cards for each of them
_HELD_OUT = 64
_LOOKUPS = 4.0  # one-hop questions that a world has for each article, at the least
_WORLDS_OF_OTHERS = 10_000  # seeds from here on are not those that people train and test on

Out = Annotated[Path, typer.Option(help="Folder to write the model to.")]
Steps = Annotated[int, typer.Option(min=1, help="Updates.")]
TokensPerStep = Annotated[int, typer.Option(min=1, help="Tokens an update, read ones included.")]
LearningRate = Annotated[float, typer.Option(min=0.0, help="At its highest.")]
OptimizerName = Annotated[str, typer.Option(help="adamw or muon.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, or bf16 with float32 weights.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides everything random.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch.")]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("pretrain", epilog="Example: search-env pretrain --out runs/reader --steps 500")(
        pretrain_command
    )
    app.command(
        "sft", epilog="Example: search-env sft episodes.jsonl --model tiny-base --out runs/sft"
    )(sft_command)


def pretrain_command(
    out: Out,
    model: Annotated[
        str | None, typer.Option(help="Folder or name of a model to go on with; a new tiny one.")
    ] = None,
    worlds: Annotated[int, typer.Option(min=1, help="Worlds to read about.")] = 4,
    articles: Annotated[int, typer.Option(min=100, help="Articles of each world.")] = 1000,
    documents: Annotated[int, typer.Option(min=1, help="Documents on a reading card.")] = 1,
    steps: Steps = 500,
    tokens_per_step: TokensPerStep = 2048,
    learning_rate: LearningRate = 3e-3,
    optimizer: OptimizerName = "muon",
    dtype: Dtype = "auto",
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Language modelling on articles, and single-hop reading: find a sentence, copy from it."""
    from search_env.agents.cli.common import need_agents

    need_agents("pretrain")
    _check(optimizer, dtype)
    base = _base(model, None, seed)
    reading = partial(_readings, articles, documents, seed, base.tokenizer)
    held_out = list(itertools.islice(reading(worlds), _HELD_OUT))
    examples = [example for world in range(worlds) for example in reading(world)]
    _imitate(
        base, examples, held_out, out, steps, tokens_per_step,
        learning_rate, optimizer, dtype, seed, threads,
    )  # fmt: skip


def sft_command(
    out: Out,
    episodes: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of RecordEpisodes; without any, oracle episodes of --env."),
    ] = None,
    model: Annotated[str, typer.Option(help="Folder or name of a model.")] = "tiny-base",
    env: Annotated[
        str, typer.Option(help="Id whose oracle episodes are imitated.")
    ] = "SearchQA-v0",
    count: Annotated[int, typer.Option(min=1, help="How many oracle episodes.")] = 500,
    least: Annotated[
        float | None, typer.Option(help="Leave recorded episodes out that were paid less.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Bundled name, path or hub id; else the model's own."),
    ] = None,
    steps: Steps = 100,
    tokens_per_step: TokensPerStep = 16384,
    learning_rate: LearningRate = 5e-4,
    optimizer: OptimizerName = "adamw",
    dtype: Dtype = "auto",
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Imitate episodes; only the policy's own tokens count, documents are read."""
    from search_env.agents.cli.common import need_agents

    need_agents("sft")
    _check(optimizer, dtype)
    base = _base(model, tokenizer, seed)
    read_by = base.tokenizer
    found = list(_recorded(episodes, least, read_by) if episodes else _oracle(env, count, read_by))
    if not found:
        raise ConfigurationError(
            f"Expected episodes to imitate, got none in {[str(p) for p in episodes or ()]}. Lower "
            "--least, or name other files."
        )
    kept = max(1, min(_HELD_OUT, len(found) // 10))
    _imitate(
        base, found[kept:] or found, found[:kept], out, steps, tokens_per_step,
        learning_rate, optimizer, dtype, seed, threads,
    )  # fmt: skip


def _check(optimizer: str, dtype: str) -> None:
    """Refuse what does not exist before anything takes time."""
    from search_env.agents.learning.precision import DTYPES

    check_choice("optimizer", optimizer, ("adamw", "muon"))
    check_choice("dtype", dtype, DTYPES)


class _Base(NamedTuple):
    """The model that is trained, the tokenizer of its ids, and what the display calls it."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    name: str


def _base(model: str | None, tokenizer: str | None, seed: int) -> _Base:
    """Return the model that is named; a new tiny one where none is."""
    from search_env.agents.models import (
        check_fits,
        load_model,
        tiny_config,
        untrained,
        with_tokenizer,
    )
    from search_env.tokens.tokenizer import load_tokenizer

    if model is None:
        return _Base(untrained(tiny_config(), seed), load_tokenizer("world-1k"), "new")
    started = load_model(model)
    name = with_tokenizer({"tokenizer": tokenizer}, started)["tokenizer"]
    ids = len(started.get_output_embeddings().weight)  # type: ignore[no-untyped-call]
    read_by = load_tokenizer(name)
    read_by = read_by.padded(max(ids, read_by.size))
    check_fits(started, read_by)
    return _Base(started, read_by, model)


def _readings(
    articles: int, documents: int, seed: int, read_by: Tokenizer, world: int
) -> Iterator[Example]:
    """Yield windows of a world's articles, and reading cards on them."""
    import numpy as np

    from search_env.agents.imitation.demonstrations import article_examples, reading_examples
    from search_env.worlds.encyclopaedia import World

    number = _WORLDS_OF_OTHERS + 1000 * seed + world
    made = World(articles, number)
    env = _bare("SearchQA-v0", read_by, dataset_options={"articles": articles, "seed": number})
    lookups = made.questions(int(_LOOKUPS * articles), hops=(1,), kinds=["lookup"])
    cards = reading_examples(env, lookups, np.random.default_rng(number), documents)
    for window in article_examples(list(made.documents()), env.tokenizer, _WINDOW):
        yield from itertools.islice(cards, _CARDS)
        yield window


def _recorded(files: Sequence[Path], least: float | None, read_by: Tokenizer) -> Iterator[Example]:
    """Yield recorded episodes as examples, if their ids are the model's."""
    import numpy as np

    from search_env.agents.models import check_same_ids
    from search_env.agents.types import Example
    from search_env.recording.files import read_episodes
    from search_env.types import Source

    known = {read_by.digest}
    for file in files:
        for episode in read_episodes(file):
            if episode.tokenizer.digest not in known:
                check_same_ids(read_by, episode.tokenizer.load())
                known.add(episode.tokenizer.digest)
            if least is None or episode.score.total >= least:
                transcript = episode.transcript
                weights = (transcript.sources == Source.POLICY).astype(np.float32)
                yield Example(transcript.tokens, weights)


def _oracle(env_id: str, count: int, read_by: Tokenizer) -> Iterator[Example]:
    from search_env.agents.imitation.demonstrations import oracle_example

    env = _bare(env_id, read_by)
    for index in range(min(count, len(env.questions))):
        yield oracle_example(env, index)


def _bare(env_id: str, read_by: Tokenizer, **options: Any) -> SearchQAEnv:
    import gymnasium as gym

    from search_env.envs.search_qa import bare_env

    options |= {"tokenizer": read_by.name, "vocab_size": read_by.size}
    return bare_env(gym.make(env_id, **options))


def _imitate(
    base: _Base,
    examples: Iterable[Example],
    held_out: Sequence[Example],
    out: Path,
    steps: int,
    tokens_per_step: int,
    learning_rate: float,
    optimizer: str,
    dtype: str,
    seed: int,
    threads: int | None,
) -> None:
    """Train on examples, show it, save the model."""
    import torch

    from search_env.agents.imitation.sft import SupervisedConfig, fit, measure
    from search_env.agents.learning.learner import Learner, OptimizerConfig
    from search_env.agents.learning.precision import resolve_dtype
    from search_env.agents.models import save_model
    from search_env.agents.reporting.dashboard import Dashboard
    from search_env.agents.reporting.logs import JsonLinesLog, Observers

    if threads is not None:
        torch.set_num_threads(threads)
    config = OptimizerConfig(
        learning_rate=learning_rate,
        warmup_steps=min(30, steps // 4),
        schedule="linear",
        total_steps=steps,
        optimizer=optimizer,  # type: ignore[arg-type]  # checked before
    )
    precision = resolve_dtype(dtype, base.model.device)
    learner = Learner(base.model, config, dtype=precision)
    observer = Observers([JsonLinesLog(out / "metrics.jsonl"), Dashboard()])
    told = {
        "model": base.name,
        "tokenizer": base.tokenizer.name,
        "dtype": precision,
        "examples": str(len(list(examples))),
    }
    observer.begin(steps, told)
    every = max(1, steps // 5)
    reason = "it failed"
    try:
        observer.evaluated(0, measure(learner, held_out))
        fit(
            learner,
            list(examples),
            SupervisedConfig(steps, tokens_per_step, seed, every),
            held_out=held_out,
            observer=observer,
        )
        reason = "all steps are made"
    except KeyboardInterrupt:
        reason = "interrupted"
        raise
    finally:
        observer.end(learner.updates, reason)
        save_model(learner.model, out / "model", tokenizer=base.tokenizer)
    typer.echo(f"Wrote {out / 'model'}")
