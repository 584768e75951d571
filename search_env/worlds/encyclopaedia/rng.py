"""Counter-based random numbers: a value is a hash of its place of use, not of earlier draws.

Any value of the world can therefore be computed alone, for one index or for an array of them, and
is the same on every platform, Python and NumPy version: all arithmetic is on 64-bit integers. The
mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014). Not for cryptography.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
Item = TypeVar("Item")

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15


@overload
def mix(x: int) -> int: ...
@overload
def mix(x: Bits) -> Bits: ...
def mix(x: Any) -> Any:
    """Return 64 well-mixed bits of ``x``: an int, or elementwise an array of uint64."""
    # The masks keep Python's integers at 64 bits; arrays of uint64 wrap.
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK
    return x ^ (x >> 31)


@overload
def below(bits: int, n: int) -> int: ...
@overload
def below(bits: Bits, n: int) -> Bits: ...
def below(bits: Any, n: int) -> Any:
    """Map 64 random bits to ``0 .. n - 1``, for ``1 <= n < 2**32``, by their upper half."""
    return ((bits >> 32) * n) >> 32


def key(*parts: int | str) -> int:
    """Return the 64-bit key of one use of randomness."""
    data = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def stream(start: int, count: int) -> Bits:
    """Return the random bits, uint64 ``(count,)``, of counters ``0 .. count - 1`` under one key."""
    return mix(np.arange(count, dtype=np.uint64) + np.uint64(start))


class Draws:
    """A sequence of draws from a key; equal keys give equal draws."""

    __slots__ = ("_state",)

    def __init__(self, start: int) -> None:
        self._state = start

    def bits(self) -> int:
        """Return the next 64 random bits."""
        out = mix(self._state)
        self._state = (self._state + _GOLDEN) & _MASK
        return out

    def below(self, n: int) -> int:
        """Return an integer of ``0 .. n - 1``."""
        return below(self.bits(), n)

    def chance(self, percent: int) -> bool:
        """Return True in ``percent`` of 100 cases."""
        return self.below(100) < percent

    def choice(self, items: Sequence[Item]) -> Item:
        """Return one of the items."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """Return the items in random order (Fisher and Yates)."""
        out = list(items)
        for last in range(len(out) - 1, 0, -1):
            other = self.below(last + 1)
            out[last], out[other] = out[other], out[last]
        return out

    def jittered(self, items: Sequence[Item]) -> list[Item]:
        """Return the items in a slightly varied order: each moves by at most two places."""
        places = [2 * place + self.below(5) for place in range(len(items))]
        return [items[place] for place in sorted(range(len(items)), key=places.__getitem__)]
