"""A whole training run, as ``search-env train`` makes it: checks, logs, display, report, plot."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from search_env.agents.inference.rollout_engine import EngineFactory
from search_env.agents.reporting.dashboard import Dashboard
from search_env.agents.reporting.logs import JsonLinesLog, Observer, Observers, TensorBoardLog
from search_env.agents.training import checkpoints, run_folder
from search_env.agents.training.checks import check_run
from search_env.agents.training.config import TrainConfig
from search_env.agents.training.report import write_report
from search_env.agents.training.run import TrainResult
from search_env.agents.training.train import train
from search_env.cli.console import say

__all__ = ["run_training"]


def run_training(
    config: TrainConfig,
    *,
    resume: bool = False,
    test_questions: int = 200,
    observer: Observer | None = None,
    engine: EngineFactory | None = None,
) -> TrainResult:
    """Check a run, train, and leave in ``config.out`` all that ``search-env train`` leaves.

    That is ``config.json``, ``metrics.jsonl``, TensorBoard files, checkpoints, recorded episodes,
    the trained model, ``report.txt`` with scores before and after training, and ``training.png``.
    Progress and the report are shown as on the command line. Nothing is written before the
    configuration is checked and everything is loaded. After Ctrl-C (``KeyboardInterrupt``) or an
    error the run can be resumed.

    Args:
        config: Settings of the run: of the constructor, or of
            :func:`~search_env.agents.training.settings.configure`.
        resume: Continue the run in ``config.out``, which must have the same settings but for
            limits.
        test_questions: Number of questions of the table in the report; 0 for no report.
        observer: Receives the events of the run as well.
        engine: As of :func:`~search_env.agents.training.train.train`.

    Raises:
        ConfigurationError: Settings that cannot work, or a folder that holds another run.
        DataError: Questions, a corpus or labels are missing or damaged.
        CheckpointError: Nothing to resume, a damaged checkpoint, or other settings than before.
    """
    if not resume:
        run_folder.check_new(config.out)
    check_run(config)
    main = os.environ.get("RANK", "0") == "0"  # of torchrun's processes, or the only one
    if main and not resume:
        _warn_of_one_split(config)
    observers = [*(_observers(config, resume) if main else []), *([observer] if observer else [])]
    result = train(
        config,
        observer=Observers(observers),
        resume=resume,
        engine=engine,
        test_questions=test_questions,
    )
    if main and result.test is not None:
        write_report(config, result, result.test)
    return result


def _observers(config: TrainConfig, resume: bool) -> list[Observer]:
    """Return the display and the logs of a run."""
    out, step = Path(config.out), None
    if resume:
        newest = checkpoints.latest(out / "checkpoints")
        step = 0 if newest is None else checkpoints.step_of(newest)
    log = JsonLinesLog(out / "metrics.jsonl", resume_step=step)
    observers: list[Observer] = [log, Dashboard(minutes=config.minutes, spent=log.spent)]
    if importlib.util.find_spec("tensorboard") is not None:
        observers.append(TensorBoardLog(out / "tensorboard", resume_step=step))
    return observers


def _warn_of_one_split(config: TrainConfig) -> None:
    """Warn if a run is evaluated on questions that it trains on."""
    if config.is_held_out("evaluation") and config.is_held_out("test"):
        return
    split = config.options_for("train")["split"]
    say(
        f"Warning: {config.env_id} is evaluated on questions that it is trained on "
        f"({'all of them' if split is None else f'split {split!r}'}). Give some of them "
        "another split to evaluate on, such as 'dev', or name another set: --eval-dataset "
        "(eval_options).",
        "yellow",
        stderr=True,
    )
