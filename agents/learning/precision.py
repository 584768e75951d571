"""The type that a model computes in: chosen by name, or to suit the processor."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from search_env.validation import check_choice

Precision: TypeAlias = Literal["fp32", "bf16"]
"""``"fp32"``, or ``"bf16"`` with float32 master weights."""
Dtype: TypeAlias = Literal["auto", "fp32", "bf16"]
"""A :data:`Precision`, or ``"auto"`` for the one that suits the processor."""

DTYPES: tuple[Dtype, ...] = ("auto", "fp32", "bf16")


def resolve_dtype(dtype: str, device: torch.device | str = "auto") -> Precision:
    """Return the type to compute in on a device; ``"auto"`` is the GPU where there is one.

    The dtype ``"auto"`` is ``"bf16"`` on processors with bfloat16 products: CPUs with AMX or
    AVX-512 (oneDNN decides) and GPUs since Ampere. It is ``"fp32"`` on all others, where a step in
    bfloat16 takes up to ten times as long as in float32. Others raise ConfigurationError.
    """
    check_choice("dtype", dtype, DTYPES)
    if dtype != "auto":
        return "bf16" if dtype == "bf16" else "fp32"
    kind = torch.device(device).type if device != "auto" else ""
    if kind == "cuda" or (not kind and torch.cuda.is_available()):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        fast = kind in ("", "cpu") and has_onednn
        fast = fast and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if fast else "fp32"


def dtype_in_words(dtype: str, device: torch.device | str, *, resumed: bool) -> str:
    """Return a run's type for its description; of a resumed run also why it is not the default."""
    default = resolve_dtype("auto", device)
    if not resumed or dtype == default:
        return dtype
    return f"{dtype}, as the run began (a new run on this processor uses {default})"
