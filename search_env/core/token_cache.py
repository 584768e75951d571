"""Ids of texts that were encoded before, within a number of bytes."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable

from search_env.types import TokenIds

_ENTRY = 256  # bytes that an entry takes beside its texts and ids


class TokenCache:
    """A function from texts to ids that keeps the latest results, for several threads.

    Args:
        encode: The function.
        max_bytes: What texts and ids may take together. A result that takes more than a quarter of
            it is not kept.

    Example:
        >>> import numpy as np
        >>> cache = TokenCache(lambda text: np.frombuffer(text.encode(), np.int8), 4000)
        >>> cache("ab") is cache("ab"), cache("a" * 999) is cache("a" * 999)
        (True, False)
    """

    def __init__(self, encode: Callable[..., TokenIds], max_bytes: int) -> None:
        self._encode, self._max_bytes = encode, max_bytes
        self._results: OrderedDict[tuple[str, ...], TokenIds] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, *texts: str) -> TokenIds:
        """Return the ids of the texts."""
        with self._lock:
            ids = self._results.get(texts)
            if ids is not None:
                self._results.move_to_end(texts)
                return ids
        ids = self._encode(*texts)
        size = _size(texts, ids)
        if size <= self._max_bytes // 4:
            with self._lock:
                if texts not in self._results:
                    self._results[texts] = ids
                    self._bytes += size
                while self._bytes > self._max_bytes:
                    self._bytes -= _size(*self._results.popitem(last=False))
        return ids


def _size(texts: tuple[str, ...], ids: TokenIds) -> int:
    return _ENTRY + sum(map(sys.getsizeof, texts)) + ids.nbytes
