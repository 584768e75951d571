"""Check the promises of a plain ``pip install search-env``: light imports, a search in a moment.

Run it with a Python that has only the core dependencies:
``python scripts/check_core.py``. It prints the seconds that it took and fails on a broken promise.
A promise is of CPU seconds on an idle machine, with room for a slower one: what else runs is not
counted, though it makes these seconds longer too.
"""

from __future__ import annotations

import sys
import time

FORBIDDEN = ("torch", "transformers", "stable_baselines3", "numba")
IMPORT_LIMIT = 0.3  # CPU seconds
READY_LIMIT = 1.5
ROOM = 4.0  # a busy or slow machine takes this many times as long, and no more


def main() -> None:
    """Import, make, reset, search; compare with the limits."""
    import gymnasium as gym
    import numpy as np

    start = time.process_time()
    import search_env

    imported = time.process_time() - start
    start = time.process_time()
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
    ready = time.process_time() - start
    loaded = [name for name in FORBIDDEN if name in sys.modules]
    print(
        f"import {imported:.3f} CPU s (promised {IMPORT_LIMIT}), first search {ready:.3f} CPU s "
        f"(promised {READY_LIMIT}), documents {info.get('document_ids')}"
    )
    slow = imported > ROOM * IMPORT_LIMIT or ready > ROOM * READY_LIMIT
    if slow or loaded or not info.get("document_ids"):
        sys.exit(
            f"Expected at most {ROOM:g} times the promised seconds, a document found and none of "
            f"{FORBIDDEN}; got {loaded}."
        )


if __name__ == "__main__":
    main()
