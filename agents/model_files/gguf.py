"""Models in single ``.gguf`` files, the format of llama.cpp, which transformers dequantises.

transformers reads what it knows and leaves out the rest without a word. The header is therefore
read here first: a file that is split, cut off, or has settings or weights that would be left out
is refused.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from search_env.agents.errors import ModelMismatchError
from search_env.errors import ConfigurationError

# Formats of the metadata's types by their numbers; 8 is a string, 9 an array.
_FORMATS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?"))) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ROPE = "rope_freqs.weight"
# Llama 3.1's rule for these (meta-llama/llama-models: models/llama3/model.py, apply_scaling).
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_LENGTH = 8192


@dataclass(frozen=True)
class Header:
    """What the header of a file says.

    Attributes:
        settings: Numbers and texts of the metadata by name; arrays are left out.
        tensors: The shape of each tensor, its type's number, and its place in the data.
        data: Where the data begin.
    """

    settings: Mapping[str, Any]
    tensors: Mapping[str, tuple[tuple[int, ...], int, int]]
    data: int

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.settings.get("general.architecture"))


class _Reader:
    """Reads little-endian values and refuses lengths beyond the end of the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def value(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.file.read(struct.calcsize(f"<{form}")))[0]

    def count(self, width: int = 1) -> int:
        """Read the number of things of at least this many bytes."""
        number = int(self.value("Q"))
        if number * width > self.size - self.file.tell():
            raise ValueError(f"a length of {number} beyond its end")
        return number

    def text(self) -> str:
        return self.file.read(self.count()).decode("utf-8", "replace")

    def setting(self, kind: int) -> Any:
        """Read a value of the metadata; of an array, nothing but its end."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.value(_FORMATS[kind])
        kind = self.value("I")
        if kind in _FORMATS:
            width = struct.calcsize(_FORMATS[kind])
            self.file.seek(self.count(width) * width, io.SEEK_CUR)
            return None
        for _ in range(self.count(8)):
            self.setting(kind)
        return None


def read_header(path: Path) -> Header:
    """Return the header of a ``.gguf`` file.

    Raises:
        ConfigurationError: It is no such file, it is damaged, or not whole.
    """
    try:
        with path.open("rb") as file:
            reader = _Reader(file, path.stat().st_size)
            if file.read(4) != b"GGUF":
                raise ValueError("other bytes at its beginning")
            version = reader.value("I")
            if version not in (2, 3):
                raise ValueError(f"version {version}, or the other byte order")
            count, settings_count = reader.count(), reader.count()
            settings = {
                reader.text(): reader.setting(reader.value("I")) for _ in range(settings_count)
            }
            tensors = {}
            for _ in range(count):
                name = reader.text()
                shape = tuple(reader.value("Q") for _ in range(reader.value("I")))
                tensors[name] = shape, reader.value("I"), reader.value("Q")
            alignment = settings.get("general.alignment", 32)
            header = Header(settings, tensors, -(-file.tell() // alignment) * alignment)
            _check_whole(header, reader.size)
    except (OSError, ValueError, KeyError, struct.error, RecursionError, ArithmeticError) as error:
        raise ConfigurationError(
            f"Expected {path} to be a whole GGUF file, got {error or type(error).__name__}. "
            "Download it again and compare its size and checksum."
        ) from error
    return header


def _check_whole(header: Header, size: int) -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if header.settings.get("split.count", 1) > 1:
        return
    for name, (shape, kind, place) in header.tensors.items():
        block, width = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        end = header.data + place + math.prod(shape) // block * width
        if end > size:
            raise ValueError(f"{size} bytes, while {name} ends at {end}")


def load_gguf(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of a file in the given type, dequantised.

    Raises:
        ConfigurationError: The package ``gguf`` is missing, or the file is split or damaged.
        ModelMismatchError: transformers does not know its architecture, or would leave a part out.
    """
    try:
        import gguf  # noqa: F401 - transformers reads the weights with it
    except ImportError as error:
        raise ConfigurationError(
            f"Expected the package gguf to read {path}, got no such package. Run: "
            'pip install "search-env[gguf]"'
        ) from error
    header = read_header(path)
    _check_supported(path, header)
    loaded: Any
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that has no switch
            loaded = AutoModelForCausalLM.from_pretrained(
                str(path.parent),
                gguf_file=path.name,
                dtype=dtype,
                output_loading_info=True,
                **_dequantised(),
            )
    except Exception as error:  # of several kinds, by what the file has
        raise ModelMismatchError(
            f"Expected transformers to read {path} ({header.architecture}), got "
            f"{type(error).__name__}: {error} Pass the original model's folder or hub id."
        ) from error
    model: Any
    model, report = loaded
    _check_complete(path, header, model, report)
    _scale_rotary(path, header, model)
    # The weights are not quantised any more, and where they are from is the file.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.name_or_path = model.config.name_or_path = str(path)
    return cast(PreTrainedModel, model)


def _dequantised() -> dict[str, Any]:
    """Return the option that keeps newer versions of transformers from leaving weights packed."""
    try:
        from transformers import GgufConfig
    except ImportError:  # older ones always dequantise
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _check_supported(path: Path, header: Header) -> None:
    parts = header.settings.get("split.count", 1)
    if parts > 1:
        raise ConfigurationError(
            f"Expected a model in one file, got {path}, one of {parts} parts. Join them: "
            f"llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf"
        )
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = {name.replace("-", "").replace("_", "") for name in GGUF_SUPPORTED_ARCHITECTURES}
    if header.architecture.replace("-", "").replace("_", "") not in known:
        raise ModelMismatchError(
            f"Expected an architecture that transformers reads from GGUF files, got "
            f"{header.architecture!r} in {path}. Pass the original model's folder or hub id."
        )
    scaling = header.settings.get(f"{header.architecture}.rope.scaling.type", "none")
    if scaling != "none" and header.architecture != "gpt-oss":
        raise ModelMismatchError(
            f"Expected plain rotary positions, got scaling {scaling!r} in {path}, which "
            "transformers leaves out. Pass the original model's folder or hub id."
        )


def _check_complete(
    path: Path, header: Header, model: PreTrainedModel, report: Mapping[str, Any]
) -> None:
    """Check that every number of the file is in the model, and the other way round."""
    shapes = {name: shape for name, (shape, *_) in header.tensors.items() if name != _ROPE}
    numbers = sum(map(math.prod, shapes.values()))
    expected = sum(parameter.numel() for parameter in model.parameters())
    problems = [f"{kind}: {', '.join(map(str, names))}" for kind, names in report.items() if names]
    if problems or numbers != expected:
        raise ModelMismatchError(
            f"Expected the {expected} weights of {type(model).__name__} in {path}, got {numbers} "
            f"({'; '.join(problems) or 'transformers leaves some out'}). Pass the original "
            "model's folder or hub id."
        )


def _scale_rotary(path: Path, header: Header, model: PreTrainedModel) -> None:
    """Set Llama 3.1's scaling of rotary frequencies, which such a file has as a tensor only.

    transformers leaves the tensor out. Other divisors than those of that rule are refused.
    """
    if _ROPE not in header.tensors:
        return
    (count,), kind, place = header.tensors[_ROPE]
    with path.open("rb") as file:
        file.seek(header.data + place)
        stored = torch.frombuffer(bytearray(file.read(4 * count)), dtype=torch.float32)
    config: Any = model.config
    theta = config.rope_parameters["rope_theta"]
    parameters = {**_LLAMA3, "factor": float(stored.max()), "rope_theta": theta}
    parameters |= {"rope_type": "llama3", "original_max_position_embeddings": _LLAMA3_LENGTH}
    if kind != 0 or not torch.allclose(stored, _llama3_divisors(parameters, count), rtol=1e-3):
        raise ModelMismatchError(
            f"Expected rotary frequencies as in Llama 3.1, got other divisors in {path}, which "
            "transformers leaves out. Pass the original model's folder or hub id."
        )
    config.rope_parameters = parameters
    base: Any = model.base_model
    base.rotary_emb = type(base.rotary_emb)(config=config)


def _llama3_divisors(parameters: Mapping[str, Any], count: int) -> Tensor:
    """Return what frequencies are divided by, float32 ``(count,)``."""
    exponents = torch.arange(count, dtype=torch.float64) / count
    wavelengths = 2 * math.pi * parameters["rope_theta"] ** exponents
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    turns = parameters["original_max_position_embeddings"] / wavelengths
    smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    divisors: Tensor = 1.0 / ((1.0 - smooth) / parameters["factor"] + smooth)
    return divisors.float()
