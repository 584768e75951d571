"""Folders and hub repositories in the form of transformers, checked before weights are read.

transformers reports most of what can be wrong with a folder by whatever fails first. The checks
here say what the folder is and what to do with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from search_env.agents.errors import ModelMismatchError
from search_env.errors import ConfigurationError, nearest

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_POINTER = b"version https://git-lfs"


def check_folder(folder: Path) -> bool:
    """Check that a folder has a causal language model and all of its weights.

    Returns whether the weights are in safetensors; else they are in PyTorch's own files.

    Raises:
        ConfigurationError: It has no model, or not all of one.
        ModelMismatchError: It has a model of another kind.
    """
    if not (folder / "config.json").is_file():
        raise ConfigurationError(f"Expected config.json in {folder}, got none. {_advice(folder)}")
    check_config(folder / "config.json", str(folder))
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        parts = [name]
        if index.is_file() and not (folder / name).is_file():
            parts = sorted(set(_read(index).get("weight_map", {}).values()))
        elif not (folder / name).is_file():
            continue
        missing = [part for part in parts if not (folder / part).is_file()]
        if missing:
            raise ConfigurationError(
                f"Expected {len(parts)} files of weights in {folder}, got {len(parts)} less "
                f"{len(missing)}: {', '.join(missing)}. Download those again."
            )
        for part in parts:
            _check_pointer(folder / part)
        return name == _WEIGHTS[0]
    raise ConfigurationError(
        f"Expected model.safetensors in {folder}, got a config.json without weights. Put the "
        f"model's files there, or save it again with save_pretrained or save_model."
    )


def check_config(file: Path, name: str) -> None:
    """Check that a ``config.json`` is that of a model which transformers has, in full precision.

    Raises:
        ConfigurationError: It is no such file, or the model is quantised, or needs code of its own.
        ModelMismatchError: It is not a causal language model.
    """
    config = _read(file)
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        own = " with code of its own (auto_map), which is never run" if "auto_map" in config else ""
        raise ConfigurationError(
            f"Expected {name} to be a model of transformers, got model_type {kind!r}{own}. Use a "
            "model that transformers has built in, or a newer transformers."
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelMismatchError(
            f"Expected {name} to be a causal language model, got model_type {kind!r}. Use a "
            "decoder such as Qwen, Llama or Gemma."
        )
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise ConfigurationError(
            f"Expected {name} to have weights in full precision, got weights quantised with "
            f"{method!r}. Use the model that they were quantised from, or a .gguf file."
        )


def similar(name: str, others: tuple[str, ...]) -> str:
    """Return a hint at a bundled name or a folder that is spelt like this one, or nothing."""
    path, last = Path(name).expanduser(), ""
    while not path.is_dir() and path.name:
        path, last = path.parent, path.name
    folders = {str(path / child.name) for child in path.iterdir() if child.is_dir()}
    hint = nearest(name, others)
    return hint or nearest(str(path / last), sorted(folders))


def _advice(folder: Path) -> str:
    """Say what a folder without a ``config.json`` is."""
    if (folder / "adapter_config.json").is_file():
        base = _read(folder / "adapter_config.json").get("base_model_name_or_path")
        return (
            f"It has adapters of {base!r} alone: merge them with peft "
            "(PeftModel.from_pretrained(model, folder).merge_and_unload()) and save that model."
        )
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if files:
        return f"Pass a file in it: {folder / files[0]}."
    inner = sorted(str(config.parent) for config in folder.glob("*/config.json"))
    if inner:
        return f"Pass a folder in it: {', '.join(inner)}."
    if any(folder.glob("*.pth")):
        return "It has weights in Meta's format: use the repository whose weights transformers has."
    return "Pass the folder that save_model or save_pretrained wrote."


def _read(file: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        content = error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"Expected {file} to be a JSON object, got {str(content)[:200]!r}. Download the file "
            "again."
        )
    return content


def _check_pointer(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(len(_POINTER)) == _POINTER:
            raise ConfigurationError(
                f"Expected weights in {file}, got a pointer of Git LFS. Run `git lfs pull` in "
                f"{file.parent}."
            )
