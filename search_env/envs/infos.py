"""Infos in which every key is always present, for readers that expect one structure.

By default an info has a key only where it means something, which suits dictionaries but not
columns: Minari records infos only if each has the same keys, and TorchRL reads those that the first
one has. With ``stable_infos=True`` the environments return the infos of this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_env.rewards import Reward
from search_env.types import FaultKind

_FAULTS = {kind.value: number for number, kind in enumerate(FaultKind)}
_TEXTS = ("query", "retrieval_error", "answer")
_NUMBERS = ("f1", "exact_match", "cover_exact_match")
_FLAGS = ("well_formed", "valid")


def stable_info(info: Mapping[str, Any], reward: Reward, top_k: int) -> dict[str, Any]:
    """Return the info of one row with all keys; absent values are 0, False or empty.

    Numbers and flags become NumPy's. ``document_ids`` is a tuple of ``top_k`` strings,
    ``format_faults`` counts each kind, int64 ``(len(FaultKind),)``, and ``reward_parts`` has the
    reward's parts.
    """
    ids, parts = info.get("document_ids", ()), info.get("reward_parts", {})
    stable = {
        **info,
        "num_searches": np.int64(info["num_searches"]),
        "document_ids": _padded(ids, top_k),
        "format_faults": _counts(info.get("format_faults", ())),
        "reward_parts": {part: np.float64(parts.get(part, 0.0)) for part in reward.parts},
    }
    stable |= {key: info.get(key, "") for key in _TEXTS}
    stable |= {key: np.float64(info.get(key, 0.0)) for key in _NUMBERS}
    stable |= {key: np.bool_(info.get(key, False)) for key in _FLAGS}
    return stable


def stable_infos(infos: Mapping[str, Any], reward: Reward, top_k: int) -> dict[str, Any]:
    """Return the infos of all rows in the form of :func:`stable_info`, with masks of True.

    ``infos`` hold ``question_id`` for every row. Keys of a vector environment alone are unchanged.
    """
    count = len(infos["question_id"])
    columns: dict[str, Any] = {key: np.full(count, "", object) for key in _TEXTS}
    columns |= {key: np.zeros(count) for key in _NUMBERS}
    columns |= {key: np.zeros(count, np.bool_) for key in _FLAGS}
    for key, column in columns.items():
        _copy_rows(infos, key, column)
    ids, faults = np.empty(count, object), np.zeros((count, len(_FAULTS)), np.int64)
    for row in range(count):
        ids[row] = _padded((), top_k)
    for row in _rows(infos, "document_ids"):
        ids[row] = _padded(infos["document_ids"][row], top_k)
    for row in _rows(infos, "format_faults"):
        faults[row] = _counts(infos["format_faults"][row])
    parts = {part: np.zeros(count) for part in reward.parts}
    for part, column in parts.items():
        _copy_rows(infos.get("reward_parts", {}), part, column)
    columns |= {"document_ids": ids, "format_faults": faults}
    columns["reward_parts"] = _with_masks(parts, count)
    return {**infos, **_with_masks(columns, count)}


def _with_masks(columns: Mapping[str, Any], count: int) -> dict[str, Any]:
    masks = {f"_{key}": np.ones(count, np.bool_) for key in columns}
    return {**columns, **masks}


def _rows(infos: Mapping[str, Any], key: str) -> list[int]:
    """Return the rows that have a key."""
    return np.flatnonzero(infos[f"_{key}"]).tolist() if key in infos else []


def _copy_rows(infos: Mapping[str, Any], key: str, column: NDArray[Any]) -> None:
    if key in infos:
        rows = infos[f"_{key}"]
        column[rows] = infos[key][rows]


def _padded(ids: Sequence[str], top_k: int) -> tuple[str, ...]:
    return (*ids, *[""] * (top_k - len(ids)))


def _counts(faults: Sequence[str]) -> NDArray[np.int64]:
    counts = np.zeros(len(_FAULTS), np.int64)
    for fault in faults:
        counts[_FAULTS[fault]] += 1
    return counts
