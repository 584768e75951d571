"""Arguments of an environment checked before anything expensive is loaded.

Commands call :func:`check_arguments` first, so that a misspelt name is found before a model or an
index is loaded for minutes, and before a file is written.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from search_env.envs.config import EnvConfig, protocol_of, tokenizer_of
from search_env.envs.loading import check_retriever, load_questions
from search_env.envs.registration import arguments_of
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.protocols.protocol import Protocol
from search_env.rewards import GroupReward, Reward, get_reward
from search_env.typed_values import annotations_of, check_type
from search_env.types import Question
from search_env.validation import check_choice

# Arguments that belong to whoever makes the environment.
_NOT_OPTIONS = frozenset({"num_envs", "autoreset_mode", "copy"})


def check_arguments(
    env_id: str, arguments: Mapping[str, Any], where: str = "arguments"
) -> tuple[Question, ...]:
    """Check the arguments of a vector environment, and that what they name exists.

    Questions and the tokenizer are loaded, which is cached; documents are not. Of an environment
    that is not this package's, only names and types of arguments are checked.

    Args:
        env_id: A registered id, or ``MODULE:ID``.
        arguments: Those that are passed beside the id's own.
        where: What the error calls them.

    Returns:
        The questions; none of an environment that is not this package's.

    Raises:
        ConfigurationError: An unknown id, argument or name, or a value of another type.
        DataError: Questions or a corpus are missing or damaged.
    """
    check_names(env_id, arguments, where)
    creator = _creator(env_id)
    if not (isinstance(creator, type) and issubclass(creator, SearchQAVectorEnv)):
        return ()
    names = {field.name for field in dataclasses.fields(EnvConfig)}
    merged = {**arguments_of(env_id), **arguments}
    if "tokenizer" not in arguments:  # a model may bring its own, which these tokens belong to
        merged = {n: v for n, v in merged.items() if n not in ("bos_token", "eos_token")}
    return _check_values(EnvConfig(**{n: v for n, v in merged.items() if n in names}))


def check_names(env_id: str, arguments: Mapping[str, Any], where: str = "arguments") -> None:
    """Check the arguments of a vector environment by name and type alone.

    Parameters and errors are those of :func:`check_arguments`.
    """
    creator = _creator(env_id)
    parameters = inspect.signature(creator).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    try:
        constructor = creator.__init__ if isinstance(creator, type) else creator  # type: ignore[misc]
        annotations = annotations_of(constructor)
    except NameError:  # somebody else's, with names that are imported for type checkers alone
        annotations = {}
    names = [name for name in parameters if name not in _NOT_OPTIONS]
    for name, value in arguments.items():
        check_choice(f"names of {where}", name, names)
        check_type(f"{where}.{name}", value, annotations.get(name, Any))


def check_readable(protocol: Protocol, *rewards: Reward | GroupReward | None) -> None:
    """Check that rewards can read the episodes of a protocol.

    Raises:
        ConfigurationError: One of them cannot.
    """
    for reward in rewards:
        if reward is not None and reward.check is not None:
            reward.check(protocol.name, protocol.markup)


def _creator(env_id: str) -> Any:
    """Return the class or function that makes an id's vector environment, or its single one."""
    arguments_of(env_id)  # imports the module of the id, and raises for an unknown one
    spec = gym.registry[env_id.rpartition(":")[2]]
    entry = spec.vector_entry_point or spec.entry_point
    return load_env_creator(entry) if isinstance(entry, str) else entry


def _check_values(config: EnvConfig) -> tuple[Question, ...]:
    """Check what a configuration names; return its questions."""
    check_readable(protocol_of(config), get_reward(config.reward))
    tokenizer_of(config)
    dataset, split, options = config.dataset, config.split, config.dataset_options
    if isinstance(config.retriever, str | None):
        check_retriever(
            config.retriever, dataset=dataset, split=split, options=options, corpus=config.corpus
        )
    return tuple(load_questions(dataset, split, options))
