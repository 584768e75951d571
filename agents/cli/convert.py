"""``search-env convert``: a model in a ``.gguf`` file becomes a folder of transformers' own files.

transformers dequantises such a file each time it is loaded, which takes a minute or two for 135
million parameters; a folder with the same weights is open in a second.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search_env.agents.cli.common import need_agents
from search_env.cli.console import say
from search_env.errors import ConfigurationError
from search_env.validation import check_choice

if TYPE_CHECKING:
    from search_env.agents.model_files.gguf import Header

CARD = "provenance.json"
"""The file in a converted folder that says what it was made from."""

_DTYPES = ("fp32", "bf16")
_PACKAGES = ("search-env", "transformers", "torch", "gguf", "safetensors")
_LICENCES = ("general.license", "general.name", "general.quantized_by")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "convert", epilog="Example: search-env convert smollm2.Q4_1.gguf --out models/smollm2"
    )(convert_command)


def convert_command(
    source: Annotated[Path, typer.Argument(help="A model in a single .gguf file.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    dtype: Annotated[str, typer.Option(help="fp32 or bf16: type of the weights.")] = "fp32",
) -> None:
    """Write a .gguf model as a folder: weights, tokenizer, chat template, generation config."""
    need_agents("convert")
    card = convert(source, out, dtype)
    kinds = ", ".join(f"{count} {kind}" for kind, count in card["tensors"].items())
    say(f"Wrote {out}: {card['parameters']:,} parameters in {dtype} ({kinds} in the source).")
    say(f"Use it: search-env bench PROTOCOL --agent model:{out}")


def convert(source: Path, out: Path, dtype: str = "fp32") -> dict[str, Any]:
    """Write a ``.gguf`` model as a folder that transformers loads, and return its card.

    The folder holds what :func:`~search_env.agents.models.save_model` writes and :data:`CARD`. It
    is there whole or not at all.

    Args:
        source: The file.
        out: A folder that does not exist yet; its parents are made.
        dtype: ``"fp32"`` keeps the dequantised numbers, ``"bf16"`` rounds them to half the size.

    Raises:
        ConfigurationError: The source is no such file, the folder exists, or the type is another.
        ModelMismatchError: transformers does not know the architecture, or would leave a part out.
        StorageError: The folder cannot be written.
        TokenizerError: The file has no tokenizer that this package reads.
    """
    check_choice("--dtype", dtype, _DTYPES)
    source, out = source.expanduser(), out.expanduser()
    _check_paths(source, out)
    from search_env.agents.learning.precision import TORCH_DTYPES
    from search_env.agents.model_files.gguf import read_header
    from search_env.agents.models import check_fits, count_ids, load_model, save_model
    from search_env.paths import atomic_folder
    from search_env.tokens.tokenizer import load_tokenizer

    header = read_header(source)
    model = load_model(source, dtype=TORCH_DTYPES[dtype])
    tokenizer = load_tokenizer(str(source.absolute()))
    check_fits(model, tokenizer.padded(max(count_ids(model), tokenizer.size)))
    numbers = sum(parameter.numel() for parameter in model.parameters())
    card = _card(source, header, dtype) | {"parameters": numbers}
    with atomic_folder(out) as new:
        save_model(model, new, tokenizer=tokenizer)
        (new / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def _check_paths(source: Path, out: Path) -> None:
    if source.suffix != ".gguf" or not source.is_file():
        got = "a folder" if source.is_dir() else "another file" if source.exists() else "no file"
        raise ConfigurationError(
            f"Expected a .gguf file at {source}, got {got}. Folders of transformers need no "
            "conversion: pass them as --model."
        )
    if out.exists():
        raise ConfigurationError(
            f"Expected a folder that does not exist, got {out}. Choose another, or remove it."
        )


def _card(source: Path, header: Header, dtype: str) -> dict[str, Any]:
    """Return what a folder was made from and by, as JSON values."""
    from gguf import GGMLQuantizationType

    from search_env.provenance import versions
    from search_env.retrieval.digests import file_digest

    kinds = Counter(GGMLQuantizationType(kind).name for _, kind, _ in header.tensors.values())
    facts = {
        name.partition(".")[2]: header.settings[name]
        for name in _LICENCES
        if isinstance(header.settings.get(name), str)
    }
    return {
        "source": source.name,
        "sha256": file_digest(source),
        "bytes": source.stat().st_size,
        "architecture": header.architecture,
        **facts,
        "tensors": dict(kinds.most_common()),
        "dtype": dtype,
        "versions": versions(_PACKAGES),
    }
