"""Models: where they come from, where they go, whether one fits an environment.

Only the file formats of transformers are used, with safetensors; no code from a hub is ever run.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.auto import tokenization_auto

from search_env.agents.errors import ModelMismatchError
from search_env.errors import ConfigurationError, UnsupportedTokenizerError, nearest
from search_env.hub import hub_file
from search_env.paths import atomic_folder
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer

BUNDLED = ("tiny-base", "tiny-trained")
"""Names of models that ship with the package."""

_ASSETS = Path(__file__).parent / "assets"
_SHARPNESS = (
    5.0  # of the heads that look back: nine tenths of their attention is where it should be
)


def tiny_config(
    vocab_size: int = 1024,
    *,
    hidden_size: int = 128,
    intermediate_size: int = 384,
    layers: int = 4,
    heads: int = 4,
) -> Qwen2Config:
    """Return the shape of the bundled models: a Qwen2 of 1.0 million parameters; or one like it.

    Its end of sequence is id 0, as in the tokenizer ``world-1k``; there is no id for a beginning.
    """
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )


def untrained(config: Qwen2Config, seed: int = 0) -> Qwen2ForCausalLM:
    """Return a new model, three heads of whose first layer look one, two and three tokens back.

    Copying needs such heads; found by training, they cost a small model more than all the rest. A
    product of two constant vectors under rotary positions depends on their distance alone, and
    biases of queries and keys, which Qwen2 has, are constant vectors.

    Args:
        config: Its shape, with three heads or more of keys.
        seed: Of all other weights.
    """
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    attention = model.model.layers[0].self_attn
    width = config.hidden_size // config.num_attention_heads
    shared = config.num_attention_heads // (
        config.num_key_value_heads or config.num_attention_heads
    )
    rotary: Any = config.rope_parameters
    pairs = 5  # of the highest frequencies, which tell neighbours apart
    angles = float(rotary["rope_theta"]) ** (-torch.arange(pairs) * 2 / width)
    with torch.no_grad():
        for head, back in enumerate((1, 2, 3)):
            query, key = torch.zeros(width), torch.zeros(width)
            query[:pairs] = _SHARPNESS
            key[:pairs] = _SHARPNESS * torch.cos(back * angles)
            key[width // 2 : width // 2 + pairs] = _SHARPNESS * torch.sin(back * angles)
            first = head * shared * width
            attention.q_proj.bias[first : first + width] = query
            attention.k_proj.bias[head * width : (head + 1) * width] = key
    return model


def load_model(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """Return a causal language model, ready to sample from.

    Args:
        name_or_path: A folder with ``config.json`` and safetensors files, a name in
            :data:`BUNDLED`, or a repository on the Hugging Face hub (taken from its cache, or
            downloaded).
        dtype: Of the parameters.
        device: Where they go.

    Raises:
        ConfigurationError: There is no such model, or it cannot be had; the message says what to
            put where.
        ModelMismatchError: Its weights are not those that its ``config.json`` asks for.
    """
    source = _source(str(name_or_path))
    loaded: Any
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"Expected a causal language model at {source}, got an error: {reason} "
            f"{nearest(str(source), BUNDLED)}Pass a folder with config.json and model.safetensors, "
            f"one of {', '.join(BUNDLED)}, or the id of a repository on the Hugging Face hub. "
            "Without a network, run `hf download ID --local-dir FOLDER` where there is one and "
            "pass FOLDER."
        ) from error
    model: PreTrainedModel
    model, report = loaded
    wrong = {what: names for what, names in report.items() if names}
    if wrong:
        found = "; ".join(f"{what}: {', '.join(map(str, names))}" for what, names in wrong.items())
        raise ModelMismatchError(
            f"Expected the weights that config.json asks for, got others ({found}). Take config "
            "and weights from the same model."
        )
    model.to(torch.device(device))  # type: ignore[arg-type]
    return model


def save_model(
    model: PreTrainedModel,
    folder: str | Path,
    weights: Mapping[str, Tensor] | None = None,
    *,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write a model so that this package, transformers and inference servers can load it.

    The folder is there whole or not at all; one that was there is replaced in the end. Adapters of
    peft are merged into their model.

    Args:
        model: Its config and, unless others are given, its weights.
        folder: Where to; its parents are made.
        weights: By name: those of :meth:`~search_env.agents.learning.learner.Learner.weights` keep
            the precision they were trained in.
        tokenizer: What its ids mean: written beside it, with its end ids as those of generation.
            None for the model's own, where :func:`own_tokenizer` finds one. (``"toy"`` leaves no
            files.)

    Returns:
        The folder.

    Raises:
        ConfigurationError: The folder is a file, or holds something else than a model.
    """
    final = Path(folder)
    if final.exists() and not (final / "config.json").is_file() and not _is_empty_folder(final):
        raise ConfigurationError(
            f"Expected a new folder or one of a model, got {final}, which holds other things. "
            "Choose another folder."
        )
    if hasattr(model, "merge_and_unload"):
        adapted: Any = copy.deepcopy(model)
        adapted.load_state_dict(weights or {}, strict=weights is not None)
        model, weights = adapted.merge_and_unload(), None
    tokenizer = _own(model) if tokenizer is None else tokenizer
    with atomic_folder(final) as new:
        model.save_pretrained(new, state_dict=None if weights is None else {**weights})
        if tokenizer is not None:
            _write_tokenizer(tokenizer, str(model.config.model_type), new)
    return final


def own_tokenizer(model: str | Path | PreTrainedModel) -> str | None:
    """Return the name of the tokenizer that lies with a model, for :func:`load_tokenizer`.

    Args:
        model: As for :func:`load_model`, or a loaded model, which knows where it is from.

    Returns:
        ``"world-1k"`` for bundled models; the folder or hub id that has a ``tokenizer.json``; None
        where there is none, or none that could be fetched.
    """
    name = _name_of(model)
    folder = Path(name)
    if name in BUNDLED or folder.parent == _ASSETS:
        return "world-1k"
    if not name or folder.is_dir():
        return name if name and (folder / "tokenizer.json").is_file() else None
    try:
        hub_file(name, "tokenizer.json")
    except (ImportError, OSError, ValueError):
        return None
    return name


def with_tokenizer(
    options: Mapping[str, Any], model: str | Path | PreTrainedModel
) -> dict[str, Any]:
    """Return arguments of an environment that name a tokenizer: the model's own if they did not.

    Those of a model that was made in memory stay as they are.

    Raises:
        ConfigurationError: No tokenizer lies with the model.
    """
    if options.get("tokenizer") is not None or not _name_of(model):
        return {**options}
    own = own_tokenizer(model)
    if own is None:
        raise ConfigurationError(
            f"Expected a tokenizer.json with the model {_name_of(model)}, got none, so nothing "
            "says what its ids mean. Put the file there, or name the tokenizer that the model was "
            "trained with: --tokenizer NAME (tokenizer=NAME), a bundled name, path or hub id."
        )
    return {**options, "tokenizer": own}


def check_fits(model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Check that each id a model can sample is an action, and each id it may read is embedded.

    Args:
        model: The policy.
        tokenizer: The environment's; its size is that of the action space.

    Raises:
        ModelMismatchError: They do not belong together: sizes differ (the message names both), or
            the model's own tokenizer gives an id another meaning.
    """
    read: Any = model.get_input_embeddings()
    written: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    embedded, sampled = len(read.weight), len(written.weight)
    if tokenizer.size > min(embedded, sampled):
        raise ModelMismatchError(
            f"Expected a model with at least the {tokenizer.size} ids of tokenizer "
            f"{tokenizer.name!r}, got one with {min(embedded, sampled)}. Pass the model's own "
            "tokenizer to the environment."
        )
    if sampled > tokenizer.size:
        raise ModelMismatchError(
            f"Expected a model that samples the environment's {tokenizer.size} actions, got one "
            f"that samples {sampled} ids. Pass vocab_size={sampled} to the environment."
        )
    own = _own(model)
    if own is not None:
        check_same_ids(own, tokenizer)


def check_same_ids(own: Tokenizer, tokenizer: Tokenizer) -> None:
    """Check that ids mean the same bytes in a model's own tokenizer and in another one.

    Padding means nothing: one of them may have more ids without text.

    Raises:
        ModelMismatchError: An id does not.
    """
    if own.token_bytes == tokenizer.token_bytes:
        return
    pairs = itertools.zip_longest(own.token_bytes, tokenizer.token_bytes, fillvalue=b"")
    for index, (meant, found) in enumerate(pairs):
        if meant != found:
            raise ModelMismatchError(
                f"Expected the model's own tokenizer {own.name!r}, in which id {index} is "
                f"{meant!r}, got {tokenizer.name!r}, in which it is {found!r}. Leave --tokenizer "
                "(tokenizer=) out, and the model's own is used."
            )


def with_lora(
    model: PreTrainedModel,
    rank: int = 16,
    alpha: int = 32,
    targets: str | Sequence[str] = "all-linear",
) -> PreTrainedModel:
    """Return a model with trainable adapters of low rank (arXiv 2106.09685); the rest is frozen.

    Args:
        model: Changed in place.
        rank: Of the adapters.
        alpha: Adapters are scaled by this over ``rank``.
        targets: Names of modules to adapt; ``"all-linear"`` for all but the head.

    Raises:
        ConfigurationError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigurationError(
            "Expected peft for LoRA, got no such package. Run: pip install peft"
        ) from error
    wanted = targets if isinstance(targets, str) else list(targets)
    # No dropout: the policy that is scored must be the one that sampled.
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=wanted, lora_dropout=0.0
    )
    adapted: Any = get_peft_model(model, config)
    result: PreTrainedModel = adapted
    return result


def _source(name: str) -> str:
    """Return the folder of a bundled or local model, or the id of one on the hub."""
    folder = _ASSETS / name if name in BUNDLED else Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigurationError(
                f"Expected config.json in {folder}, got none. Pass the folder that save_model or "
                "save_pretrained wrote."
            )
        return str(folder.absolute())
    looks_local = name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if name in BUNDLED or looks_local:
        raise ConfigurationError(
            f"Expected a folder with a model, got {name}, which does not exist. Check the path"
            f"{', or reinstall the package' if name in BUNDLED else ''}."
        )
    return name


def _name_of(model: str | Path | PreTrainedModel) -> str:
    """Return where a model is from; empty for one that was made in memory."""
    return str(model if isinstance(model, str | Path) else getattr(model, "name_or_path", ""))


def _own(model: PreTrainedModel) -> Tokenizer | None:
    """Return a model's own tokenizer, where it is there and of a kind that this package reads."""
    name = own_tokenizer(model)
    if name is None:
        return None
    with contextlib.suppress(UnsupportedTokenizerError):
        tokenizer = load_tokenizer(name)
        # One with more ids than the model was never its own: only its config is from there.
        if tokenizer.size <= len(model.get_input_embeddings().weight):  # type: ignore[arg-type]
            return tokenizer
    return None


def _write_tokenizer(tokenizer: Tokenizer, model_type: str, folder: Path) -> None:
    """Write a tokenizer's files beside a model, and its end ids where generation looks for them."""
    for name, text in tokenizer.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    ends = sorted(tokenizer.eos_ids)
    if tokenizer.files and "tokenizer_config.json" not in tokenizer.files:
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        config["clean_up_tokenization_spaces"] = False
        if ends:
            config["eos_token"] = tokenizer.token_bytes[ends[0]].decode()
        if model_type in getattr(tokenization_auto, _REBUILT, ()):
            config["auto_map"] = {"AutoTokenizer": [_NO_CODE, _NO_CODE]}
        _write_json(folder / "tokenizer_config.json", config)
    generation = folder / "generation_config.json"
    if ends and generation.is_file():
        said = json.loads(generation.read_text(encoding="utf-8"))
        _write_json(generation, {**said, "eos_token_id": ends if len(ends) > 1 else ends[0]})


# For models of these types (Qwen2 is one) transformers 5 takes vocabulary and merges alone from
# tokenizer.json and splits text by the rules of the type's usual tokenizer. It reads all of the
# file where the configuration points at code that it was not told to trust: there is none.
_REBUILT = "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS"
_NO_CODE = "no_remote_code_needed.TokenizersBackend"


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
