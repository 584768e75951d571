"""``search-env pretrain`` and ``search-env sft``: supervised training on texts and episodes.

Texts and episodes become examples here; the steps are :mod:`search_env.agents.imitation.sft`.
Modules that need torch are imported inside the functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from search_env.agents.cli.common import ModelName, Seed, Threads, need_agents
from search_env.cli import options
from search_env.cli.console import say
from search_env.errors import ConfigurationError
from search_env.interrupts import exit_code
from search_env.paths import used_alone
from search_env.validation import check_choice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from search_env.agents.learning.optimizers import OptimizerConfig
    from search_env.agents.types import Example
    from search_env.envs.search_qa import SearchQAEnv
    from search_env.rewards import Reward
    from search_env.tokens.tokenizer import Tokenizer

    _Source = Callable[[Tokenizer], Iterable[Example]]

_WINDOW = 512  # tokens of articles in one example
_CARDS = 4  # reading cards for each of them
_NUM_HELD_OUT = 64
_LOOKUPS = 4.0  # one-hop questions for each article that every world has
_FIRST_WORLD = 10_000  # seeds from here on are used neither for training by reward nor for testing

Out = Annotated[Path, typer.Option(help="Folder to write the model to.")]
Steps = Annotated[int, typer.Option(min=1, help="Updates.")]
TokensPerStep = Annotated[int, typer.Option(min=1, help="Tokens an update, documents included.")]
LearningRate = Annotated[float, typer.Option(min=0.0, help="Highest learning rate.")]
OptimizerName = Annotated[str, typer.Option(help="adamw or muon.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, or bf16 with float32 weights.")]


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
        str | None, typer.Option(help="Folder or name of a model to start from; else a new one.")
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
    run = _Run(out, steps, tokens_per_step, learning_rate, optimizer, dtype, seed, threads)
    _check("pretrain", run)
    base = _load_base(model, None, run)
    reading = partial(_readings, articles, documents, seed, base.tokenizer)
    held_out = list(itertools.islice(reading(worlds), _NUM_HELD_OUT))
    examples = [example for world in range(worlds) for example in reading(world)]
    with used_alone(run.out):
        _imitate(base, examples, held_out, run)


def sft_command(
    out: Out,
    episodes: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of RecordEpisodes; by default, oracle episodes of --env."),
    ] = None,
    model: ModelName = "tiny-base",
    env: Annotated[
        str, typer.Option(help="Id whose oracle episodes are imitated.")
    ] = "SearchQA-v0",
    count: Annotated[int, typer.Option(min=1, help="Number of oracle episodes.")] = 500,
    least: Annotated[
        float | None, typer.Option(help="Leave out recorded episodes with a lower reward.")
    ] = None,
    reward: options.RewardName = None,
    dataset: options.Dataset = None,
    split: options.Split = None,
    dataset_options: options.DatasetOptions = None,
    corpus: options.Corpus = None,
    retriever: options.RetrieverName = None,
    top_k: options.TopK = None,
    protocol: options.ProtocolName = None,
    tokenizer: options.TokenizerName = None,
    max_tokens: options.MaxTokens = None,
    modules: options.Modules = None,
    steps: Steps = 100,
    tokens_per_step: TokensPerStep = 16384,
    learning_rate: LearningRate = 5e-4,
    optimizer: OptimizerName = "adamw",
    dtype: Dtype = "auto",
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Imitate episodes; only the policy's own tokens count, documents are read.

    --reward is what --least compares in place of the recorded reward. The options of the questions
    and documents belong to oracle episodes.
    """
    run = _Run(out, steps, tokens_per_step, learning_rate, optimizer, dtype, seed, threads)
    _check("sft", run)
    options.import_modules(modules)
    task = {
        **{"dataset": dataset, "split": split, "corpus": corpus, "retriever": retriever},
        **{"top_k": top_k, "protocol": protocol, "max_tokens": max_tokens},
        "dataset_options": options.named_values(dataset_options),
    }
    if episodes:
        source = _check_recorded(episodes, least, reward, task)
    else:
        source = _check_oracle(env, count, least, reward, {**task, "tokenizer": tokenizer})
    base = _load_base(model, tokenizer, run)
    examples = list(source(base.tokenizer))
    if not examples:
        raise ConfigurationError(
            f"Expected episodes to imitate, got none in {[str(p) for p in episodes or ()]}. Lower "
            "--least, or name other files."
        )
    num_held_out = max(1, min(_NUM_HELD_OUT, len(examples) // 10))
    with used_alone(run.out):
        _imitate(base, examples[num_held_out:] or examples, examples[:num_held_out], run)


class _Run(NamedTuple):
    """Options that both commands have."""

    out: Path
    steps: int
    tokens_per_step: int
    learning_rate: float
    optimizer: str
    dtype: str
    seed: int
    threads: int | None


class _Base(NamedTuple):
    """The model that is trained, the tokenizer of its ids, and its name in the display."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    name: str


def _check(command: str, run: _Run) -> None:
    """Check the options of both commands, before anything is loaded."""
    need_agents(command)
    from search_env.agents.learning.precision import DTYPES
    from search_env.agents.training.checks import check_folder
    from search_env.agents.training.supervised_saves import check_unfinished

    check_choice("--dtype", run.dtype, DTYPES)
    _optimizer(run)
    check_folder(run.out)
    check_unfinished(run.out)


def _optimizer(run: _Run) -> OptimizerConfig:
    from search_env.agents.learning.optimizers import OptimizerConfig

    return OptimizerConfig(
        learning_rate=run.learning_rate,
        warmup_steps=min(30, run.steps // 4),
        schedule="linear",
        total_steps=run.steps,
        optimizer=run.optimizer,  # type: ignore[arg-type]  # checked there
    )


def _load_base(model: str | None, tokenizer: str | None, run: _Run) -> _Base:
    """Return the model of this name, or a new tiny one for None."""
    from search_env.agents.models import (
        check_fits,
        count_ids,
        load_model,
        tiny_config,
        untrained,
        with_tokenizer,
    )
    from search_env.tokens.tokenizer import load_tokenizer

    if model is None:
        return _Base(untrained(tiny_config(), run.seed), load_tokenizer("world-1k"), "new")
    loaded = load_model(model)
    own = load_tokenizer(with_tokenizer({"tokenizer": tokenizer}, loaded)["tokenizer"])
    own = own.padded(max(count_ids(loaded), own.size))
    check_fits(loaded, own)
    return _Base(loaded, own, model)


def _check_recorded(
    files: Sequence[Path], least: float | None, reward: str | None, task: Mapping[str, Any]
) -> _Source:
    """Check recorded episodes; return what yields them as examples."""
    from search_env.recording.files import read_episodes
    from search_env.rewards import get_reward

    given = [name for name, value in task.items() if value is not None]
    if given or (reward is not None and least is None):
        wrong = ", ".join(given) or "reward"
        raise ConfigurationError(
            f"Expected options of recorded episodes, which keep their questions and documents, got "
            f"{wrong}. "
            + (f"Leave {wrong} out." if given else "Pass --least, which --reward is compared with.")
        )
    for file in files:
        next(iter(read_episodes(file)), None)
    scored_by = None if reward is None else get_reward(reward)
    return partial(_recorded, files, least, scored_by)


def _check_oracle(
    env_id: str, count: int, least: float | None, reward: str | None, task: Mapping[str, Any]
) -> _Source:
    """Check the environment of oracle episodes; return what yields them as examples."""
    from search_env.envs.checks import check_arguments

    if least is not None or reward is not None:
        raise ConfigurationError(
            f"Expected recorded episodes with {'--least' if reward is None else '--reward'}, got "
            "none. Name files of RecordEpisodes, or leave the option out."
        )
    arguments = options.arguments_for(env_id, "train", **task)
    check_arguments(env_id, arguments, "the options")
    return partial(_oracle, env_id, count, arguments)


def _readings(
    articles: int, documents: int, seed: int, tokenizer: Tokenizer, world_number: int
) -> Iterator[Example]:
    """Yield windows of a world's articles, and reading cards on them."""
    import numpy as np

    from search_env.agents.imitation.demonstrations import article_examples, reading_examples
    from search_env.worlds.encyclopaedia import World

    world_seed = _FIRST_WORLD + 1000 * seed + world_number
    world = World(articles, world_seed)
    world_options = {"articles": articles, "seed": world_seed}
    env = _make_env("SearchQA-v0", tokenizer, {"dataset_options": world_options})
    lookups = world.questions(int(_LOOKUPS * articles), hops=(1,), kinds=["lookup"])
    cards = reading_examples(env, lookups, np.random.default_rng(world_seed), documents)
    for window in article_examples(list(world.documents()), env.tokenizer, _WINDOW):
        yield from itertools.islice(cards, _CARDS)
        yield window


def _recorded(
    files: Sequence[Path], least: float | None, reward: Reward | None, tokenizer: Tokenizer
) -> Iterator[Example]:
    """Yield recorded episodes in which retrieval worked, if their ids are the model's."""
    import numpy as np

    from search_env.agents.models import check_same_ids
    from search_env.agents.types import Example
    from search_env.recording.files import read_episodes
    from search_env.types import Source

    checked = {tokenizer.digest}
    for file in files:
        for episode in read_episodes(file):
            if episode.tokenizer.digest not in checked:
                check_same_ids(tokenizer, episode.tokenizer.load())
                checked.add(episode.tokenizer.digest)
            transcript = episode.transcript
            score = episode.score if reward is None else reward(transcript)
            if episode.valid and (least is None or score.total >= least):
                weights = (transcript.sources == Source.POLICY).astype(np.float32)
                yield Example(transcript.tokens, weights)


def _oracle(
    env_id: str, count: int, arguments: Mapping[str, Any], tokenizer: Tokenizer
) -> Iterator[Example]:
    from search_env.agents.imitation.demonstrations import oracle_example

    env = _make_env(env_id, tokenizer, arguments)
    for index in range(min(count, len(env.questions))):
        yield oracle_example(env, index)


def _make_env(env_id: str, tokenizer: Tokenizer, arguments: Mapping[str, Any]) -> SearchQAEnv:
    import gymnasium as gym

    from search_env.envs.search_qa import bare_env

    own = {"tokenizer": tokenizer.name, "vocab_size": tokenizer.size}
    return bare_env(gym.make(env_id, **{**arguments, **own}))


def _imitate(
    base: _Base, examples: Sequence[Example], held_out: Sequence[Example], run: _Run
) -> None:
    """Train on examples, show the progress, save the model; go on with an interrupted run."""
    from dataclasses import asdict

    import torch

    from search_env.agents.imitation.sft import SupervisedConfig, fit, measure
    from search_env.agents.learning.learner import Learner
    from search_env.agents.learning.precision import dtype_in_words, resolve_dtype
    from search_env.agents.models import save_model
    from search_env.agents.reporting.dashboard import Dashboard
    from search_env.agents.reporting.logs import JsonLinesLog, Observers
    from search_env.agents.training.supervised_saves import SupervisedSaves, digest_examples

    if run.threads is not None:
        torch.set_num_threads(run.threads)
    steps, out, optimizer = run.steps, run.out, _optimizer(run)
    precision = resolve_dtype(run.dtype, base.model.device)
    learner = Learner(base.model, optimizer, dtype=precision)
    every = max(1, steps // 5)
    config = SupervisedConfig(steps, run.tokens_per_step, run.seed, every, every)
    settings = {**asdict(optimizer), **asdict(config), "model": base.name, "dtype": precision}
    settings["examples"] = digest_examples([*held_out, *examples])
    saves = SupervisedSaves(learner, out, settings)
    log = JsonLinesLog(out / "metrics.jsonl", resume_step=saves.step)
    observer = Observers([log, Dashboard(spent=log.spent)])
    before = None if saves.step else measure(learner, held_out)
    dtype = dtype_in_words(precision, base.model.device)
    description = {"model": base.name, "tokenizer": base.tokenizer.name, "dtype": dtype}
    reason = "it failed"
    try:
        observer.begin(steps, {**description, "examples": str(len(examples))})
        if before is not None:
            observer.evaluated(0, before)
        fit(learner, examples, config, held_out=held_out, observer=observer, save=saves.save)
        reason = "all steps are made"
    except KeyboardInterrupt as error:
        reason = "interrupted"
        say(f"Interrupted. Run the same command to go on with {out}.", "yellow", stderr=True)
        raise typer.Exit(exit_code(error)) from None
    finally:
        observer.end(learner.updates, reason)
        if learner.updates:
            saves.save()
            save_model(learner.model, out / "model", tokenizer=base.tokenizer)
    saves.finish()
    typer.echo(f"Wrote {out / 'model'}")
