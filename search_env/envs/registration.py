"""The environment ids. Importing :mod:`search_env` registers them, as ``search_env:ID`` does.

Each id is a set of keyword arguments, all small JSON values, for one class and its vector form.
``max_episode_steps`` is not set: the environment has its own budgets, each with a name.
"""

from __future__ import annotations

import importlib
from typing import Any

from gymnasium.envs.registration import register, registry

from search_env.errors import ConfigurationError, nearest

_WORLD = {"dataset": "world", "max_tokens": 4096}
_SYMBOLS = {"protocol": "toy", "tokenizer": "toy"}
_REAL = {"tokenizer": "world-1k", "max_tokens": 8192, "top_k": 5}

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "SearchQA-v0": _WORLD,
    "SearchQA-Stage1-v0": {**_WORLD, "reward": "r1-searcher-stage1"},
    "SearchQA-Stage2-v0": {**_WORLD, "reward": "r1-searcher-stage2"},
    "SearchQA-Toy-v0": {"dataset": "toy", "max_tokens": 16, **_SYMBOLS},
    "SearchQA-MustSearch-v0": {"dataset": "must-search", "max_tokens": 16, **_SYMBOLS},
    "SearchQA-MustNotSearch-v0": {
        "dataset": "must-not-search",
        "max_tokens": 16,
        "reward": "f1-search-cost",
        **_SYMBOLS,
    },
    "SearchQA-Distractors-v0": {"dataset": "distractors", "max_tokens": 32, "top_k": 4, **_SYMBOLS},
    "SearchQA-ForgedTags-v0": {"dataset": "forged-tags", "max_tokens": 32, **_SYMBOLS},
    "SearchQA-DelayedEvidence-v0": {"dataset": "delayed-evidence", "max_tokens": 24, **_SYMBOLS},
    "SearchQA-Unanswerable-v0": {
        "dataset": "unanswerable",
        "max_tokens": 24,
        "reward": "abstention",
        **_SYMBOLS,
    },
    "SearchQA-Poisoned-v0": {"dataset": "poisoned", "max_tokens": 48, "top_k": 4, **_SYMBOLS},
    "SearchQA-AsOf-v0": {"dataset": "as-of", "max_tokens": 40, "top_k": 4, **_SYMBOLS},
    "SearchQA-Bamboogle-v0": {"dataset": "bamboogle", **_REAL},
    "SearchQA-Musique-v0": {"dataset": "musique", **_REAL},
    "SearchQA-HotpotQA-v0": {"dataset": "hotpotqa", **_REAL},
    "SearchQA-2Wiki-v0": {"dataset": "2wikimultihopqa", **_REAL},
}
"""Keyword arguments by id."""


def register_environments() -> None:
    """Register every id that is not yet registered."""
    for name, arguments in ENVIRONMENTS.items():
        if name not in registry:
            register(
                id=name,
                entry_point="search_env.envs.search_qa:SearchQAEnv",
                vector_entry_point="search_env.envs.search_qa_vector:SearchQAVectorEnv",
                kwargs=arguments,
            )


def arguments_of(env_id: str) -> dict[str, Any]:
    """Return the keyword arguments of a registered id.

    Args:
        env_id: A registered id, or ``MODULE:ID``; the module is imported.

    Raises:
        ConfigurationError: No such id, or no such module.
    """
    module, _, name = env_id.rpartition(":")
    try:
        importlib.import_module(module or __name__)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Expected a module to import in {env_id!r}, got: {error}. Run in its folder, or "
            "install it."
        ) from error
    if name not in registry:
        raise ConfigurationError(
            f"Expected env id among {', '.join(ENVIRONMENTS)}, got {env_id!r}. "
            f"{nearest(env_id, ENVIRONMENTS)}Pass your own ids with their module, MODULE:ID."
        )
    return dict(registry[name].kwargs)
