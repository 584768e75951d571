"""Make the bundled base model: a tiny reader that seldom searches.

    python scripts/train_tiny_base.py --out runs/base
    torchrun --nproc-per-node 2 scripts/train_tiny_base.py --base runs/base --out runs/base-2

Two rounds of supervised stages on procedural worlds that nobody trains or tests on, in each one
learning rate that falls over all of it. The first is a ladder: copy spans of random ids; read one
article and answer on it; read what a search found; play episodes. The second mixes what is hardest.
Episodes teach how to search by oracles whose decisions between searching and answering do not
count, and whether to search by people in a hurry, who seldom do. The seed is fixed; the same
machine, versions, threads and processes give the same weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from rich.progress import Progress
from transformers import PreTrainedModel

import search_env
from agents.demonstrations import (
    copying_examples,
    hasty_example,
    oracle_example,
    reading_examples,
    thinking_example,
)
from agents.distributed import Ranks, joined
from agents.learner import Learner, OptimizerConfig
from agents.logs import Silent
from agents.models import save_model, tiny_config, untrained
from agents.supervised import SupervisedConfig, fit, measure
from agents.trajectories import Example
from search_env.datasets.world import World

SEED = 9001
ARTICLES = 1000
LOOKUPS = 4400  # about all that a world of that size has
HELD_OUT = 64
SEARCH_RATE, GO_ON_RATE = 0.2, 0.4
PROTOCOLS = ("r1-searcher", "r1-searcher", "r1-searcher", "search-r1")


class Stage(NamedTuple):
    """Updates, tokens an update; worlds, examples of each kind in each, documents shown."""

    name: str
    updates: int
    tokens: int
    worlds: int
    cards: int
    thoughts: int = 0
    episodes: int = 0
    documents: int = 1


STAGES = (
    Stage("copying", 400, 2048, 1, 6400),
    Stage("reading and thinking", 1200, 2048, 16, 300, 200),
    Stage("one document", 900, 4096, 18, 200, 100, 100),
    Stage("three documents", 900, 8192, 18, 300, 100, 90, 3),
    Stage("three documents, slower", 900, 8192, 18, 300, 100, 90, 3),
)
LEARNING_RATE = 4e-3


def examples_of(stage: Stage, world: int) -> Iterator[Example]:
    """Yield the examples of a stage that come from one world."""
    random = np.random.default_rng([SEED, world])
    if stage.name == "copying":
        yield from copying_examples(random, stage.cards, length=128, vocabulary=1024)
        return
    env = gym.make(
        "SearchQA-v0",
        protocol=PROTOCOLS[world % len(PROTOCOLS)],
        top_k=stage.documents,
        dataset_options={
            "articles": ARTICLES,
            "questions": max(stage.thoughts, stage.episodes),
            "seed": SEED + world,
            "hops": [1, 2, 3, 4],
        },
    ).unwrapped
    assert isinstance(env, search_env.SearchQAEnv)
    lookups = World(ARTICLES, SEED + world).questions(LOOKUPS, hops=(1,), kinds=["lookup"])
    cards = reading_examples(env, lookups, random, stage.documents)
    yield from itertools.islice(cards, stage.cards)
    for index in range(stage.thoughts):
        yield thinking_example(env, index)
    for index in range(stage.episodes):
        yield oracle_example(env, index, decisions=False)
        yield hasty_example(env, index, random, search_rate=SEARCH_RATE, go_on_rate=GO_ON_RATE)


class Bar(Silent):
    """Shows the progress of a round."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._task = progress, progress.add_task("", total=total)

    def step(self, step, metrics, samples) -> None:  # noqa: ANN001
        """Move on."""
        loss = f"loss {metrics['loss']:.3f}"
        self._progress.update(self._task, completed=step, description=loss)


def train(model: PreTrainedModel, out: Path, ranks: Ranks) -> None:
    """Run all stages; write the model, and what it is worth on held-out examples, after each."""
    total, start = sum(stage.updates for stage in STAGES), time.perf_counter()
    optimizer = OptimizerConfig(
        learning_rate=LEARNING_RATE,
        weight_decay=0.01,
        warmup_steps=100,
        schedule="linear",
        floor=0.02,
        total_steps=total,
        optimizer="muon",
    )
    learner = Learner(model, optimizer, dtype="bf16", ranks=ranks)
    log = []
    with Progress(disable=not ranks.is_main) as progress:
        bar = Bar(progress, total)
        for number, stage in enumerate(STAGES):
            worlds = range(100 * number, 100 * number + stage.worlds)  # none comes twice
            examples = [example for world in worlds for example in examples_of(stage, world)]
            held_out = list(examples_of(stage, 9000 + number))[-HELD_OUT:]
            until = learner.updates + stage.updates
            fit(learner, examples, SupervisedConfig(until, stage.tokens, SEED), observer=bar)
            minutes = (time.perf_counter() - start) / 60
            log.append({**stage._asdict(), "minutes": minutes, **measure(learner, held_out)})
            if ranks.is_main:
                progress.console.print(json.dumps(log[-1]))
                save_model(learner.model, out)
    if ranks.is_main:
        (out / "training.json").write_text(json.dumps(log, indent=1) + "\n")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with joined() as ranks:
        train(untrained(tiny_config(), SEED), arguments.out, ranks)


if __name__ == "__main__":
    main()
