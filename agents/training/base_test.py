"""Test episodes of a bundled base model, free and forced to search, kept beside it.

Forced to begin as an episode that searches (:mod:`search_env.agents.inference.opening`), a base
shows what it can do already: what training adds to that is more than the decision to search.

A base never changes, so a run need not play its sides of the final test. Episodes are used only if
weights, dtype, environment and its arguments, questions and corpus are those that they were played
with. When the base is replaced, ``scripts/play_base_test.py`` writes the file anew.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from transformers import PreTrainedModel

from search_env.agents.imitation.demonstrations import search_opening
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.opening import OpeningEngine
from search_env.agents.inference.sampling import GREEDY
from search_env.agents.models import bundled_folder
from search_env.agents.training.config import TrainConfig
from search_env.agents.types import Trajectory
from search_env.envs.search_qa import bare_env
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.retrieval.digests import file_digest
from search_env.types import StopReason

FILE = "test_episodes.json.gz"
"""Name of the file in the model's folder: for each dtype the facts, and the episodes."""


def can_be_forced(config: TrainConfig, envs: SearchQAVectorEnv) -> bool:
    """Return whether a model is one of the package, and the questions of a kind it was taught."""
    return bundled_folder(config.model) is not None and all(q.hops for q in envs.questions)


def forced_engine(
    config: TrainConfig, model: PreTrainedModel, envs: SearchQAVectorEnv
) -> OpeningEngine:
    """Return a greedy engine of a bundled model that is forced to search."""
    env = bare_env(gym.make(config.env_id, **config.options_for("test")))
    engine = Engine(model, rows=envs.num_envs, max_tokens=envs.protocol.max_tokens, sampling=GREEDY)
    return OpeningEngine(engine, search_opening(env))


def stored_episodes(
    config: TrainConfig,
    envs: SearchQAVectorEnv,
    questions: Sequence[int],
    *,
    forced: bool = False,
) -> list[Trajectory] | None:
    """Return the base's episodes of some test questions, or None where they have to be played.

    ``config`` has its dtype resolved. Log-probabilities are not stored; they are NaN. Of the forced
    episodes there are the scores alone, without a token.
    """
    folder = bundled_folder(config.model)
    if folder is None or not (folder / FILE).is_file():
        return None
    try:
        part = json.loads(gzip.decompress((folder / FILE).read_bytes()))[config.dtype]
        if part["facts"] != _facts(config, envs, folder):
            return None
        rows = {row["question_id"]: row for row in part["forced" if forced else "episodes"]}
        return [_trajectory(rows[envs.questions[index].id]) for index in questions]
    except (OSError, EOFError, ValueError, LookupError, TypeError, zlib.error):
        return None  # a damaged file costs the time to play, not the run


def store_episodes(
    parts: Sequence[
        tuple[TrainConfig, SearchQAVectorEnv, Sequence[Trajectory], Sequence[Trajectory]]
    ],
    folder: Path,
) -> None:
    """Write free and forced episodes of a base, with configuration and environment by dtype."""
    content = {
        config.dtype: {
            "facts": _facts(config, envs, folder),
            "episodes": [_row(episode) for episode in free],
            "forced": [{**_row(episode), "tokens": [], "sources": []} for episode in forced],
        }
        for config, envs, free, forced in parts
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (folder / FILE).write_bytes(gzip.compress(text.encode(), mtime=0))


def _facts(config: TrainConfig, envs: SearchQAVectorEnv, folder: Path) -> dict[str, Any]:
    """Return what the greedy episodes of a base depend on, as JSON values."""
    return {
        "weights": {n: file_digest(folder / n) for n in ("config.json", "model.safetensors")},
        "env_id": config.env_id,
        "arguments": json.loads(json.dumps(config.options_for("test"))),
        "environment": hashlib.sha256(repr(envs.components.origin).encode()).hexdigest(),
        "corpus": getattr(envs.components.retriever, "digest", None),
    }


def _row(episode: Trajectory) -> dict[str, Any]:
    row = asdict(episode)
    del row["log_probs"], row["values"]
    return {**row, "tokens": episode.tokens.tolist(), "sources": episode.sources.tolist()}


def _trajectory(row: Mapping[str, Any]) -> Trajectory:
    arrays = {
        "tokens": np.array(row["tokens"], np.int32),
        "sources": np.array(row["sources"], np.int8),
        "log_probs": np.full(len(row["tokens"]), np.nan, np.float32),
        "values": None,
    }
    ended = {"stop_reason": StopReason(row["stop_reason"]), "queries": tuple(row["queries"])}
    return Trajectory(**{**row, **arrays, **ended})
