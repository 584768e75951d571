"""The type that a model computes in: chosen by name, or by what the processor multiplies fast."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from search_env.validation import check_choice

Precision: TypeAlias = Literal["fp32", "bf16"]
"""``"fp32"``, or ``"bf16"`` with float32 master weights."""
Dtype: TypeAlias = Literal["auto", "fp32", "bf16"]
"""A :data:`Precision`, or the one that suits the processor."""

DTYPES: tuple[Dtype, ...] = ("auto", "fp32", "bf16")


def resolve_dtype(dtype: str, device: torch.device | str = "auto") -> Precision:
    """Return the type to compute in.

    ``"auto"`` is ``"bf16"`` where the processor has products of bfloat16: on CPUs AMX or AVX-512,
    as oneDNN judges, on GPUs those since Ampere. A CPU without them takes up to ten times as long
    for a step in bfloat16 as in float32, so everywhere else it is ``"fp32"``.

    Args:
        dtype: One of :data:`DTYPES`.
        device: Where it is computed; ``"auto"`` is the GPU where there is one.

    Raises:
        ConfigurationError: Another dtype.
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
    """Return what a run's description says of its type: for a resumed one also why it is that."""
    here = resolve_dtype("auto", device)
    if not resumed or dtype == here:
        return dtype
    return f"{dtype}, as the run began (a new run on this processor takes {here})"
