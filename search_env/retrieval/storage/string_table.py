"""Many strings as one UTF-8 buffer and its offsets: quick to memory-map, small in memory.

A list of a million Python strings costs some 50 bytes a string beside the text and is rebuilt on
every load; this table costs 8 and is ready as soon as its two arrays are mapped.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# JSON files, hence passages, may contain lone surrogates, which must survive the round trip.
_ENCODING = "utf-8", "surrogatepass"


class StringTable:
    """A read-only sequence of strings; string ``i`` is ``blob[offsets[i]:offsets[i + 1]]``.

    The blob is uint8 ``(B,)``, all strings' UTF-8 bytes; the offsets are int64 ``(len + 1,)``.
    """

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.blob = blob
        self.offsets = offsets
        # Memoryviews are faster to index and slice than arrays.
        self._blob = blob.data
        self._offsets = offsets.data

    @classmethod
    def from_strings(cls, strings: Iterable[str]) -> StringTable:
        """Build the table from strings, of which only the bytes are kept."""
        blob, offsets = bytearray(), array("q", [0])
        for string in strings:
            blob += string.encode(*_ENCODING)
            offsets.append(len(blob))
        return cls(np.frombuffer(blob, np.uint8), np.frombuffer(offsets, np.int64))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        return str(self._blob[self._offsets[index] : self._offsets[index + 1]], *_ENCODING)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.blob, self.offsets)

    def find(self, string: str) -> int | None:
        """Return the index of ``string`` in a table sorted by code point, None where it is missing.

        Example:
            >>> StringTable.from_strings(["ape", "bee", "cat"]).find("bee")
            1
        """
        index = bisect_left(range(len(self)), string, key=self.__getitem__)
        return index if index < len(self) and self[index] == string else None
