"""The examination of a run before it begins: every part of it is tried once, on a few episodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

from transformers import PreTrainedModel

from search_env.agents.doctor.data import examine_questions, examine_retrieval
from search_env.agents.doctor.estimates import (
    Memory,
    MemoryMeter,
    estimate_memory,
    estimate_time,
    weight_bytes,
)
from search_env.agents.doctor.findings import EXPECTED, Finding, Section, guarded
from search_env.agents.doctor.model import examine_fit, examine_model
from search_env.agents.doctor.tokenizer import examine_tokenizer
from search_env.agents.doctor.trial import (
    Measured,
    Progress,
    examine_learner,
    examine_rollouts,
    make_engine,
    play,
)
from search_env.agents.inference.sampling import Sampling
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.precision import resolve_dtype
from search_env.agents.training.config import TrainConfig
from search_env.agents.training.run import environment_for, load_policy
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.validation import check_count

__all__ = ["examine"]

SECTIONS = (
    *("Model", "Environment", "Tokenizer", "Questions", "Retrieval"),
    *("Rollout", "Learner", "Estimates"),
)
"""The sections of a report, in order."""

PURPOSES: tuple[Literal["train"], Literal["evaluation"]] = ("train", "evaluation")


def examine(
    config: TrainConfig,
    *,
    model: PreTrainedModel | None = None,
    episodes: int = 16,
    progress: Progress | None = None,
) -> Iterator[Finding]:
    """Yield findings on a run: tokenizer, model, questions, retrieval, a rollout, a learner's step.

    Nothing is written. What cannot be examined because an earlier part failed is said to be so.

    Args:
        config: Settings of the run; its limits of time and steps only enter the estimates.
        model: Used instead of loading ``config.model``, and changed in place by one step.
        episodes: Number of episodes to play, in groups of the algorithm's size.
        progress: Called after each episode with how many are finished, and how many there will be.

    Example:
        >>> from search_env.agents.training.default_run import tiny_run
        >>> levels = [finding.level for finding in examine(tiny_run(), episodes=2)]
        >>> "error" in levels
        False
    """
    config = replace(config, dtype=resolve_dtype(config.dtype, config.device))
    check_count("episodes", episodes, 1)
    section = SECTIONS[0]
    try:
        for reached, findings in _stages(config, model, episodes, progress):
            section = reached
            yield from findings
    except EXPECTED as error:
        yield Section(section).error(str(error))
        for later in SECTIONS[SECTIONS.index(section) + 1 :]:
            yield Section(later).error("not examined, because of the error above")


def _stages(
    config: TrainConfig,
    model: PreTrainedModel | None,
    episodes: int,
    progress: Progress | None,
) -> Iterator[tuple[str, Iterator[Finding]]]:
    """Yield sections and their findings; those that later ones need raise their errors."""
    yield "Model", iter(())
    model = load_policy(config) if model is None else model
    yield "Model", examine_model(model, config.dtype)
    yield "Environment", iter(())
    train, held_out = (environment_for(config, model, purpose) for purpose in PURPOSES)
    yield "Environment", examine_fit(model, train)
    style = train.components.prompt
    for section, findings in (
        ("Tokenizer", partial(examine_tokenizer, train.tokenizer, train.protocol, style)),
        ("Questions", partial(examine_questions, train, held_out)),
        ("Retrieval", partial(examine_retrieval, train)),
    ):
        yield section, guarded(section, findings)
    yield from _trial(config, model, train, episodes, progress)


def _trial(
    config: TrainConfig,
    model: PreTrainedModel,
    envs: SearchQAVectorEnv,
    episodes: int,
    progress: Progress | None,
) -> Iterator[tuple[str, Iterator[Finding]]]:
    """Yield the sections of a small training step, and what it says of the whole run."""
    yield "Rollout", iter(())
    weights = weight_bytes(model, config)
    algorithms = [config.algorithm_of(phase) for phase in range(len(config.phases))]
    learner = Learner(
        model,
        config.optimizer,
        dtype=config.dtype,
        max_tokens_per_micro_batch=config.max_tokens_per_micro_batch,
        gradient_checkpointing=config.gradient_checkpointing,
        value_head=any(algorithm.uses_values for algorithm in algorithms),
        sampling=Sampling(config.algorithm.temperature, config.algorithm.top_p),
    )
    engine = make_engine(config, learner, envs)
    rollouts, seconds = play(config, envs, engine, episodes, progress)
    yield "Rollout", examine_rollouts(config, rollouts, seconds)
    measured = Measured(rollouts, seconds)
    meter = MemoryMeter(model.device)
    yield "Learner", examine_learner(config, learner, measured)
    memory = Memory(weights, engine.cache_bytes, meter.growth() * _scale(config, measured))
    yield "Estimates", estimate_memory(config, memory, model.device)
    yield "Estimates", estimate_time(config, measured)


def _scale(config: TrainConfig, measured: Measured) -> float:
    """Return how many times the trial's largest micro-batch fits into the run's."""
    return config.max_tokens_per_micro_batch / min(
        config.max_tokens_per_micro_batch, max(1, measured.tokens)
    )
