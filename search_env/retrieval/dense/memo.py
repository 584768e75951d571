"""Recent results by key, computed together for the keys that are missing.

A model's output for a text may differ in the last bit with the size of the batch that it came in.
What is remembered does not: within a process, the same query finds the same documents, and groups
of rollouts that ask the same again do not wait for the model.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memo(Generic[K, V]):
    """The values of the last ``capacity`` keys; of two that are computed at once the first counts.

    Safe to use from several threads.

    Example:
        >>> memo = Memo(capacity=2)
        >>> memo.get(["a", "bb", "a"], lambda keys: [len(key) for key in keys])
        [1, 2, 1]
        >>> memo.get(["a", "ccc"], lambda keys: [len(key) for key in keys if print(keys) is None])
        ['ccc']
        [1, 3]
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, keys: Sequence[K], compute: Callable[[list[K]], Sequence[V]]) -> list[V]:
        """Return the value of each key; ``compute`` is called once, with the unknown ones."""
        known: dict[K, V] = {}
        with self._lock:
            for key in keys:
                if key in self._values:
                    self._values.move_to_end(key)
                    known[key] = self._values[key]
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        if missing:
            values = compute(missing)
            with self._lock:
                for key, value in zip(missing, values, strict=True):
                    known[key] = self._values.setdefault(key, value)
                while len(self._values) > self.capacity:
                    self._values.popitem(last=False)
        return [known[key] for key in keys]
