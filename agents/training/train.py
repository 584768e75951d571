"""Policy-gradient training of a language model that searches: the loop over a run's steps.

A step draws questions, plays groups of episodes, learns from them
(:mod:`search_env.agents.learning.update`), computes metrics and checks whether the phase is over.
Around it: evaluation on held-out questions, checkpoints, and an observer of all this. The step
itself is in :mod:`search_env.agents.training.run`.

Everything random is drawn from the seed and the number of the step, and no episode outlasts its
step. A run that was killed and resumed therefore gives the same result as an uninterrupted one: on
one thread, in fp32, the same weights to the last bit. Ctrl-C and SIGTERM end a run after the
present step; a second one ends it at once, but never while weights change or files are written.
Several processes share the questions: those of torchrun, or ``processes`` of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from search_env.agents.inference.rollout_engine import EngineFactory, check_portable
from search_env.agents.learning.distributed import Ranks, by_torchrun, init_process_group
from search_env.agents.learning.local_processes import local_processes
from search_env.agents.reporting.logs import Observer, Observers
from search_env.agents.training import checkpoints, run_folder
from search_env.agents.training.config import TrainConfig
from search_env.agents.training.run import TrainingRun, TrainResult, uses_gpu
from search_env.errors import ConfigurationError
from search_env.interrupts import Interrupts, watch_signals
from search_env.paths import used_alone

__all__ = ["train"]

_INTERRUPTED = "interrupted"
_STOPPING = "Stopping after this step ... Once more (Ctrl-C or SIGTERM) to stop without it."


def train(
    config: TrainConfig,
    *,
    model: PreTrainedModel | None = None,
    observer: Observer | None = None,
    resume: bool = False,
    engine: EngineFactory | None = None,
    test_questions: int = 0,
) -> TrainResult:
    """Train, evaluate and write checkpoints.

    Nothing is written before models, environments and the checkpoint to resume from are loaded and
    checked. Then the settings are written to ``config.json`` in ``config.out``; a run that fails
    before its first step takes them away again. After Ctrl-C or an error the last complete step is
    saved before the exception is raised; after SIGTERM it is
    :class:`~search_env.interrupts.Terminated`, a KeyboardInterrupt.

    Args:
        config: Settings of the run.
        model: Used instead of loading ``config.model``, and changed in place; one process only.
        observer: Receives the events of the run, on the main process only.
        resume: Continue the run in ``config.out`` from its newest checkpoint; from the start if it
            has none yet.
        engine: Makes the engine of rollouts and evaluation in each process; None for
            :class:`~search_env.agents.inference.engine.Engine` on the trained model's own weights.
            It is not saved with the settings: pass it again to resume.
        test_questions: Most questions of the test set that all processes play at the end, with the
            model in ``config.model`` and with the trained one; 0 for no test.

    Raises:
        ConfigurationError: Settings that cannot work, also with this engine, or a folder that
            holds another run.
        CheckpointError: Nothing to resume, a damaged checkpoint, or other settings than before.
        WorkerDiedError: One of several processes could not start, or was killed.
    """
    if not resume:
        run_folder.check_new(config.out)
    newest = checkpoints.latest(Path(config.out) / "checkpoints") if resume else None
    config = replace(config, dtype=checkpoints.dtype_of_run(config.dtype, config.device, newest))
    if config.processes == 1 or by_torchrun():
        with init_process_group(config.device) as ranks:
            return _train_together(ranks, config, resume, engine, test_questions, model, observer)
    if model is not None or uses_gpu(config):
        raise ConfigurationError(
            f"Expected a model's folder and no GPU with processes={config.processes}, got "
            f"{'a GPU' if model is None else 'a model in memory'}. Pass processes=1, or start one "
            "process a GPU by torchrun."
        )
    check_portable(engine)
    with local_processes(
        config.processes, _train_as_member, config.to_json(), resume, engine, test_questions
    ) as ranks:
        return _train_together(ranks, config, resume, engine, test_questions, None, observer)


def _train_as_member(
    ranks: Ranks,
    settings: dict[str, Any],
    resume: bool,
    engine: EngineFactory | None,
    test_questions: int,
) -> None:
    """Train in a process that another one started, without output."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with suppress(KeyboardInterrupt):  # of the main process, which tells the others
        config = TrainConfig.from_json(settings)
        _train_together(ranks, config, resume, engine, test_questions, None, None)


def _train_together(
    ranks: Ranks,
    config: TrainConfig,
    resume: bool,
    engine: EngineFactory | None,
    test_questions: int,
    model: PreTrainedModel | None,
    observer: Observer | None,
) -> TrainResult:
    """Train as one of ``ranks``."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    config = replace(config, dtype=ranks.broadcast(config.dtype))  # machines may differ
    run = TrainingRun(config, model, ranks, engine)
    observers = Observers([observer] if observer is not None and ranks.is_main else [])
    if resume:
        run.resume()
    run.publish_weights()
    reason = "it failed"
    with watch_signals(_STOPPING) as interrupts, _settings_of(run), ExitStack() as last:
        last.callback(lambda: _end(observers, run.step, reason, interrupts))
        observers.begin(config.steps, run.description)
        try:
            reason = _train(run, config, observers, interrupts)
            if reason == _INTERRUPTED:
                raise interrupts.received or KeyboardInterrupt  # by another rank
        except KeyboardInterrupt:
            reason = _INTERRUPTED
            raise
        finally:
            with interrupts.blocked():
                run.save()
    interrupts.check()
    result = run.result(reason)
    return replace(result, test=run.test(test_questions)) if test_questions else result


def _end(observer: Observer, step: int, reason: str, interrupts: Interrupts) -> None:
    with interrupts.blocked():
        observer.end(step, reason)


@contextmanager
def _settings_of(run: TrainingRun) -> Iterator[None]:
    """Write the settings of a run that can start; remove them if it fails before its first step."""
    if not run.ranks.is_main:
        yield
        return
    with used_alone(Path(run.config.out)):
        run_folder.save_settings(run.config)
        try:
            yield
        except Exception:
            if not run.step:
                run_folder.remove_settings(run.config.out)
            raise


def _train(
    run: TrainingRun, config: TrainConfig, observer: Observer, interrupts: Interrupts
) -> str:
    """Make the remaining steps; return why they end."""

    def interrupted() -> str | None:
        # All ranks stop after the same step, whichever of them was interrupted.
        stops = run.ranks.sum([float(interrupts.received is not None)])[0]
        return _INTERRUPTED if stops else None

    def evaluate() -> None:
        due = reason is not None or run.step % config.eval_every == 0
        if due and reason != _INTERRUPTED and run.evaluated != run.step:
            metrics = run.evaluate()
            with interrupts.blocked():
                observer.evaluated(run.step, metrics)
                run.evaluated = run.step

    reason = run.end_reason() or interrupted()
    if config.eval_every:
        evaluate()
    # Asked again, since evaluation and saving take long; the clock is not: it would end the run
    # without its last evaluation.
    while (reason := reason or interrupted()) is None:
        with interrupts.finishing():
            rollout = run.play()
            with interrupts.blocked():  # weights, and the step's row in the logs
                metrics, episodes, warnings = run.learn(rollout)
                observer.step(run.step, metrics, episodes)
                for warning in warnings:
                    observer.warn(run.step, warning)
        reason = run.end_reason() or interrupted()
        if config.eval_every:
            evaluate()
        if run.step % config.checkpoint_every == 0:
            with interrupts.blocked():
                run.save()
    return reason
