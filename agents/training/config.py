"""Settings of a training run, as plain data: model, environment, algorithm, phases, limits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import torch

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.learning.precision import Dtype
from search_env.agents.rollouts.curriculum import LEVELS, USED_LEVELS
from search_env.agents.rollouts.memorisation import MemorisationConfig
from search_env.envs.mixtures import for_purpose, parts_of
from search_env.envs.registration import arguments_of
from search_env.envs.splits import GENERATED
from search_env.errors import ConfigurationError
from search_env.registry import import_module
from search_env.rewards import GroupReward, Reward, get_group_reward, get_reward
from search_env.rewards.phases import PhaseRule
from search_env.typed_values import build, check_fields
from search_env.validation import check_choice, check_count

__all__ = ["Phase", "TrainConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A part of a run with a reward of its own.

    ``changes`` are fields of the algorithm that differ in this phase, for example
    ``{"learning_rate": 1e-4, "kl_coefficient": 0.01}``.
    """

    reward: str  # its name
    group_reward: str | None = None  # name of one that is paid in addition
    changes: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[str, ...] = USED_LEVELS  # difficulties of its questions, if they are labelled

    def __post_init__(self) -> None:
        """Check the fields; the changes become a dict, which can be written as JSON."""
        check_fields(self)
        for level in self.levels:
            check_choice("levels of a phase", level, LEVELS)

    def rewards(self) -> tuple[Reward, GroupReward | None]:
        """Return the reward and the group reward of these names.

        Raises:
            ConfigurationError: A name is not registered, or both rewards have a part in common.
        """
        reward = get_reward(self.reward)
        if self.group_reward is None:
            return reward, None
        return reward, get_group_reward(self.group_reward, beside=reward)


PHASES = (
    Phase(reward="r1-searcher-stage1", levels=("medium",)),
    Phase(reward="r1-searcher-stage2"),
)
"""R1-Searcher's two: learn to search, then to answer."""

PLUS_PLUS_PHASES = (Phase(reward="r1-searcher++", group_reward="r1-searcher++-group"),)
"""R1-Searcher++'s one, after a cold start: answer, with as few searches as it takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A training run.

    Attributes:
        model: Folder or hub name of a causal language model of transformers.
        algorithm: Advantages and loss, questions a step, group size and learning rate.
        env_id: Id of the environment.
        imports: Modules that register environments, rewards, retrievers or protocols; they are
            imported when the configuration is made.
        env_options: Arguments of the environment, JSON values.
        eval_options: Arguments that differ in evaluation and in the final test, for example another
            ``dataset``. Without a ``split`` here or above, the splits to train on and to evaluate
            on are those of the dataset, or of each part of a mixture
            (:mod:`search_env.envs.mixtures`).
        max_tokens: Context of the environment and of the engine's cache.
        phases: Phases in order.
        phase_episodes: Most valid episodes of a phase; None: no limit.
        phase_search_rate: Share of episodes with a search at which a phase ends; None: not used.
        phase_format_rate: Share of well-formed episodes that it needs as well.
        phase_window: Number of episodes that the shares are computed from.
        hops: ``(from_step, most_hops)``: questions from easy to hard.
        difficulties: File of ``search-env label``; None draws all questions alike.
        optimizer: The optimizer; learning rates and warm-up are the algorithm's.
        memorisation: Imitation of search-free paths beside the policy loss; none by default.
        steps: Number of steps.
        minutes: Time limit, resumed parts included; None: no limit.
        num_envs: Episodes side by side.
        wait_for_all: See :func:`search_env.agents.rollouts.collect.collect`.
        lora_rank: Train adapters of this rank only; 0 trains all weights.
        device: Device of the model; ``"auto"`` is the GPU if there is one.
        sharded: Split weights and optimizer over the processes of torchrun.
        dtype: ``"fp32"``, or ``"bf16"`` with float32 master weights; ``"auto"`` as
            :func:`~search_env.agents.learning.precision.resolve_dtype` decides when the run begins.
            A resumed run keeps its dtype.
        max_tokens_per_micro_batch: Most tokens in one forward and backward pass.
        gradient_checkpointing: Less memory, more time.
        seed: Seed of everything random.
        eval_every: Steps between evaluations, which also come first and last; 0: none.
        eval_questions: Number of evaluation questions, evenly spread over the split.
        checkpoint_every: Steps between checkpoints; one is always made at the end.
        keep_checkpoints: Number of checkpoints to keep.
        record_every: Steps between those whose episodes are written, with their log-probabilities,
            values and advantages, for ``search-env view``; 0: none.
        out: Folder of checkpoints, recorded episodes and of the trained model.
        processes: Number of processes that share questions and threads: for CPUs, where a small
            model gains little from threads. Ignored under torchrun, which has its own.
        threads: Threads of torch in each process; None for torch's default, shared by processes.
    """

    model: str
    algorithm: Algorithm
    env_id: str = "SearchQA-v0"
    imports: tuple[str, ...] = ()
    env_options: Mapping[str, Any] = field(default_factory=dict)
    eval_options: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = 1024
    phases: tuple[Phase, ...] = PHASES
    phase_episodes: int | None = 5600
    phase_search_rate: float | None = 0.95
    phase_format_rate: float | None = 0.9
    phase_window: int = 256
    hops: tuple[tuple[int, int], ...] = ()
    difficulties: str | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    memorisation: MemorisationConfig = field(default_factory=MemorisationConfig)
    steps: int = 100
    minutes: float | None = None
    num_envs: int = 64
    wait_for_all: bool = True
    lora_rank: int = 0
    device: str = "auto"
    sharded: bool = False
    dtype: Dtype = "auto"
    max_tokens_per_micro_batch: int = 16384
    gradient_checkpointing: bool = False
    seed: int = 0
    eval_every: int = 20
    eval_questions: int = 200
    checkpoint_every: int = 20
    keep_checkpoints: int = 2
    record_every: int = 0
    out: str = "runs/train"
    processes: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check what no other constructor checks."""
        check_fields(self)
        for module in self.imports:
            import_module(module)
        for name, value, least in (
            ("max_tokens", self.max_tokens, 2),
            ("steps", self.steps, 0),
            ("num_envs", self.num_envs, 1),
            ("lora_rank", self.lora_rank, 0),
            ("max_tokens_per_micro_batch", self.max_tokens_per_micro_batch, 1),
            ("seed", self.seed, 0),
            ("eval_every", self.eval_every, 0),
            ("eval_questions", self.eval_questions, 1),
            ("checkpoint_every", self.checkpoint_every, 1),
            ("keep_checkpoints", self.keep_checkpoints, 1),
            ("record_every", self.record_every, 0),
            ("processes", self.processes, 1),
            ("phase_window", self.phase_window, 1),
            ("phase_episodes", 1 if self.phase_episodes is None else self.phase_episodes, 1),
            ("threads", 1 if self.threads is None else self.threads, 1),
        ):
            check_count(name, value, least)
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ConfigurationError(
                f"Expected minutes above 0, got {self.minutes!r}. Leave it out for no limit."
            )
        self._check_device()
        self._check_phases()

    def _check_device(self) -> None:
        if self.device != "auto":
            try:
                torch.device(self.device)
            except RuntimeError as error:
                raise ConfigurationError(
                    f"Expected device to be auto, cpu, cuda or cuda:N, got {self.device!r}. Change "
                    "device."
                ) from error
        if self.processes > 1 and (self.sharded or self.device not in ("auto", "cpu")):
            raise ConfigurationError(
                f"Expected whole models on the CPU with processes={self.processes}, got "
                f"device={self.device!r}, sharded={self.sharded}. Start the processes by torchrun."
            )

    def _check_phases(self) -> None:
        if not self.phases:
            raise ConfigurationError("Expected at least one phase, got none. Pass phases.")
        for name, share in (
            ("phase_search_rate", self.phase_search_rate),
            ("phase_format_rate", self.phase_format_rate),
        ):
            if share is not None and not 0.0 <= share <= 1.0:
                raise ConfigurationError(
                    f"Expected {name} from 0 to 1, got {share!r}. Pass None for no such limit."
                )
        self.phase_rule()
        for phase in range(len(self.phases)):
            self.algorithm_of(phase)

    def phase_rule(self) -> PhaseRule:
        """Return the rule that ends phases."""
        return PhaseRule(
            len(self.phases),
            self.phase_episodes,
            self.phase_search_rate,
            self.phase_format_rate,
            self.phase_window,
        )

    def algorithm_of(self, phase: int) -> Algorithm:
        """Return the algorithm with the changes of a phase.

        Raises:
            ConfigurationError: A change of an unknown field, or to an invalid value.
        """
        names = [field.name for field in fields(Algorithm)]
        for name in self.phases[phase].changes:
            check_choice("the changes of a phase", name, names)
        return replace(self.algorithm, **self.phases[phase].changes)

    def options_for(self, purpose: Literal["train", "evaluation", "test"]) -> dict[str, Any]:
        """Return the arguments of the environment for training, evaluation or the final test.

        A split of the id or in ``env_options``, and a filter of files' questions, are used for
        training only, those in ``eval_options`` for evaluation only; the test is on the dataset's
        own test split.

        Raises:
            ConfigurationError: No such id or dataset, or one without a split to train on.
            DataError: The dataset is a damaged file.
        """
        registered = arguments_of(self.env_id)
        options: dict[str, Any] = {"split": registered.get("split"), "max_tokens": self.max_tokens}
        options |= self.env_options
        if purpose != "train":
            options |= {**self.eval_options, "split": None}
            options |= self._without_filter({**registered, **options})
        if purpose == "evaluation":
            options["split"] = self.eval_options.get("split")
        if options["split"] is None:
            dataset = options.get("dataset", registered.get("dataset", "world"))
            keep = purpose == "train" or "dataset" in self.eval_options
            chosen, options["split"] = for_purpose(dataset, purpose, keep=keep)
            if chosen != dataset:
                options["dataset"] = chosen
        return options

    def _without_filter(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what takes a filter of files' training questions out of an evaluation's options.

        Options of generated datasets are those of a world, in which training and test are.
        """
        if options.get("dataset_options") is None or "dataset_options" in self.eval_options:
            return {}
        parts = parts_of(options.get("dataset", "world"))
        is_generated = any(part.dataset in GENERATED for part in parts)
        return {} if is_generated else {"dataset_options": None}

    def is_held_out(self, purpose: Literal["evaluation", "test"]) -> bool:
        """Return whether evaluation or test have no set of questions that is trained on."""
        return self._sets("train").isdisjoint(self._sets(purpose))

    def _sets(self, purpose: Literal["train", "evaluation", "test"]) -> set[tuple[str, ...]]:
        registered, options = arguments_of(self.env_id), self.options_for(purpose)
        dataset = options.get("dataset", registered.get("dataset", "world"))
        world = str(options.get("dataset_options", registered.get("dataset_options")))
        return {
            (
                part.dataset,
                str(part.split or options["split"]),
                world if part.dataset in GENERATED else "",
            )
            for part in parts_of(dataset)
        }

    def to_json(self) -> dict[str, Any]:
        """Return all settings as JSON values."""
        plain = replace(self, env_options={**self.env_options}, eval_options={**self.eval_options})
        settings: dict[str, Any] = json.loads(json.dumps(asdict(plain)))
        return settings

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration that :meth:`to_json` was called on, also by a former version.

        Raises:
            ConfigurationError: The settings are not complete, or those of a later version.
        """
        try:
            if is_former(settings):
                settings = from_former(settings)
        except (KeyError, TypeError) as error:
            raise ConfigurationError(
                f"Expected the settings of a run by this version, got others ({error}). Begin a "
                "new run."
            ) from error
        return build(cls, settings)

    def resume_settings(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share, as JSON values."""
        settings = {name: value for name, value in self.to_json().items() if name not in _FREE}
        default = asdict(Algorithm())
        settings["algorithm"] = {
            name: value
            for name, value in settings["algorithm"].items()
            if name not in _NEW or value != default[name]
        }
        # Checkpoints of before 2026-12 do not have it; a run without it needs none of its fields.
        if not self.memorisation.weight:
            settings["memorisation"] = None
        return settings


# Settings that may change when a run is resumed: limits, and where and how often to write.
_FREE = frozenset(
    {"steps", "minutes", "eval_every", "eval_questions", "checkpoint_every", "keep_checkpoints"}
    | {"out", "processes", "threads", "device", "record_every", "imports"}
)

# Fields of the algorithm that checkpoints of before 2026-11-30 do not have: their defaults are what
# was done then, and are left out of what is compared.
_NEW = frozenset({"gdpo_whitening", "k3_limit"})

# Settings that files written before 2026-11-30 have under another name.
FORMER_NAMES = {"rows": "num_envs", "micro_tokens": "max_tokens_per_micro_batch"}


def is_former(settings: Mapping[str, Any]) -> bool:
    """Return whether the settings of a run were written before 2026-11-30."""
    return not FORMER_NAMES.keys().isdisjoint(settings)


def from_former(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a run that were written before 2026-11-30 under today's names.

    What was left to a default of then is named where today's default is another: the tokenizer was
    that of the environment, whatever lay with the model. Runs were watched on the split
    ``validation``, which today's default chooses too wherever there is one, so it is left out.
    Settings of this version come back in the same terms, to be compared with a former one's.

    Raises:
        ConfigurationError: Their environment is not registered.
        KeyError: They are incomplete.
    """
    tokenizer = arguments_of(settings["env_id"]).get("tokenizer", "world-1k")
    evaluation = dict(settings["eval_options"])
    if evaluation.get("split") == "validation":
        del evaluation["split"]
    return {
        **{FORMER_NAMES.get(name, name): value for name, value in settings.items()},
        "phases": [{"group_reward": None, **phase} for phase in settings["phases"]],
        "env_options": {"tokenizer": tokenizer, **settings["env_options"]},
        "eval_options": evaluation,
    }
