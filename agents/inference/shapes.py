"""Numbers of tokens in matrix products, rounded up where every new one costs a kernel.

On CPUs with bfloat16 products oneDNN compiles a kernel for each shape that it meets and keeps it.
Packed sequences have nearly as many lengths as there are packs: a thousand kernels a step, which
take more memory than a small model's training. Rounded, they are some hundreds in all.
"""

from __future__ import annotations

import torch

_BITS = 4  # significant bits: rounding adds at most an eighth, 4 % on average


def are_rounded(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether products on a device in a type are compiled for each shape."""
    return device.type == "cpu" and dtype == torch.bfloat16


def rounded(count: int, least: int) -> int:
    """Return the next number that is a multiple of ``least``, a power of 2, and of a coarser step.

    Example:
        >>> [rounded(count, 64) for count in (0, 1, 64, 65, 1000, 1025, 3300)]
        [0, 64, 64, 128, 1024, 1152, 3328]
    """
    step = max(least, 1 << max(0, count - 1).bit_length() >> _BITS)
    return -(-count // step) * step
