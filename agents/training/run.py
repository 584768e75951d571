"""The state of a training run, its steps, and its checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.errors import CheckpointError
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.opening import OpeningEngine
from search_env.agents.inference.rollout_engine import EngineFactory, RolloutEngine, check_engine
from search_env.agents.inference.sampling import GREEDY, Sampling
from search_env.agents.learning.distributed import Ranks
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.master_weights import arrange
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.learning.precision import TORCH_DTYPES, dtype_in_words
from search_env.agents.learning.update import update, useful
from search_env.agents.models import (
    check_fits,
    count_ids,
    load_model,
    save_model,
    with_lora,
    with_tokenizer,
)
from search_env.agents.rollouts.collect import OnEpisode, collect, make_envs
from search_env.agents.rollouts.curriculum import Curriculum, make_curriculum, read_difficulties
from search_env.agents.rollouts.lm_agent import play_questions, spread
from search_env.agents.rollouts.metrics import evaluation_metrics, rollout_metrics
from search_env.agents.training import checkpoints
from search_env.agents.training.base_test import opening_of, stored_episodes
from search_env.agents.training.collapse_monitors import DRIFT_LIMITS, Limits, Monitors
from search_env.agents.training.config import TrainConfig
from search_env.agents.training.memorisation import Memorisation
from search_env.agents.training.record_episodes import Recording
from search_env.agents.training.run_folder import holds_run
from search_env.agents.types import Example, Trajectory, by_group
from search_env.envs.mixtures import Purpose
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import ConfigurationError, StorageError
from search_env.rewards.phases import EpisodeOutcome, PhaseRule, PhaseState, PhaseSwitch
from search_env.types import Transcript


class FinalTest(NamedTuple):
    """Greedy episodes of the base and of the trained model on the same questions of a test set."""

    envs: SearchQAVectorEnv
    before: list[Trajectory]
    after: list[Trajectory]
    forced: list[Trajectory] | None  # of the base forced to search, where it can be


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Result of a run."""

    steps: int  # number of all of them
    reason: str  # why the run ended
    model: Path  # folder of the trained model
    evaluations: tuple[tuple[int, dict[str, float]], ...]  # (step, metrics), of this part alone
    switches: tuple[PhaseSwitch, ...]  # all changes of phase
    test: FinalTest | None = None  # where questions were asked for


class Rollout(NamedTuple):
    """The episodes of a step, before they are learnt from."""

    started: float  # clock, in seconds
    played: list[Trajectory]  # by this rank
    chosen: list[Trajectory]  # those to learn from
    measured: dict[str, float]
    recording: Recording | None
    examples: list[Example] | None  # to imitate beside; None in a run without memorisation


class TrainingRun:
    """The components and the state of a run, and its step."""

    def __init__(
        self,
        config: TrainConfig,
        model: PreTrainedModel | None,
        ranks: Ranks,
        engine: EngineFactory | None,
    ) -> None:
        self.config, self.ranks = config, ranks
        if model is None:
            model = load_policy(config, str(ranks.device) if ranks.size > 1 else None)
        # Sampling needs the whole model, also if the learner has split its own.
        self.sampler = copy.deepcopy(model) if config.sharded else model
        algorithms = [config.algorithm_of(phase) for phase in range(len(config.phases))]
        self.rewards = [phase.rewards() for phase in config.phases]
        if min(algorithm.prompts for algorithm in algorithms) < ranks.size:
            raise ConfigurationError(
                f"Expected at least one question a step for each of {ranks.size} processes, got "
                f"prompts={algorithms[0].prompts}. Raise prompts, or start fewer processes."
            )
        sampling = Sampling(config.algorithm.temperature, config.algorithm.top_p)
        self.learner = Learner(
            model,
            _optimizer(config, algorithms[0]),
            dtype=config.dtype,
            max_tokens_per_micro_batch=config.max_tokens_per_micro_batch,
            gradient_checkpointing=config.gradient_checkpointing,
            value_head=any(algorithm.uses_values for algorithm in algorithms),
            reference=any(algorithm.uses_reference for algorithm in algorithms),
            sharded=config.sharded,
            sampling=sampling,
            ranks=ranks,
        )
        if config.sharded:
            arrange(self.sampler, config.dtype, sharded=False)
        self.envs = environment_for(config, self.sampler, "train")
        self.held_out = environment_for(config, self.sampler, "evaluation")
        check_fits(self.sampler, self.envs.tokenizer)
        self._make_engine = engine or partial(
            Engine, value_head=self.learner.value_head, shares_weights=not config.sharded
        )
        self.engine = self._engine_for(self.envs, sampling)
        check_engine(self.engine, sampling, algorithms)
        self.memorisation = Memorisation(
            config.memorisation, self.envs, self.engine, config.out, ranks
        )
        self.curricula = _curricula(config, self.envs)
        self.rule = PhaseRule(
            len(config.phases),
            config.phase_episodes,
            config.phase_search_rate,
            config.phase_format_rate,
            config.phase_window,
        )
        self.phases = self.rule.start()
        self.monitors = Monitors(Limits(drift=DRIFT_LIMITS[config.dtype]))
        self.step = 0
        self.evaluated = -1  # the last step after which an evaluation was reported
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self._seconds_before = 0.0  # seconds of the parts of the run before this one
        self._started = time.monotonic()
        self._saved = 0  # the step of the newest checkpoint; step 0 is not saved
        self._enter_phase()
        self._last_step = self._progress()

    def play(self) -> Rollout:
        """Play the episodes of a step."""
        started = time.perf_counter()
        every = self.config.record_every
        recording = Recording(self.envs) if every and (self.step + 1) % every == 0 else None
        right = self.memorisation.collector(self.step)
        observers = [watcher.played for watcher in (recording, right) if watcher is not None]
        played, chosen, measured = self._play(self.algorithm, observers)
        measured["time/rollout"] = time.perf_counter() - started
        examples, rewritten = self.memorisation.rewrite(right, self._seed(3))
        return Rollout(started, played, chosen, {**measured, **rewritten}, recording, examples)

    def learn(self, rollout: Rollout) -> tuple[dict[str, float], list[Trajectory], list[str]]:
        """Learn and measure; return metrics, the episodes of all ranks, and warnings."""
        recording, phase = rollout.recording, self.phases.phase
        learnt = update(
            self.learner,
            rollout.chosen,
            self.algorithm,
            seed=self._seed(1),
            on_advantages=None if recording is None else recording.learnt,
            examples=rollout.examples,
            example_weight=self.config.memorisation.weight,
        )
        self.publish_weights()
        episodes = [t for part in self.ranks.gather(rollout.played) for t in part]
        metrics = {**rollout_metrics(episodes), **rollout.measured, **learnt, "phase": phase + 1.0}
        metrics["time/step"] = time.perf_counter() - rollout.started
        warnings = self.monitors.update(metrics)
        self.step += 1
        self._count_episodes(episodes)
        self._last_step = self._progress()
        if recording is not None:
            file = Path(self.config.out) / "episodes" / f"step-{self.step:06d}.jsonl"
            try:
                recording.write(file, self.ranks)
            except StorageError as error:  # they are for reading only: the run can do without
                warnings.append(f"The episodes of this step are not recorded. {error}")
        return metrics, episodes, warnings

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm of the present phase."""
        return self.config.algorithm_of(self.phases.phase)

    def _play(
        self, algorithm: Algorithm, observers: Sequence[OnEpisode]
    ) -> tuple[list[Trajectory], list[Trajectory], dict[str, float]]:
        """Return this rank's episodes, those to learn from, and metrics."""

        def on_episode(question: int, transcript: Transcript, trajectory: Trajectory) -> None:
            for observer in observers:
                observer(question, transcript, trajectory)

        played: list[Trajectory] = []
        chosen: list[Trajectory] = []
        measured: defaultdict[str, float] = defaultdict(float)
        curriculum = self.curricula[self.phases.phase]
        for number in range(algorithm.max_batches if algorithm.dynamic_sampling else 1):
            questions = curriculum.draw(self.step, algorithm.prompts).tolist()
            rollouts = collect(
                self.envs,
                self.engine,
                questions,
                group_size=algorithm.group_size,
                group_reward=self.rewards[self.phases.phase][1],
                first_group=number * algorithm.prompts,
                seed=self._seed(2, number),
                shard=(self.ranks.rank, self.ranks.size),
                wait_for_all=self.config.wait_for_all,
                on_episode=on_episode,
            )
            played += rollouts.trajectories
            chosen += useful(rollouts.trajectories, algorithm)
            for name, seconds in rollouts.seconds.items():
                measured[f"time/{name}"] += seconds
            measured["format/faults"] += rollouts.format_faults
            if self.ranks.sum([float(len(by_group(chosen)))])[0] >= algorithm.prompts:
                break
        faults, valid = self.ranks.sum(
            [measured["format/faults"], float(sum(t.valid for t in played))]
        )
        measured["format/faults"] = faults / valid if valid else math.nan
        share = math.ceil(algorithm.prompts / self.ranks.size)
        kept = list(by_group(chosen).values())[:share]
        return played, [member for members in kept for member in members], dict(measured)

    def _count_episodes(self, episodes: list[Trajectory]) -> None:
        """Count episodes of all ranks for the phase; enter the next one if it is over."""
        before = self.phases.phase
        finished = [EpisodeOutcome(t.num_searches, t.well_formed, t.valid) for t in episodes]
        self.phases, _ = self.rule.observe(self.phases, finished)
        if self.phases.phase != before:
            self.monitors.restart()
            self._enter_phase()

    def _engine_for(self, envs: SearchQAVectorEnv, sampling: Sampling) -> RolloutEngine:
        rows, size = envs.num_envs, envs.protocol.max_tokens
        return self._make_engine(self.sampler, rows=rows, max_tokens=size, sampling=sampling)

    def _enter_phase(self) -> None:
        phase = self.phases.phase
        self.envs.set_reward(self.rewards[phase][0])
        self.learner.config = _optimizer(self.config, self.config.algorithm_of(phase))

    def evaluate(self) -> dict[str, float]:
        """Return metrics of greedy episodes on held-out questions."""
        started = time.perf_counter()
        questions = spread(self.held_out.questions, self.config.eval_questions)
        metrics = evaluation_metrics(self._play_greedily(self._trained, self.held_out, questions))
        metrics["eval/seconds"] = time.perf_counter() - started
        self.evaluations.append((self.step, metrics))
        return metrics

    def test(self, count: int) -> FinalTest:
        """Play at most ``count`` test questions with the base and the trained model."""
        envs = environment_for(self.config, self.sampler, "test")
        questions = spread(envs.questions, count)
        before = self._base_episodes(envs, questions)
        opening = opening_of(self.config)
        forced = None if opening is None else self._base_episodes(envs, questions, opening)
        after = self._play_greedily(self._trained, envs, questions)
        return FinalTest(envs, before, after, forced)

    def _base_episodes(
        self,
        envs: SearchQAVectorEnv,
        questions: Sequence[int],
        opening: NDArray[np.int32] | None = None,
    ) -> list[Trajectory]:
        """Return stored episodes of the base, or play them; with an opening, forced to search."""
        stored = None
        if self.ranks.is_main:
            stored = stored_episodes(self.config, envs, questions, forced=opening is not None)
        stored = self.ranks.broadcast(stored)
        if stored is not None:
            return stored

        def player(envs: SearchQAVectorEnv) -> PreTrainedModel | RolloutEngine:
            base, rows, size = self._base(), envs.num_envs, envs.protocol.max_tokens
            if opening is None:
                return base
            return OpeningEngine(Engine(base, rows=rows, max_tokens=size, sampling=GREEDY), opening)

        return self._play_greedily(player, envs, questions)

    def _play_greedily(
        self,
        player_for: Callable[[SearchQAVectorEnv], PreTrainedModel | RolloutEngine],
        envs: SearchQAVectorEnv,
        questions: Sequence[int],
    ) -> list[Trajectory]:
        """Return the episodes of all questions, in order, each played by one of the ranks."""
        own, player = self.ranks.split(questions), player_for(envs)
        parts = self.ranks.gather(play_questions(player, envs, own) if own else [])
        return [
            parts[number % len(parts)][number // len(parts)] for number in range(len(questions))
        ]

    def _base(self) -> PreTrainedModel:
        dtype = TORCH_DTYPES[self.config.dtype]
        return load_model(self.config.model, dtype=dtype, device=self.sampler.device)

    def _trained(self, envs: SearchQAVectorEnv) -> RolloutEngine:
        engine = self._engine_for(envs, GREEDY)
        engine.update_weights(self.learner.weights, self.learner.updates)
        return engine

    @property
    def seconds(self) -> float:
        """Duration of the run, all its parts together."""
        return self._seconds_before + time.monotonic() - self._started

    def end_reason(self) -> str | None:
        """Return why the run ends now; None if it goes on."""
        config = self.config
        if self.step >= config.steps:
            return "all steps are made"
        late = config.minutes is not None and self.seconds >= 60 * config.minutes
        # One clock decides for all ranks.
        return f"{config.minutes:g} minutes are over" if self.ranks.broadcast(late) else None

    @property
    def folder(self) -> Path:
        """Folder of the checkpoints."""
        return Path(self.config.out) / "checkpoints"

    @property
    def description(self) -> dict[str, str]:
        """Model, environment and so on, for observers."""
        config, algorithm = self.config, self.config.algorithm
        return {
            "model": config.model,
            "environment": config.env_id,
            "tokenizer": self.envs.tokenizer.name,
            "dtype": dtype_in_words(config.dtype, config.device, resumed=bool(self._saved)),
            "algorithm": f"{algorithm.advantage}, {algorithm.prompts} x {algorithm.group_size}",
            "phases": ", ".join(phase.reward for phase in config.phases),
        }

    def resume(self) -> None:
        """Restore the newest checkpoint of the run in the folder, if it has one."""
        newest = checkpoints.latest(self.folder)
        if newest is not None:
            self._restore(checkpoints.load(newest, config=self.config.resume_settings()))
            if self.ranks.is_main:  # a run that was killed may not have come to it
                checkpoints.prune(self.folder, self.config.keep_checkpoints)
        elif not holds_run(self.config.out):
            raise CheckpointError(
                f"Expected a checkpoint to resume from in {self.folder}, got none. Start the run "
                "without resuming, or name the folder of another."
            )

    def publish_weights(self) -> None:
        """Give the engine the weights that the run begins with."""
        self.engine.update_weights(self.learner.weights, self.learner.updates)

    def save(self) -> None:
        """Write a checkpoint of the last complete step, if weights have not changed since."""
        progress = self._last_step
        if self._saved == progress["step"] or self.learner.updates != progress["updates"]:
            return
        learner = self.learner.state_dict()
        checkpoint = checkpoints.Checkpoint(
            step=progress["step"],
            weights=learner.pop("weights"),
            state={"learner": learner, "run": progress, "evaluated": self.evaluated},
            config=self.config.resume_settings(),
        )
        if self.ranks.is_main:
            checkpoints.save(self.folder, checkpoint, keep_last=self.config.keep_checkpoints)
        self._saved = progress["step"]

    def result(self, reason: str) -> TrainResult:
        """Save the model in the format of transformers; return the result of the run."""
        folder = Path(self.config.out) / "model"
        weights = self.learner.weights()
        if self.ranks.is_main:
            save_model(self.sampler, folder, weights, tokenizer=self.envs.tokenizer)
        return TrainResult(self.step, reason, folder, tuple(self.evaluations), self.phases.history)

    def _progress(self) -> dict[str, Any]:
        """Return the state of all but the learner, as plain data."""
        return {
            "step": self.step,
            "updates": self.learner.updates,
            "seconds": self.seconds,
            "phases": asdict(self.phases),
            "curricula": [curriculum.state for curriculum in self.curricula],
            "monitors": self.monitors.state_dict(),
        }

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        learner, run = checkpoint.state["learner"], checkpoint.state["run"]
        self.learner.load_state_dict({**learner, "weights": checkpoint.weights})
        history = tuple(PhaseSwitch(*switch) for switch in run["phases"]["history"])
        self.phases = PhaseState(**{**run["phases"], "history": history})
        for curriculum, state in zip(self.curricula, run["curricula"], strict=True):
            curriculum.state = state
        self.monitors.load_state_dict(run["monitors"])
        self.step = self._saved = checkpoint.step
        self.evaluated = checkpoint.state["evaluated"]
        self._seconds_before = run["seconds"]
        self._enter_phase()
        self._last_step = self._progress()

    def _seed(self, *numbers: int) -> int:
        """Return a seed for one use in one step."""
        sequence = np.random.SeedSequence((self.config.seed, self.step, *numbers))
        return int(sequence.generate_state(1)[0])


def load_policy(config: TrainConfig, own_device: str | None = None) -> PreTrainedModel:
    """Load the model of a run, with its adapters, to the device that it is trained on.

    ``own_device`` is that of one of several processes, where the configuration leaves it open.
    """
    device = config.device
    if device == "auto":
        device = own_device or ("cuda" if uses_gpu(config) else "cpu")
    model = load_model(config.model, device=device)
    return with_lora(model, config.lora_rank, 2 * config.lora_rank) if config.lora_rank else model


def environment_for(
    config: TrainConfig, model: PreTrainedModel, purpose: Purpose
) -> SearchQAVectorEnv:
    """Return the environment in which a run trains, is evaluated or tested."""
    return make_envs(
        config.env_id,
        num_envs=config.num_envs,
        vocabulary=count_ids(model),
        options=with_tokenizer(config.options_for(purpose), model),
    )


def _curricula(config: TrainConfig, envs: SearchQAVectorEnv) -> list[Curriculum]:
    """Return the curriculum of each phase."""
    difficulties = None if config.difficulties is None else read_difficulties(config.difficulties)
    make = partial(
        make_curriculum, envs.questions, config.seed, hops=config.hops, difficulties=difficulties
    )
    return [make(levels=phase.levels) for phase in config.phases]


def _optimizer(config: TrainConfig, algorithm: Algorithm) -> OptimizerConfig:
    """Return the optimizer's settings with the algorithm's rates."""
    return replace(
        config.optimizer,
        learning_rate=algorithm.learning_rate,
        value_learning_rate=algorithm.value_learning_rate,
        warmup_steps=algorithm.warmup_steps * algorithm.updates,
    )


def uses_gpu(config: TrainConfig) -> bool:
    """Return whether a run trains on a GPU because there is one."""
    return config.device == "auto" and torch.cuda.is_available()
