"""Follow one token through the package: ``python scripts/walk.py``.

Five walks, each with the files of this package whose functions run in it, in the order in which
they are entered first. ``docs/architecture.md`` tells the same in words.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym

import search_env
from search_env import SearchQAEnv, TagRole

ROOT = Path(search_env.__file__).parent


def files_run(function: Callable[[], object]) -> list[str]:
    """Return the files of the package whose functions run in a call, in order of entry."""
    entered: dict[str, None] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and frame.f_code.co_name != "<module>" and path.is_relative_to(ROOT):
            entered.setdefault(str(path.relative_to(ROOT)))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return list(entered)


def write(env: SearchQAEnv, text: str) -> Iterator[Callable[[], object]]:
    """Yield the step of each token of a text."""
    for token in env.tokenizer.encode(text).tolist():
        yield lambda token=token: env.step(token)


def last_step(env: SearchQAEnv, role: TagRole, text: str) -> list[str]:
    """Return the files of the step that closes a tag."""
    pair = env.protocol.pair(role)
    *before, last = write(env, f"{pair.open} {text} {pair.close}")
    for step in before:
        step()
    return files_run(last)


def environment_walks() -> Iterator[tuple[str, list[str]]]:
    """Yield the walks of a plain token, of a query and of an answer."""
    env = gym.make("SearchQA-v0").unwrapped
    assert isinstance(env, SearchQAEnv)
    env.reset(seed=0)
    env.step(5)
    yield "a plain token", files_run(lambda: env.step(5))
    yield "a token that closes a query", last_step(env, TagRole.TOOL, "capital of Paspogia")
    yield "a token that closes the answer", last_step(env, TagRole.ANSWER, "Paspogia")


def prompt_walk() -> list[str]:
    """Return the files between a file of questions and the prompt in an observation."""
    with tempfile.TemporaryDirectory() as folder:
        questions, corpus = Path(folder, "questions.jsonl"), Path(folder, "corpus.jsonl")
        row: dict[str, Any] = {"id": "1", "question": "Where is Ulm?", "answers": ["Germany"]}
        questions.write_text(json.dumps(row) + "\n", "utf-8")
        row = {"id": "d", "title": "Ulm", "text": "Ulm is a city in Germany."}
        corpus.write_text(json.dumps(row) + "\n", "utf-8")

        def begin() -> None:
            env = SearchQAEnv(dataset=str(questions), corpus=str(corpus))
            env.reset(seed=0)

        return files_run(begin)


def gradient_walk() -> list[str]:
    """Return the files between a trajectory and the gradient that it gives."""
    from search_env.agents.algorithms.config import Algorithm
    from search_env.agents.inference.engine import Engine
    from search_env.agents.learning.learner import Learner
    from search_env.agents.learning.optimizers import OptimizerConfig
    from search_env.agents.learning.update import update
    from search_env.agents.models import load_model
    from search_env.agents.rollouts.collect import collect, make_envs

    model = load_model("tiny-base")
    envs = make_envs("SearchQA-v0", num_envs=2, vocabulary=1024, options={"max_tokens": 512})
    engine = Engine(model, rows=2, max_tokens=512)
    episodes = collect(envs, engine, [0], group_size=2, seed=0).trajectories
    learner = Learner(model, OptimizerConfig(learning_rate=1e-6))
    algorithm = Algorithm(prompts=1, group_size=2)
    return files_run(lambda: update(learner, episodes, algorithm))


def main() -> None:
    """Print the walks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--no-torch", action="store_true", help="leave out the walk to a gradient")
    args = parser.parse_args()
    walks = [*environment_walks(), ("a question file to a prompt", prompt_walk())]
    if not args.no_torch:
        walks.append(("a trajectory to a gradient", gradient_walk()))
    for name, files in walks:
        print(f"{name}: {len(files)} files")
        print("".join(f"  {file}\n" for file in files), end="")


if __name__ == "__main__":
    main()
