"""Check the promises of a plain ``pip install search-env``: light imports, a search in a moment.

Run it with a Python that has only the core dependencies:
``python scripts/check_core.py``. It prints what it measured and fails on a broken promise.
"""

from __future__ import annotations

import sys
import time

FORBIDDEN = ("torch", "transformers", "stable_baselines3", "numba")
IMPORT_LIMIT = 0.3
READY_LIMIT = 1.5


def main() -> None:
    """Import, make, reset, search; compare with the limits."""
    import gymnasium as gym
    import numpy as np

    start = time.perf_counter()
    import search_env

    imported = time.perf_counter() - start
    start = time.perf_counter()
    env = gym.make("SearchQA-v0")
    env.reset(seed=0)
    plain = env.unwrapped
    assert isinstance(plain, search_env.SearchQAEnv)
    question = plain.transcript().question
    query = plain.protocol.pair(search_env.TagRole.TOOL)
    text = f"{query.open}{question.text}{query.close}"
    info: dict[str, object] = {}
    for token in plain.tokenizer.encode(text):
        *_, info = env.step(int(np.int64(token)))
    ready = time.perf_counter() - start
    loaded = [name for name in FORBIDDEN if name in sys.modules]
    print(
        f"import {imported:.3f} s (limit {IMPORT_LIMIT}), first search {ready:.3f} s "
        f"(limit {READY_LIMIT}), documents {info.get('document_ids')}"
    )
    if imported > IMPORT_LIMIT or ready > READY_LIMIT or loaded or not info.get("document_ids"):
        sys.exit(f"Expected limits kept, a document found and none of {FORBIDDEN}; got {loaded}.")


if __name__ == "__main__":
    main()
