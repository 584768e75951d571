"""How much work a call does, counted: the same on an idle machine and on a busy one.

No test compares seconds. Where one waits for another thread, it waits for ``HANGS_AFTER``: whether
it passes depends on what the thread does, and a failure ends after a while.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

HANGS_AFTER = 600.0
"""Seconds after which a thread that is waited for counts as hanging."""


def count_calls(work: Callable[[], Any]) -> int:
    """Return how many functions are called, of Python and of C, while `work` runs."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    gc.collect()
    gc.disable()  # finalizers of what other tests left behind would be counted
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls


def peak_bytes(work: Callable[[], Any]) -> int:
    """Return how many bytes `work` holds at most, numpy's arrays included."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
