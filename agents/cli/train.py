"""``search-env train``: train a language model to search and to answer.

Options become a :class:`~search_env.agents.training.config.TrainConfig` here, and results become a
report; the work is in :mod:`search_env.agents.training.train`. Modules that need torch are imported
inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from search_env.agents.cli.common import (
    ProtocolName,
    Threads,
    TokenizerName,
    count_ids,
    is_main,
    need_agents,
    without_none,
)
from search_env.cli.console import INTERRUPTED, PIPE_WIDTH, open_console, say
from search_env.errors import ConfigurationError, nearest
from search_env.paths import atomic_path

if TYPE_CHECKING:
    from search_env.agents.reporting.logs import Observer
    from search_env.agents.training.config import TrainConfig
    from search_env.agents.training.run import TrainResult
    from search_env.agents.types import Trajectory
    from search_env.envs.search_qa_vector import SearchQAVectorEnv


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", epilog="Example: search-env train --minutes 10 --out runs/first")(
        train_command
    )


def train_command(
    context: typer.Context,
    env_id: Annotated[str, typer.Argument(help="Id of the environment.")] = "SearchQA-v0",
    model: Annotated[
        str, typer.Option(help="Bundled name, folder or hub id of a causal language model.")
    ] = "tiny-base",
    preset: Annotated[
        str, typer.Option(help="Algorithm, one of search_env.agents.algorithms.presets.")
    ] = "tiny",
    phases: Annotated[str, typer.Option(help="both, 1 (search) or 2 (answer).")] = "both",
    out: Annotated[Path, typer.Option(help="Folder of everything the run writes.")] = Path(
        "runs/train"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the folder.")
    ] = False,
    steps: Annotated[int | None, typer.Option(min=0, help="Training steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="End after so many minutes.")] = None,
    num_envs: Annotated[int | None, typer.Option(min=1, help="Episodes side by side.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Context in tokens.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, fp32, or bf16 with float32 weights.")
    ] = None,
    protocol: ProtocolName = None,
    tokenizer: TokenizerName = None,
    difficulties: Annotated[
        Path | None, typer.Option(help="File of search-env label: ask by difficulty.")
    ] = None,
    test_questions: Annotated[
        int, typer.Option(min=1, help="Unseen questions for the table at the end.")
    ] = 200,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the work, on CPUs.")
    ] = None,
    threads: Threads = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, NAME=VALUE, repeatable.")
    ] = None,
) -> None:
    """Train a language model to search and to answer; compare it with the base model.

    Without options: the bundled base model, both phases, a few minutes on two CPU cores.
    """
    need_agents("train")
    from dataclasses import replace

    from search_env.agents.training import checkpoints, run_folder
    from search_env.agents.training.train import train

    if not resume:
        run_folder.check_new(out)
    if resume:
        limits = {"steps": steps, "minutes": minutes, "processes": processes, "threads": threads}
        _refuse_options(context, ("out", "resume", "test_questions", *limits))
        config = replace(run_folder.load_settings(out), **without_none(limits), out=str(out))
    else:
        named: dict[str, Any] = {
            **{"env_id": env_id, "out": str(out), "steps": steps, "minutes": minutes},
            **{"num_envs": num_envs, "max_tokens": max_tokens, "dtype": dtype, "seed": seed},
            **{"processes": processes, "threads": threads, "model": model},
            "difficulties": difficulties and str(difficulties),
        }
        environment = {"protocol": protocol, "tokenizer": tokenizer}
        config = _configure(
            without_none(named), without_none(environment), preset, phases, settings or ()
        )
        if is_main():
            _warn_of_one_split(config)
    newest = checkpoints.latest(out / "checkpoints")
    done = 0 if newest is None else checkpoints.step_of(newest)
    observer = _observers(config, done if resume else None)
    try:
        result = train(config, observer=observer, resume=resume)
    except KeyboardInterrupt:
        if not run_folder.holds_run(out):
            raise  # the run had not begun
        say(f"Interrupted. Go on with: search-env train --resume --out {shlex.quote(str(out))}")
        raise typer.Exit(INTERRUPTED) from None
    if is_main():
        _report(config, result, test_questions)


def _configure(
    named: Mapping[str, Any],
    environment: Mapping[str, Any],
    preset: str,
    phases: str,
    settings: Sequence[str],
) -> TrainConfig:
    """Return the configuration of a command line."""
    from dataclasses import replace

    from search_env.agents.algorithms.presets import get_preset
    from search_env.agents.learning.precision import resolve_dtype
    from search_env.agents.training.config import PHASES, TrainConfig
    from search_env.agents.training.default_run import tiny_run
    from search_env.validation import check_choice

    chosen = {"both": PHASES, "1": PHASES[:1], "2": PHASES[1:]}
    check_choice("--phases", phases, list(chosen))
    if preset == "tiny":
        base = tiny_run(phases=phases)
    else:
        base = TrainConfig(
            model=str(named["model"]), algorithm=get_preset(preset), phases=chosen[phases]
        )
    changes = _settings(settings)
    config = replace(
        base,
        algorithm=replace(base.algorithm, **changes["algorithm"]),
        optimizer=replace(base.optimizer, **changes["optimizer"]),
        env_options={**base.env_options, **environment},
        **{**named, **changes["run"]},
    )
    return replace(config, dtype=resolve_dtype(config.dtype, config.device))


def _settings(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of ``--set``, by the part of the configuration that they belong to."""
    from dataclasses import fields

    from search_env.agents.algorithms.config import Algorithm
    from search_env.agents.learning.optimizers import OptimizerConfig
    from search_env.agents.training.config import TrainConfig

    nested = ("algorithm", "optimizer", "phases", "env_options", "eval_options")
    names_by_part = {
        "run": [field.name for field in fields(TrainConfig) if field.name not in nested],
        "algorithm": [field.name for field in fields(Algorithm)],
        "optimizer": [field.name for field in fields(OptimizerConfig)],
    }
    changes: dict[str, dict[str, Any]] = {part: {} for part in names_by_part}
    for setting in settings:
        name, value = _parse(setting)
        part = next((part for part, names in names_by_part.items() if name in names), None)
        if part is None:
            names = sorted({name for names in names_by_part.values() for name in names})
            raise ConfigurationError(
                f"Expected --set to name one of {', '.join(names)}, got {name!r}. "
                f"{nearest(name, names)}"
            )
        changes[part][name] = value
    return changes


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


def _refuse_options(context: typer.Context, allowed: Sequence[str]) -> None:
    """Raise an error for options that a run cannot be resumed with."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    passed = [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]
    wrong = [name for name in passed if name not in allowed]
    if wrong:
        raise ConfigurationError(
            f"Expected only {', '.join(allowed)} with --resume, got {', '.join(wrong)}: a resumed "
            "run keeps its own settings. Leave them out, or begin a new run."
        )


def _observers(config: TrainConfig, resume_step: int | None) -> Observer:
    """Return the display and the logs of a run."""
    from search_env.agents.reporting.dashboard import Dashboard
    from search_env.agents.reporting.logs import JsonLinesLog, Observers, TensorBoardLog

    out = Path(config.out)
    observers: list[Observer] = []
    if is_main():
        log = JsonLinesLog(out / "metrics.jsonl", resume_step=resume_step)
        observers = [log, Dashboard(minutes=config.minutes, spent=log.spent)]
        if importlib.util.find_spec("tensorboard") is not None:
            observers.append(TensorBoardLog(out / "tensorboard", resume_step=resume_step))
    return Observers(observers)


def _warn_of_one_split(config: TrainConfig) -> None:
    """Warn if a run is evaluated on the questions that it trains on."""
    if not (_is_held_out(config, "evaluation") and _is_held_out(config, "test")):
        split = config.options_for("train")["split"]
        say(
            f"Warning: {config.env_id} is evaluated on questions that it is trained on "
            f"({'all of them' if split is None else f'split {split!r}'}). Give some of them "
            "another split to evaluate on, such as 'dev'.",
            "yellow",
            stderr=True,
        )


def _is_held_out(config: TrainConfig, purpose: Literal["evaluation", "test"]) -> bool:
    """Return whether evaluation or test have other questions than training."""
    train, other = config.options_for("train"), config.options_for(purpose)
    return (train["split"], train.get("dataset")) != (other["split"], other.get("dataset"))


def _report(config: TrainConfig, result: TrainResult, count: int) -> None:
    """Show scores before and after training, curves, and episodes to read."""
    from rich.console import Console

    from search_env.agents.reporting.summary import results_table, select_samples, show_episodes

    envs, before, after = _play_test(config, result, count)
    seen = "never seen in training" if _is_held_out(config, "test") else "trained on"
    out = Path(config.out)
    report = out / "report.txt"
    with atomic_path(report) as temporary, temporary.open("w", encoding="utf-8") as file:
        for console in (open_console(), Console(file=file, width=PIPE_WIDTH, highlight=False)):
            console.print(f"\n{len(after):,} questions {seen}:\n", markup=False)
            console.print(results_table({"before training": before, "after training": after}))
            show_episodes(
                select_samples(after, before), envs.tokenizer, envs.questions, console=console
            )
    files = [str(result.model), str(report), str(out / "metrics.jsonl")]
    if importlib.util.find_spec("matplotlib") is not None and result.steps:
        from search_env.agents.reporting.plots import training_figure

        training_figure([out / "metrics.jsonl"], out / "training.png")
        files.append(str(out / "training.png"))
    say("\nWrote " + ", ".join(files))
    recorded = sorted((out / "episodes").glob("step-*.jsonl"))
    if recorded:
        say(f"Episodes of the training: search-env view {shlex.join(map(str, recorded))} --open")


def _play_test(
    config: TrainConfig, result: TrainResult, count: int
) -> tuple[SearchQAVectorEnv, list[Trajectory], list[Trajectory]]:
    """Return the test environment, and the greedy episodes of the base and the trained model."""
    import numpy as np

    from search_env.agents.models import load_model, with_tokenizer
    from search_env.agents.rollouts.collect import make_envs
    from search_env.agents.rollouts.lm_agent import play_questions

    base = load_model(config.model)
    options, ids = with_tokenizer(config.options_for("test"), base), count_ids(base)
    envs = make_envs(config.env_id, num_envs=config.num_envs, vocabulary=ids, options=options)
    last = len(envs.questions) - 1
    indices = np.linspace(0, last, min(count, last + 1)).round().astype(int).tolist()
    before = play_questions(base, envs, indices)
    return envs, before, play_questions(load_model(str(result.model)), envs, indices)
