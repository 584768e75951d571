"""Checkpoints of a training run: a folder for each, whole or not there at all.

``step-000120/`` holds ``weights.safetensors`` (the trained weights by name), ``state.safetensors``
(all other tensors: optimizer, critic) and ``state.json`` (everything else, the format's version,
and size and CRC-32 of the tensor files). A checkpoint is written under another name, forced to the
disk and then renamed, so a run that is killed at any moment leaves the one before it.

What is in a state is the caller's affair: any tree of dictionaries, lists, tuples, numbers, strings
and tensors comes back as it was. No generator is saved, because none lives longer than a step: what
is drawn depends on the run's seed and the number of the step.
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
"""Version of the layout; another one is refused."""

_WEIGHTS, _TENSORS, _STATE = "weights.safetensors", "state.safetensors", "state.json"
_NAME = re.compile(r"step-\d{6,}")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved.

    Attributes:
        step: Steps behind it.
        weights: By name.
        state: The tree that was saved with them.
        config: What the run was configured with, JSON values.
    """

    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any]
    config: dict[str, Any]


def save(folder: str | Path, checkpoint: Checkpoint, *, keep_last: int = 2) -> Path:
    """Write a checkpoint and remove the oldest ones.

    Args:
        folder: Of the run's checkpoints; made if need be.
        checkpoint: What to write; one of the same step is replaced.
        keep_last: How many to keep.

    Returns:
        The checkpoint's folder.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(".step-*"):  # of a run that was killed while it wrote
        shutil.rmtree(leftover)
    final = root / f"step-{checkpoint.step:06d}"
    temporary = root / f".{final.name}"
    temporary.mkdir()
    tensors: dict[str, Tensor] = {}
    tree = _take_out(checkpoint.state, "state", tensors)
    save_file(_plain(checkpoint.weights), temporary / _WEIGHTS)
    save_file(_plain(tensors), temporary / _TENSORS)
    record = {
        "format": FORMAT,
        "step": checkpoint.step,
        "config": checkpoint.config,
        "state": tree,
        "files": {name: _fingerprint(temporary / name) for name in (_WEIGHTS, _TENSORS)},
    }
    (temporary / _STATE).write_text(json.dumps(record, indent=1), encoding="utf-8")
    for file in (*temporary.iterdir(), temporary):
        _force_to_disk(file)
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    _force_to_disk(root)
    for old in _all(root)[:-keep_last]:
        shutil.rmtree(old)
    return final


def latest(folder: str | Path) -> Path | None:
    """Return the newest checkpoint in a folder, or None where there is none."""
    found = _all(Path(folder))
    return found[-1] if found else None


def load(path: str | Path, *, config: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: Its folder.
        config: The settings to go on with: each must be what it was. None accepts any.

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
        state = _put_back(record["state"], tensors)
    except (SafetensorError, KeyError) as error:
        raise _damaged(folder, str(error)) from error
    return Checkpoint(record["step"], weights, state, record["config"])


def settings(path: str | Path) -> dict[str, Any]:
    """Return what the run that wrote a checkpoint was configured with.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged or of another version.
    """
    found: dict[str, Any] = _read_record(Path(path))["config"]
    return found


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's folder is named after."""
    return int(path.name.removeprefix("step-"))


def _all(root: Path) -> list[Path]:
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
        record = json.loads(file.read_text(encoding="utf-8"))
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
    checked: dict[str, Any] = record
    return checked


def _check_config(folder: Path, saved: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if is_former(saved):
        saved, config = from_former(saved), from_former(config)
    differing = [name for name in config if saved.get(name) != config[name]]
    if differing:
        shown = "; ".join(
            f"{name} was {saved.get(name)!r} and is {config[name]!r}" for name in differing
        )
        raise CheckpointError(
            f"Expected the settings of the run that wrote {folder}, got others: {shown}. Resume "
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


def _force_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory, as safetensors wants them."""
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}


def _take_out(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return a tree as JSON, its tensors put into ``tensors`` by their path."""
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, dict):
        pairs = [[key, _take_out(value, f"{path}.{key}", tensors)] for key, value in tree.items()]
        return {"dict": pairs}
    if isinstance(tree, list | tuple):
        items = [_take_out(value, f"{path}.{i}", tensors) for i, value in enumerate(tree)]
        return {"list" if isinstance(tree, list) else "tuple": items}
    if tree is not None and not isinstance(tree, bool | int | float | str):
        raise TypeError(f"Expected plain data or tensors in a state, got {type(tree)} at {path}.")
    return tree


def _put_back(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return the tree that :func:`_take_out` was given."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _put_back(value, tensors) for key, value in content}
    items = [_put_back(value, tensors) for value in content]
    return items if kind == "list" else tuple(items)


def dtype_of_run(dtype: str, device: torch.device | str, newest: Path | None) -> Precision:
    """Return the type that a run computes in.

    Args:
        dtype: What is asked for. ``"auto"`` goes on with what a resumed run began with.
        device: Where it is computed.
        newest: The checkpoint that is resumed; None for a new run.

    Raises:
        CheckpointError: The checkpoint cannot be read.
    """
    if dtype == "auto" and newest is not None:
        dtype = settings(newest).get("dtype", dtype)
    return resolve_dtype(dtype, device)


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done; a second one is let through.

    Where somebody handles SIGINT in their own way, or outside the main thread, nothing is done.

    Raises:
        KeyboardInterrupt: After the block, if Ctrl-C was pressed in it; inside it at the second.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt
