"""Checkpoints of a training run: a folder for each, written atomically.

``step-000120/`` holds ``weights.safetensors`` (the trained weights by name), ``state.safetensors``
(all other tensors: optimizer, critic) and ``state.json`` (everything else, the format's version,
size and CRC-32 of the tensor files, and a checksum of all this). A checkpoint is written under
another name, forced to the disk and then renamed, so a run that is killed at any moment leaves the
previous one. One that was changed in any way is refused; the error names the newest whole one.

The state is any tree of dictionaries, lists, tuples, numbers, strings and tensors. It holds no
random generator, because none is kept from step to step: draws depend on the run's seed and the
number of the step.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from search_env.agents.errors import CheckpointError
from search_env.agents.learning.precision import Precision, resolve_dtype
from search_env.agents.training.config import from_former, is_former
from search_env.errors import StorageError
from search_env.paths import atomic_folder, remove_folder

FORMAT = 1
"""Version of the layout; other versions are refused."""

_WEIGHTS, _TENSORS, _STATE = "weights.safetensors", "state.safetensors", "state.json"
_NAME = re.compile(r"step-\d{6,}")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Content of a checkpoint."""

    step: int  # number of steps that were made
    weights: dict[str, Tensor]  # the trained ones, by name
    state: dict[str, Any]  # any other state, as a tree
    config: dict[str, Any]  # settings of the run, JSON values


def save(folder: str | Path, checkpoint: Checkpoint, *, keep_last: int = 2) -> Path:
    """Write a checkpoint, remove all but the ``keep_last`` newest, and return its folder.

    The folder of the run's checkpoints is created if missing; a checkpoint of the same step is
    replaced.
    """
    root = Path(folder)
    tensors: dict[str, Tensor] = {}
    tree = _extract_tensors(checkpoint.state, "state", tensors)
    root.mkdir(parents=True, exist_ok=True)
    clear_leftovers(root)
    final = root / f"step-{checkpoint.step:06d}"
    with atomic_folder(final) as new:
        for name, content in ((_WEIGHTS, checkpoint.weights), (_TENSORS, tensors)):
            _save_tensors(_contiguous(content), new / name)
        record = {
            "format": FORMAT,
            "step": checkpoint.step,
            "config": checkpoint.config,
            "state": tree,
            "files": {name: _fingerprint(new / name) for name in (_WEIGHTS, _TENSORS)},
        }
        text = json.dumps({**record, "checksum": _checksum(record)}, indent=1)
        (new / _STATE).write_text(text, encoding="utf-8")
    prune(root, keep_last)
    return final


def prune(folder: str | Path, keep_last: int) -> None:
    """Remove all but the newest checkpoints, and what runs that were killed left beside them."""
    clear_leftovers(folder)
    for old in _sorted_checkpoints(Path(folder))[:-keep_last]:
        remove_folder(old)


def clear_leftovers(folder: str | Path) -> None:
    """Remove what runs that were killed left beside the checkpoints of a folder."""
    for leftover in Path(folder).glob(".step-*"):
        shutil.rmtree(leftover)


def latest(folder: str | Path) -> Path | None:
    """Return the newest checkpoint in a folder, or None if there is none."""
    return next(reversed(_sorted_checkpoints(Path(folder))), None)


def load(path: str | Path, *, config: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint, and check that it was saved with these settings, if any are given.

    One of a former version, whose ``state.json`` has no checksum, is read with a warning.

    Raises:
        CheckpointError: It is damaged, incomplete, of another version or of another run. The
            message names the file, and the newest whole checkpoint beside it.
    """
    folder = Path(path)
    try:
        checkpoint = _load(folder, config)
    except _DamagedError as error:
        raise CheckpointError(f"{error} {_advice(folder)}") from error
    return checkpoint


def _load(folder: Path, config: Mapping[str, Any] | None) -> Checkpoint:
    record = _read_record(folder)
    for name, expected in record["files"].items():
        file = folder / name
        if not file.is_file() or _fingerprint(file) != expected:
            raise _damaged(file, "its size or checksum is not what was written")
    if config is not None:
        _check_config(folder, record["config"], config)
    try:
        weights, tensors = load_file(folder / _WEIGHTS), load_file(folder / _TENSORS)
        state = _insert_tensors(record["state"], tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    if not isinstance(state, dict):
        raise _damaged(folder / _STATE, "its state is no dictionary")
    return Checkpoint(record["step"], weights, state, record["config"])


def _advice(folder: Path) -> str:
    """Return what to do instead of using a damaged checkpoint."""
    for other in reversed(_sorted_checkpoints(folder.parent)):
        if other.name != folder.name:
            with suppress(CheckpointError, _DamagedError, OSError):
                _load(other, None)
                return f"Delete {folder} to go on from {other}, which is whole."
    return "There is no whole checkpoint beside it: begin a new run in another folder."


def settings(path: str | Path) -> dict[str, Any]:
    """Return the settings of the run that wrote a checkpoint."""
    folder = Path(path)
    try:
        config: dict[str, Any] = _read_record(folder)["config"]
    except _DamagedError as error:
        raise CheckpointError(f"{error} {_advice(folder)}") from error
    return config


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's folder is named after."""
    return int(path.name.removeprefix("step-"))


def _sorted_checkpoints(root: Path) -> list[Path]:
    """Return all checkpoints of a folder, oldest first."""
    return sorted((p for p in root.glob("step-*") if _NAME.fullmatch(p.name)), key=step_of)


def _read_record(folder: Path) -> dict[str, Any]:
    """Return the content of ``state.json``, checked as far as it goes without the tensors."""
    file = folder / _STATE
    if not file.is_file():
        if (folder / _WEIGHTS).exists() or (folder / _TENSORS).exists():
            raise _damaged(file, "it is missing")
        raise CheckpointError(
            f"Expected a checkpoint at {folder}, got no {_STATE} there. Name a folder such as "
            "runs/train/checkpoints/step-000120."
        )
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = record["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from error
    if version != FORMAT:
        raise CheckpointError(
            f"Expected a checkpoint of format {FORMAT}, got format {version!r} in {file}. Go on "
            "with the version of this package that wrote it, or begin a new run from its weights."
        )
    _check_record(file, record)
    return record


def _check_record(file: Path, record: dict[str, Any]) -> None:
    """Check types, checksum and the step; remove the checksum from the record."""
    kinds = {"step": int, "config": dict, "files": dict}
    if not {"state", *kinds} <= record.keys():
        raise _damaged(file, "entries are missing")
    for name, kind in kinds.items():
        if type(record[name]) is not kind:
            raise _damaged(file, f"its {name!r} is {record[name]!r:.80}")
    if record["files"].keys() != {_WEIGHTS, _TENSORS}:
        raise _damaged(file, f"its 'files' are {sorted(record['files'])}")
    if "checksum" not in record:
        warnings.warn(
            f"{file} was written by a former version and has no checksum: whether it was changed "
            "is not known. The next checkpoint will have one.",
            stacklevel=4,
        )
    elif record.pop("checksum") != _checksum(record):
        raise _damaged(file, "its checksum is not that of its content")
    if _NAME.fullmatch(file.parent.name) and step_of(file.parent) != record["step"]:
        raise _damaged(file, f"it is of step {record['step']}")


def _checksum(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record, however its JSON is laid out."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _check_config(folder: Path, saved: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if is_former(saved):
        saved, config = from_former(saved), from_former(config)
    differing = [
        f"{name} was {saved.get(name)!r} and is {value!r}"
        for name, value in config.items()
        if saved.get(name) != value
    ]
    if differing:
        raise CheckpointError(
            f"Expected the settings of the run that wrote {folder}, got others: "
            f"{'; '.join(differing)}. Resume "
            "with the same settings, or begin a new run in another folder."
        )


class _DamagedError(Exception):
    """A checkpoint is not what was written; what to do depends on the others beside it."""


def _damaged(file: Path, why: str) -> _DamagedError:
    return _DamagedError(f"Expected a whole checkpoint, got a damaged file {file} ({why}).")


def _fingerprint(file: Path) -> list[int]:
    """Return a file's size and CRC-32."""
    size = crc = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


def _save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    try:
        save_file({**tensors}, file)
    except SafetensorError as error:  # for example a full disk
        raise StorageError(
            f"Expected to write {file}, got: {error}. The checkpoints before it are unchanged. "
            "Free some space, then resume the run."
        ) from error


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory, as safetensors requires."""
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}


def _extract_tensors(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return a tree as JSON; its tensors are added to ``tensors`` by their path."""
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, dict):
        pairs = [
            [key, _extract_tensors(value, f"{path}.{key}", tensors)] for key, value in tree.items()
        ]
        return {"dict": pairs}
    if isinstance(tree, list | tuple):
        items = [_extract_tensors(value, f"{path}.{i}", tensors) for i, value in enumerate(tree)]
        return {"list" if isinstance(tree, list) else "tuple": items}
    if tree is not None and not isinstance(tree, bool | int | float | str):
        raise TypeError(f"Expected plain data or tensors in a state, got {type(tree)} at {path}.")
    return tree


def _insert_tensors(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return the tree that :func:`_extract_tensors` was given."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _insert_tensors(value, tensors) for key, value in content}
    items = [_insert_tensors(value, tensors) for value in content]
    return items if kind == "list" else tuple(items)


def dtype_of_run(dtype: str, device: torch.device | str, newest: Path | None) -> Precision:
    """Return the dtype that a run computes in; ``"auto"`` keeps that of the resumed checkpoint."""
    if dtype == "auto" and newest is not None:
        dtype = settings(newest).get("dtype", dtype)
    return resolve_dtype(dtype, device)
