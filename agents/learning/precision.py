"""The type that a model computes in: chosen by name, or to suit the processor."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, TypeAlias

import torch

from search_env.validation import check_choice

Precision: TypeAlias = Literal["fp32", "bf16"]
"""``"fp32"``, or ``"bf16"`` with float32 master weights."""
Dtype: TypeAlias = Literal["auto", "fp32", "bf16"]
"""A :data:`Precision`, or ``"auto"`` for the one that suits the processor."""

DTYPES: tuple[Dtype, ...] = ("auto", "fp32", "bf16")
TORCH_DTYPES = MappingProxyType({"fp32": torch.float32, "bf16": torch.bfloat16})


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


def dtype_in_words(
    dtype: str, device: torch.device | str = "auto", *, resumed: bool = False
) -> str:
    """Return a resolved type for a display, and why it is this one."""
    default = resolve_dtype("auto", device)
    if dtype == default:
        products = "has" if dtype == "bf16" else "has no"
        return f"{dtype} (this processor {products} bfloat16 products)"
    if not resumed:
        return f"{dtype}, as set (the default on this processor is {default})"
    return f"{dtype}, as the run began (a new run on this processor uses {default})"
