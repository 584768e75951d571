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

import numpy as np
from numpy.typing import NDArray

from search_env.agents.models import bundled_folder
from search_env.agents.training.config import TrainConfig
from search_env.agents.types import Trajectory
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.retrieval.digests import file_digest
from search_env.types import StopReason

FILE = "test_episodes.json.gz"
"""Name of the file in the model's folder: for each dtype the facts, and the episodes."""


def opening_of(config: TrainConfig) -> NDArray[np.int32] | None:
    """Return the ids that a bundled base begins searching episodes with; None for other models."""
    folder = bundled_folder(config.model)
    content = {} if folder is None else _read(folder)
    return np.array(content["opening"], np.int32) if "opening" in content else None


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
    part = {} if folder is None else _read(folder).get(config.dtype, {})
    if folder is None or part.get("facts") != _facts(config, envs, folder):
        return None
    try:
        rows = {row["question_id"]: row for row in part["forced" if forced else "episodes"]}
        return [_trajectory(rows[envs.questions[index].id]) for index in questions]
    except (ValueError, LookupError, TypeError):
        return None


def _read(folder: Path) -> dict[str, Any]:
    """Return the file's content; {} where it is missing or damaged, which costs time alone."""
    try:
        content = json.loads(gzip.decompress((folder / FILE).read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error):
        return {}
    return content if isinstance(content, dict) else {}


def store_episodes(
    parts: Sequence[
        tuple[TrainConfig, SearchQAVectorEnv, Sequence[Trajectory], Sequence[Trajectory]]
    ],
    opening: Sequence[int],
    folder: Path,
) -> None:
    """Write free and forced episodes of a base, with configuration and environment by dtype."""
    content: dict[str, Any] = {"opening": list(opening)}
    content |= {
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
