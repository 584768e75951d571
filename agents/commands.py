"""Commands that need a language model: ``search-env train`` and ``search-env label``.

Options become a :class:`~agents.config.TrainConfig` here, and results become a report; the work is
in :mod:`agents.reinforce` and :mod:`agents.curriculum`. This module is imported for every command,
so whatever needs torch is imported inside the functions.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search_env.errors import ConfigurationError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from agents.config import TrainConfig
    from agents.logs import Observer
    from agents.reinforce import TrainResult
    from agents.trajectories import Trajectory
    from search_env.vector_env import SearchQAVectorEnv

_INTERRUPTED = 130  # 128 + SIGINT
_NEEDED = ("torch", "transformers", "safetensors")
# Splits to train on, to watch and to test on: generated worlds have three, published sets two.
_GENERATED_SPLITS = (None, "validation", "test")
_PUBLISHED_SPLITS = ("train", None, None)
_WIDTH = 100

EnvId = Annotated[str, typer.Argument(help="Id of the environment.")]
Model = Annotated[str, typer.Option(help="Folder or hub name of a causal language model.")]
TokenizerName = Annotated[
    str | None, typer.Option(help="Bundled name, path to a tokenizer.json, or hub id.")
]
ProtocolName = Annotated[str | None, typer.Option(help="Tags, prompt and limits.")]
Rows = Annotated[int, typer.Option(min=1, help="Episodes side by side.")]
MaxTokens = Annotated[int, typer.Option(min=2, help="Size of the context in tokens.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides everything random.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch.")]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("train", epilog="Example: search-env train --minutes 10 --out runs/first")(
        train_command
    )
    app.command(
        "label",
        epilog="Example: search-env label SearchQA-v0 --model runs/first/model --out hard.jsonl",
    )(label_command)


def train_command(
    context: typer.Context,
    env_id: EnvId = "SearchQA-v0",
    model: Model = "tiny-base",
    preset: Annotated[str, typer.Option(help="Algorithm, see agents.presets.")] = "tiny",
    phases: Annotated[str, typer.Option(help="both, 1 (search) or 2 (answer).")] = "both",
    out: Annotated[Path, typer.Option(help="Folder of everything the run leaves.")] = Path(
        "runs/train"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder.")
    ] = False,
    steps: Annotated[int, typer.Option(min=0, help="Training steps.")] = 100,
    minutes: Annotated[float | None, typer.Option(help="End after so many minutes.")] = None,
    rows: Rows = 64,
    max_tokens: MaxTokens = 1024,
    protocol: ProtocolName = None,
    tokenizer: TokenizerName = None,
    difficulties: Annotated[
        Path | None, typer.Option(help="File of search-env label: ask by difficulty.")
    ] = None,
    test_questions: Annotated[
        int, typer.Option(min=1, help="Unseen questions for the table at the end.")
    ] = 200,
    seed: Seed = 0,
    threads: Threads = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, NAME=VALUE, repeatable."),
    ] = None,
) -> None:
    """Train a language model to search and to answer; show what it has learnt."""
    _need_agents("train")
    from agents import checkpoints
    from agents.config import TrainConfig
    from agents.reinforce import train

    record = out / "config.json"
    if resume:
        _refuse_options(context, ("out", "resume", "steps", "minutes", "threads", "test_questions"))
        config = TrainConfig.from_json(_read_json(record))
        config = _replace(config, _given(context, steps=steps, minutes=minutes, threads=threads))
    else:
        _refuse_run(out)
        environment = {"protocol": protocol, "tokenizer": tokenizer}
        base = {
            "env_id": env_id,
            "model": model,
            "steps": steps,
            "minutes": minutes,
            "rows": rows,
            "max_tokens": max_tokens,
            "difficulties": None if difficulties is None else str(difficulties),
            "seed": seed,
            "threads": threads,
            "out": str(out),
        }
        config = _configure(base, environment, preset, phases, settings or ())
        out.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(config.to_json(), indent=1) + "\n", encoding="utf-8")
    newest = checkpoints.latest(out / "checkpoints")
    done = None if newest is None else checkpoints.step_of(newest)
    observer = _observers(config, (done or 0) if resume else None)
    try:
        result = train(config, observer=observer, resume=newest is not None)
    except KeyboardInterrupt:
        _say(f"Interrupted. Go on with: search-env train --resume --out {shlex.quote(str(out))}")
        raise typer.Exit(_INTERRUPTED) from None
    if os.environ.get("RANK", "0") == "0":
        _report(config, result, test_questions)


def label_command(
    out: Annotated[Path, typer.Option(help="File to write to; one that is there is continued.")],
    model: Model,
    env_id: EnvId = "SearchQA-v0",
    split: Annotated[str | None, typer.Option(help="Questions' split.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.")] = None,
    rollouts: Annotated[int, typer.Option(min=1, help="After how many to give up.")] = 21,
    right: Annotated[str, typer.Option(help="exact_match or cover_exact_match.")] = "exact_match",
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the sampling.")] = 1.0,
    rows: Rows = 64,
    max_tokens: MaxTokens = 1024,
    protocol: ProtocolName = None,
    tokenizer: TokenizerName = None,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Measure how many rollouts a model needs for each question: easy, medium or difficult."""
    _need_agents("label")
    import torch

    from agents.curriculum import LEVELS, label_difficulty
    from agents.engine import Engine
    from agents.reinforce import load_model, make_envs
    from agents.sampling import Sampling

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_model(model)
    given = {"split": split, "protocol": protocol, "tokenizer": tokenizer, "max_tokens": max_tokens}
    envs = make_envs(
        env_id,
        rows=rows,
        vocabulary=int(loaded.get_input_embeddings().weight.shape[0]),
        options={name: value for name, value in given.items() if value is not None},
    )
    engine = Engine(
        loaded, rows=rows, max_tokens=max_tokens, sampling=Sampling(temperature=temperature)
    )
    count = len(envs.questions) if limit is None else min(limit, len(envs.questions))
    with _progress("label", count) as advance:
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
    found = [label.level for label in labels.values()]
    shares = ", ".join(f"{found.count(level):,} {level}" for level in LEVELS)
    _say(
        f"{len(found):,} questions: {shares}.\n"
        f"Use it: search-env train {env_id} --difficulties {shlex.quote(str(out))}"
    )


# ------------------------------------------------------------------------------ from options


def _configure(
    base: Mapping[str, Any],
    environment: Mapping[str, Any],
    preset: str,
    phases: str,
    settings: Sequence[str],
) -> TrainConfig:
    """Return the configuration that a command line asks for."""
    from dataclasses import fields, replace

    from agents.algorithm import Algorithm
    from agents.config import PHASES, TrainConfig
    from agents.optimizers import OptimizerConfig
    from agents.presets import get_preset
    from search_env.arguments import check_choice

    nested = ("algorithm", "optimizer", "phases", "env_options", "eval_options")
    known = {
        "run": [f.name for f in fields(TrainConfig) if f.name not in nested],
        "algorithm": [f.name for f in fields(Algorithm)],
        "optimizer": [f.name for f in fields(OptimizerConfig)],
    }
    changes: dict[str, dict[str, Any]] = {part: {} for part in known}
    for setting in settings:
        name, value = _parse(setting)
        part = next((part for part, names in known.items() if name in names), None)
        if part is None:
            names = sorted({name for names in known.values() for name in names})
            raise ConfigurationError(
                f"Expected --set to name one of {', '.join(names)}, got {name!r}. "
                f"{nearest(name, names)}"
            )
        changes[part][name] = value
    chosen = {"both": PHASES, "1": PHASES[:1], "2": PHASES[1:]}
    check_choice("--phases", phases, list(chosen))
    options, held_out, _ = _splits(str(base["env_id"]))
    return TrainConfig(
        algorithm=replace(get_preset(preset), **changes["algorithm"]),
        optimizer=replace(OptimizerConfig(), **changes["optimizer"]),
        phases=chosen[phases],
        env_options={**options, **{k: v for k, v in environment.items() if v is not None}},
        eval_options=held_out,
        **{**base, **changes["run"]},
    )


def _splits(env_id: str) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return the arguments that choose the questions to train on, to watch and to test on."""
    from search_env.registration import ENVIRONMENTS

    dataset = ENVIRONMENTS.get(env_id, {}).get("dataset", "world")
    published = env_id in ENVIRONMENTS and ENVIRONMENTS[env_id].get("tokenizer") == "world-1k"
    splits = _PUBLISHED_SPLITS if published and dataset != "world" else _GENERATED_SPLITS
    first, second, third = ({} if split is None else {"split": split} for split in splits)
    return first, second, third


def _parse(setting: str) -> tuple[str, Any]:
    name, equals, text = setting.partition("=")
    if not equals:
        raise ConfigurationError(
            f"Expected --set NAME=VALUE, got {setting!r}. Write for example --set group_size=8."
        )
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return name.strip().replace("-", "_"), value


def _given(context: typer.Context, **values: Any) -> dict[str, Any]:
    """Return those values that the command line names."""
    return {name: value for name, value in values.items() if _is_given(context, name)}


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _replace(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    from dataclasses import replace

    return replace(config, **changes)


def _refuse_options(context: typer.Context, allowed: Sequence[str]) -> None:
    """Refuse options that a run cannot be resumed with."""
    wrong = [name for name in context.params if name not in allowed and _is_given(context, name)]
    if wrong:
        raise ConfigurationError(
            f"Expected only {', '.join(allowed)} with --resume, got {', '.join(wrong)}: the run "
            "goes on with its own settings. Leave them out, or begin a new run."
        )


def _refuse_run(out: Path) -> None:
    """Refuse a folder that holds a run."""
    if (out / "config.json").exists():
        raise ConfigurationError(
            f"Expected a new folder, got {out}, which holds a run. Choose another with --out, or "
            "go on with that run: --resume."
        )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigurationError(
            f"Expected a run to resume in {path.parent}, got no {path.name} there. Name its folder "
            "with --out."
        )
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(
            f"Expected JSON in {path}, got: {error}. Restore the file, or begin a new run."
        ) from error
    return settings


def _need_agents(command: str) -> None:
    """Say what to install where something is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"Expected {', '.join(_NEEDED)} for search-env {command}, got no {missing[0]}. Run "
            '`pip install "search-env[agents]"`.'
        )
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bars for loading and writing break the display


# -------------------------------------------------------------------------------- to results


def _observers(config: TrainConfig, resume_step: int | None) -> Observer:
    """Return the display and the logs of a run."""
    from agents.dashboard import Dashboard
    from agents.logs import JsonLinesLog, Observers, TensorBoardLog

    out = Path(config.out)
    told: list[Observer] = []
    if os.environ.get("RANK", "0") == "0":
        told = [
            JsonLinesLog(out / "metrics.jsonl", resume_step=resume_step),
            Dashboard(minutes=config.minutes),
        ]
        if importlib.util.find_spec("tensorboard") is not None:
            told.append(TensorBoardLog(out / "tensorboard", resume_step=resume_step))
    return Observers(told)


def _report(config: TrainConfig, result: TrainResult, count: int) -> None:
    """Show what the model does before and after, a picture, and episodes to read."""
    from rich.console import Console

    from agents.showing import results_table, show_episodes, tell

    envs, before, after = _play_test(config, result, count)
    out = Path(config.out)
    with (out / "report.txt").open("w", encoding="utf-8") as file:
        for console in (_console(), Console(file=file, width=_WIDTH, highlight=False)):
            console.print(f"\n{len(after):,} questions never seen in training:\n", markup=False)
            console.print(results_table({"before training": before, "after training": after}))
            show_episodes(tell(after, before), envs.tokenizer, envs.questions, console=console)
    written = [str(result.model), str(out / "report.txt"), str(out / "metrics.jsonl")]
    if importlib.util.find_spec("matplotlib") is not None and result.steps:
        from agents.plots import training_figure

        training_figure([out / "metrics.jsonl"], out / "training.png")
        written.append(str(out / "training.png"))
    _say("\nWrote " + ", ".join(written))


def _play_test(
    config: TrainConfig, result: TrainResult, count: int
) -> tuple[SearchQAVectorEnv, list[Trajectory], list[Trajectory]]:
    """Return the test's rows and the greedy episodes of the base and of the trained model."""
    import numpy as np

    from agents.policy import play_questions
    from agents.reinforce import load_model, make_envs

    base = load_model(config.model)
    envs = make_envs(
        config.env_id,
        rows=config.rows,
        vocabulary=int(base.get_input_embeddings().weight.shape[0]),
        options={
            "max_tokens": config.max_tokens,
            **config.env_options,
            **_splits(config.env_id)[2],
        },
    )
    last = len(envs.questions) - 1
    asked = np.linspace(0, last, min(count, last + 1)).round().astype(int).tolist()
    before = play_questions(base, envs, asked)
    return envs, before, play_questions(load_model(str(result.model)), envs, asked)


@contextmanager
def _progress(name: str, total: int) -> Iterator[Any]:
    """Show a bar; yield the function that moves it."""
    from rich.progress import Progress

    with Progress(console=_console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done, _: bar.update(task, completed=done)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_WIDTH)


def _say(text: str) -> None:
    _console(stderr=False).print(text, markup=False, soft_wrap=True)
