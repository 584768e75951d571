"""A run checked before its model is loaded and anything is written."""

from __future__ import annotations

from pathlib import Path

import torch

from search_env.agents.inference.openai_client import OpenAIClient
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.rollouts.curriculum import read_difficulties
from search_env.agents.rollouts.memorisation import ORACLE, MemorisationConfig
from search_env.agents.training.config import TrainConfig
from search_env.envs.checks import check_arguments, check_names, check_readable
from search_env.envs.config import EnvConfig
from search_env.envs.registration import arguments_of
from search_env.errors import ConfigurationError
from search_env.paths import why_not_writable
from search_env.protocols.registry import get_protocol

_RATES = ("learning_rate", "value_learning_rate", "warmup_steps")


def check_run(config: TrainConfig) -> None:
    """Check what a configuration names: rewards, questions, corpus, retriever, device, folder.

    Questions and tokenizer are loaded, model and documents are not.

    Raises:
        ConfigurationError: A name that is not registered, a value that cannot work, or a folder
            that cannot be written.
        DataError: Questions, a corpus or labels are missing or damaged.
    """
    _check_gpu(config.device)
    _check_rates(config.optimizer)
    check_folder(Path(config.out))
    check_names(config.env_id, config.env_options, "env_options")
    check_names(config.env_id, config.eval_options, "eval_options")
    arguments = {**arguments_of(config.env_id), **config.env_options}
    protocol = get_protocol(arguments.get("protocol", EnvConfig.protocol))
    for phase in config.phases:
        check_readable(protocol, *phase.rewards())
    _check_memorisation(config.memorisation)
    for purpose in ("train", "evaluation", "test"):
        options = config.options_for(purpose)
        given = "env_options" if purpose == "train" else "eval_options"
        questions = check_arguments(config.env_id, options, given)
        if purpose == "train" and config.hops and not all(q.hops for q in questions):
            raise ConfigurationError(
                "Expected questions with known hops for a schedule of hops, got some without. "
                "Leave hops out, or label the questions' difficulty (search-env label)."
            )
        if (
            purpose == "train"
            and _rewrites_by_oracle(config)
            and not any(q.hops for q in questions)
        ):
            raise ConfigurationError(
                "Expected questions with known hops for memorisation by the oracle, got none. Set "
                "memorisation.source to 'model' or an endpoint."
            )
    if config.difficulties is not None:
        read_difficulties(config.difficulties)


def _check_memorisation(memorisation: MemorisationConfig) -> None:
    """Check that an endpoint that rewrites could be asked; none is."""
    if memorisation.weight and memorisation.uses_endpoint:
        OpenAIClient(
            memorisation.source, timeout=memorisation.timeout, retries=memorisation.retries
        )


def _rewrites_by_oracle(config: TrainConfig) -> bool:
    return config.memorisation.weight > 0.0 and config.memorisation.source == ORACLE


def _check_gpu(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(
            f"Expected a device that is here, got {device!r}: torch sees no GPU. Use device='auto'."
        )


def _check_rates(optimizer: OptimizerConfig) -> None:
    """Check that rates are not given where a run does not read them."""
    default = OptimizerConfig()
    given = (optimizer.learning_rate, optimizer.value_learning_rate, optimizer.warmup_steps)
    usual = (default.learning_rate, default.value_learning_rate, default.warmup_steps)
    for name, value, unused in zip(_RATES, given, usual, strict=True):
        if value != unused:
            raise ConfigurationError(
                f"Expected {name} among the settings of the algorithm, got "
                f"optimizer.{name}={value!r}, which a run does not read. Set algorithm.{name}."
            )


def check_folder(out: Path) -> None:
    """Check that a folder can be made or written; make nothing.

    Raises:
        ConfigurationError: It is a file, or not writable.
    """
    if reason := why_not_writable(out):
        raise ConfigurationError(
            f"Expected out to be a folder that can be written, got {out}: {reason}. Choose another "
            "folder."
        )
