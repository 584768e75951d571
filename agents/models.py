"""Loading and saving models, and checks that a model fits an environment.

Only the file formats of transformers are used, and ``.gguf`` files; no code from a hub is ever run.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.models.auto import tokenization_auto

from search_env.agents.errors import ModelMismatchError
from search_env.agents.model_files.folders import check_config, check_folder, similar
from search_env.agents.model_files.gguf import load_gguf
from search_env.errors import ConfigurationError, SearchEnvError, UnsupportedTokenizerError
from search_env.hub import hub_file, hub_reachable, quiet_client
from search_env.paths import atomic_folder
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer

__all__ = ["load_model", "save_model"]

BUNDLED = ("tiny-base", "tiny-trained")
"""Names of models that ship with the package."""

_ASSETS = Path(__file__).parent / "assets"
# Buffers: attention masks of GPT-2 and its likes, rotary frequencies.
_BUFFERS = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.inv_freq$")
_SHARPNESS = 5.0  # of the heads that look back: 0.9 of their attention is on the right token


def tiny_config(
    vocab_size: int = 1024,
    *,
    hidden_size: int = 128,
    intermediate_size: int = 384,
    layers: int = 4,
    heads: int = 4,
    key_value_heads: int | None = None,
) -> Qwen2Config:
    """Return the shape of the bundled models, a Qwen2 of 1.0 million parameters, or a similar one.

    Without ``key_value_heads``, each head has keys and values of its own.

    Its end of sequence is id 0, as in the tokenizer ``world-1k``; it has no beginning of sequence.
    """
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads if key_value_heads is None else key_value_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )


def untrained(config: Qwen2Config, seed: int = 0) -> Qwen2ForCausalLM:
    """Return a new model, three heads of whose first layer look one, two and three tokens back.

    Copying needs such heads, and a small model takes longer to learn them than everything else.
    The product of two constant vectors under rotary positions depends on their distance alone, and
    Qwen2's biases of queries and keys are constant vectors.

    The shape needs three heads or more, of any number of key-value heads; ``seed`` is that of all
    other weights.
    """
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    attention = model.model.layers[0].self_attn
    width = config.hidden_size // config.num_attention_heads
    rotary: Any = config.rope_parameters
    pairs = 5  # of the highest frequencies, which distinguish neighbours
    angles = float(rotary["rope_theta"]) ** (-torch.arange(pairs) * 2 / width)  # (pairs,)
    with torch.no_grad():
        key = torch.zeros(width)
        key[:pairs] = _SHARPNESS
        attention.k_proj.bias.view(-1, width)[:] = key
        for head, back in enumerate((1, 2, 3)):
            query = torch.zeros(width)
            query[:pairs] = _SHARPNESS * torch.cos(back * angles)
            query[width // 2 : width // 2 + pairs] = -_SHARPNESS * torch.sin(back * angles)
            attention.q_proj.bias[head * width : (head + 1) * width] = query
    return model


def load_model(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """Return a causal language model, ready to sample from.

    Args:
        name_or_path: A folder with ``config.json`` and weights, a ``.gguf`` file (dequantised,
            which takes a while: :func:`save_model` makes it a folder), a name in :data:`BUNDLED`,
            or a repository on the Hugging Face hub (taken from its cache, or downloaded).
        dtype: Type of the parameters.
        device: Where they are.

    Raises:
        ConfigurationError: There is no such model, it cannot be downloaded or read, or it is
            quantised otherwise; the message says what to do.
        ModelMismatchError: The weights do not match ``config.json``, or it is no causal language
            model.
    """
    name = str(name_or_path)
    if name.endswith(".gguf") and Path(name).expanduser().is_file():
        model = load_gguf(Path(name).expanduser().absolute(), dtype)
    else:
        model = _load(_source(name), dtype)
    model.to(torch.device(device))  # type: ignore[arg-type]
    return model


def bundled_folder(name: str) -> Path | None:
    """Return the folder of a model in :data:`BUNDLED`; None for other names."""
    return _ASSETS / name if name in BUNDLED else None


def _load(source: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of a folder or a hub id."""
    folder = Path(source)
    is_local = folder.is_dir()
    loaded: Any
    try:
        safe = check_folder(folder) if is_local else _check_repository(source)
        with quiet_client():
            loaded = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                use_safetensors=safe,  # PyTorch's own files are read without running their code
                trust_remote_code=False,
                local_files_only=is_local or not hub_reachable(),
                ignore_mismatched_sizes=True,  # reported, and refused below
                output_loading_info=True,
            )
    except (SearchEnvError, MemoryError):
        raise
    except Exception as error:  # of many kinds, by what the files have
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigurationError(
            f"Expected a causal language model at {source}, got an error: {reason} "
            f"{similar(source, BUNDLED)}Pass a folder with config.json and model.safetensors, a "
            f".gguf file, one of {', '.join(BUNDLED)}, or the id of a repository on the Hugging "
            "Face hub. Without a network, run `hf download ID --local-dir FOLDER` on a machine "
            "with one and pass FOLDER."
        ) from error
    model: PreTrainedModel
    model, report = loaded
    found = {kind: [n for n in names if not _is_buffer(kind, n)] for kind, names in report.items()}
    problems = [f"{kind}: {', '.join(map(str, names))}" for kind, names in found.items() if names]
    if problems:
        raise ModelMismatchError(
            f"Expected weights that match config.json, got others ({'; '.join(problems)}). Use "
            "config and weights of the same model."
        )
    return model


def _is_buffer(kind: str, name: object) -> bool:
    """Return whether a weight is one that old checkpoints have and no model reads."""
    return kind == "unexpected_keys" and bool(_BUFFERS.search(str(name)))


def _check_repository(name: str) -> bool:
    """Check a hub repository by its config, and return whether its weights are in safetensors."""
    check_config(hub_file(name, "config.json"), name)
    for file in ("model.safetensors", "model.safetensors.index.json"):
        with contextlib.suppress(OSError):
            hub_file(name, file)
            return True
    return False


def save_model(
    model: PreTrainedModel,
    folder: str | Path,
    weights: Mapping[str, Tensor] | None = None,
    *,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write a model so that this package, transformers and inference servers can load it.

    The folder is written atomically and replaces an existing one. Adapters of peft are merged into
    their model.

    Args:
        model: Its config and, without ``weights``, its weights are written.
        folder: Target folder; its parents are made.
        weights: Weights by name: those of
            :meth:`~search_env.agents.learning.learner.Learner.weights` keep the precision they
            were trained in.
        tokenizer: The model's tokenizer: its files are written too, and its end ids into the
            generation config. None for the one that :func:`own_tokenizer` finds. (``"toy"`` has no
            files.)

    Returns:
        The folder.

    Raises:
        ConfigurationError: The folder is a file, or has other files than a model's.
    """
    final = Path(folder)
    is_new = not final.exists() or (final.is_dir() and not any(final.iterdir()))
    if not is_new and not (final / "config.json").is_file():
        raise ConfigurationError(
            f"Expected a new folder or a model's folder, got {final}, which has other files. "
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


def count_ids(model: PreTrainedModel) -> int:
    """Return the number of ids that a model samples from."""
    return len(model.get_output_embeddings().weight)  # type: ignore[no-untyped-call]


def weights_digest(model: PreTrainedModel) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 over all weights, names in order."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:12]


def own_tokenizer(model: str | Path | PreTrainedModel) -> str | None:
    """Return the name of a model's own tokenizer, for :func:`load_tokenizer`.

    ``"world-1k"`` for bundled models; a ``.gguf`` file, which has its own; the folder or hub id if
    it has a ``tokenizer.json``; None if there is none, or it could not be downloaded.
    """
    name = _name_of(model)
    folder = Path(name)
    if name in BUNDLED or folder.parent == _ASSETS:
        return "world-1k"
    if name.endswith(".gguf"):
        return name if folder.expanduser().is_file() else None
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
    """Return options of an environment with a tokenizer, the model's own by default.

    For a model that was made in memory they stay as they are.

    Raises:
        ConfigurationError: The model has no tokenizer.
    """
    if options.get("tokenizer") is not None or not _name_of(model):
        return {**options}
    own = own_tokenizer(model)
    if own is None:
        raise ConfigurationError(
            f"Expected a tokenizer.json with the model {_name_of(model)}, got none. Put the file "
            "there, or name the tokenizer that the model was trained with: --tokenizer NAME "
            "(tokenizer=NAME), a bundled name, path or hub id."
        )
    return {**options, "tokenizer": own}


def check_fits(model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Check that a model can sample every action and no other id, and embeds every id it reads.

    The size of the environment's ``tokenizer`` is that of the action space.

    Raises:
        ModelMismatchError: The sizes differ, or an id has other bytes in the model's own tokenizer.
    """
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    embedded, sampled = len(embeddings.weight), len(head.weight)
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
    """Check that ids have the same bytes in a model's own tokenizer and in another one.

    Padding is ignored: one of them may have more ids without text.

    Raises:
        ModelMismatchError: An id has other bytes.
    """
    if own.token_bytes == tokenizer.token_bytes:
        return
    pairs = itertools.zip_longest(own.token_bytes, tokenizer.token_bytes, fillvalue=b"")
    for index, (expected, actual) in enumerate(pairs):
        if expected != actual:
            raise ModelMismatchError(
                f"Expected the model's own tokenizer {own.name!r}, in which id {index} is "
                f"{expected!r}, got {tokenizer.name!r}, in which it is {actual!r}. Leave "
                "--tokenizer (tokenizer=) out to use the model's own."
            )


def with_lora(
    model: PreTrainedModel,
    rank: int = 16,
    alpha: int = 32,
    targets: str | Sequence[str] = "all-linear",
) -> PreTrainedModel:
    """Return a model with trainable low-rank adapters (arXiv 2106.09685); the rest is frozen.

    It is changed in place. Adapters are scaled by ``alpha / rank``. ``targets`` are names of
    modules to adapt, ``"all-linear"`` for all but the head.

    Raises:
        ConfigurationError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigurationError(
            "Expected peft for LoRA, got no such package. Run: pip install peft"
        ) from error
    modules = targets if isinstance(targets, str) else list(targets)
    # No dropout: the policy that is scored must be the one that sampled.
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=modules, lora_dropout=0.0
    )
    return cast(PreTrainedModel, get_peft_model(model, config))


def _source(name: str) -> str:
    """Return the folder of a bundled or local model, or the id of one on the hub."""
    folder = bundled_folder(name) or Path(name).expanduser()
    if folder.is_dir():
        return str(folder.absolute())
    is_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if name in BUNDLED or is_path or name.endswith(".gguf"):
        hint = "" if name in BUNDLED else similar(name, BUNDLED)
        advice = "reinstall the package" if name in BUNDLED else "pass an existing path"
        raise ConfigurationError(
            f"Expected a model, got {name}, which does not exist. {hint}Check it, or {advice}."
        )
    return name


def _name_of(model: str | Path | PreTrainedModel) -> str:
    """Return the name or path of a model; empty for one that was made in memory."""
    return str(model if isinstance(model, str | Path) else getattr(model, "name_or_path", ""))


def _own(model: PreTrainedModel) -> Tokenizer | None:
    """Return a model's own tokenizer, if there is one of a supported kind."""
    name = own_tokenizer(model)
    if name is None:
        return None
    with contextlib.suppress(UnsupportedTokenizerError):
        tokenizer = load_tokenizer(name)
        # One with more ids than the model is not its own: only the model's config is from there.
        if tokenizer.size <= len(model.get_input_embeddings().weight):  # type: ignore[arg-type]
            return tokenizer
    return None


def _write_tokenizer(tokenizer: Tokenizer, model_type: str, folder: Path) -> None:
    """Write a tokenizer's files into a model's folder, and its end ids into generation_config."""
    for name, text in tokenizer.files.items():
        if name != _GENERATION:  # the model's own has more than ends
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
    generation = folder / _GENERATION
    if ends and generation.is_file():
        settings = json.loads(generation.read_text(encoding="utf-8"))
        _write_json(generation, {**settings, "eos_token_id": ends if len(ends) > 1 else ends[0]})


_GENERATION = "generation_config.json"

# For models of these types (Qwen2 is one) transformers 5 takes only vocabulary and merges from
# tokenizer.json and splits text by the rules of the type's usual tokenizer. It reads the whole file
# if the configuration points at remote code that it was not told to trust; there is no such code.
_REBUILT = "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS"
_NO_CODE = "no_remote_code_needed.TokenizersBackend"


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
