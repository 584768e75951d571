"""Checkpoints of a training run: a folder for each, written atomically.

``step-000120/`` holds ``weights.safetensors`` (the trained weights by name), ``state.safetensors``
(all other tensors: optimizer, critic) and ``state.json`` (everything else, the format's version,
and size and CRC-32 of the tensor files). A checkpoint is written under another name, forced to the
disk and then renamed, so a run that is killed at any moment leaves the previous one.

The state is any tree of dictionaries, lists, tuples, numbers, strings and tensors. It holds no
random generator, because none is kept from step to step: draws depend on the run's seed and the
number of the step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from search_env.agents.errors import CheckpointError
from search_env.agents.learning.precision import Precision, resolve_dtype
from search_env.agents.training.config import from_former, is_former

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
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(".step-*"):  # a run was killed while it wrote
        shutil.rmtree(leftover)
    final = root / f"step-{checkpoint.step:06d}"
    temporary = root / f".{final.name}"
    temporary.mkdir()
    tensors: dict[str, Tensor] = {}
    tree = _extract_tensors(checkpoint.state, "state", tensors)
    save_file(_contiguous(checkpoint.weights), temporary / _WEIGHTS)
    save_file(_contiguous(tensors), temporary / _TENSORS)
    record = {
        "format": FORMAT,
        "step": checkpoint.step,
        "config": checkpoint.config,
        "state": tree,
        "files": {name: _fingerprint(temporary / name) for name in (_WEIGHTS, _TENSORS)},
    }
    (temporary / _STATE).write_text(json.dumps(record, indent=1), encoding="utf-8")
    for file in (*temporary.iterdir(), temporary):
        _sync(file)
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    _sync(root)
    for old in _sorted_checkpoints(root)[:-keep_last]:
        shutil.rmtree(old)
    return final


def latest(folder: str | Path) -> Path | None:
    """Return the newest checkpoint in a folder, or None if there is none."""
    return next(reversed(_sorted_checkpoints(Path(folder))), None)


def load(path: str | Path, *, config: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint, and check that it was saved with these settings, if any are given.

    Raises:
        CheckpointError: It is damaged, incomplete, of another version or of another run. The
            message names the file and what to do.
    """
    folder = Path(path)
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
    except (SafetensorError, KeyError) as error:
        raise _damaged(folder, str(error)) from error
    return Checkpoint(record["step"], weights, state, record["config"])


def settings(path: str | Path) -> dict[str, Any]:
    """Return the settings of the run that wrote a checkpoint."""
    config: dict[str, Any] = _read_record(Path(path))["config"]
    return config


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's folder is named after."""
    return int(path.name.removeprefix("step-"))


def _sorted_checkpoints(root: Path) -> list[Path]:
    """Return all checkpoints of a folder, oldest first."""
    return sorted((p for p in root.glob("step-*") if _NAME.fullmatch(p.name)), key=step_of)


def _read_record(folder: Path) -> dict[str, Any]:
    file = folder / _STATE
    if not file.is_file():
        raise CheckpointError(
            f"Expected a checkpoint at {folder}, got no {_STATE} there. Name a folder such as "
            "runs/train/checkpoints/step-000120."
        )
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = record["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, str(error)) from error
    if version != FORMAT:
        raise CheckpointError(
            f"Expected a checkpoint of format {FORMAT}, got format {version} in {file}. Go on with "
            "the version of this package that wrote it, or begin a new run from its weights."
        )
    if not {"step", "config", "state", "files"} <= record.keys():
        raise _damaged(file, "entries are missing")
    return record


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


def _damaged(file: Path, why: str) -> CheckpointError:
    folder = file if file.is_dir() else file.parent
    return CheckpointError(
        f"Expected a whole checkpoint, got a damaged file {file} ({why}). Delete {folder} to go on "
        "from the checkpoint before it."
    )


def _fingerprint(file: Path) -> list[int]:
    """Return a file's size and CRC-32."""
    size = crc = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Defer Ctrl-C until the block is done; a second Ctrl-C interrupts the block.

    Does nothing if SIGINT has another handler, or outside the main thread.
    """
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def on_sigint(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    signal.signal(signal.SIGINT, on_sigint)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt
