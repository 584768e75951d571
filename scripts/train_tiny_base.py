"""Make the bundled base model: a tiny reader that seldom searches.

    python scripts/train_tiny_base.py --out agents/assets/tiny-base

A ladder of supervised stages on procedural worlds that nobody trains or tests on, one learning rate
that falls over all of them: copy spans of random ids; read one article and answer on it; read what
a search found; play episodes. Episodes teach how to search by oracles whose decisions between
searching and answering do not count, and whether to search by people in a hurry, who seldom do.
The seed is fixed; the same machine, versions and number of threads give the same weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from rich.progress import Progress
from transformers import Qwen2Config, Qwen2ForCausalLM

import search_env
from agents.demonstrations import (
    copying_examples,
    hasty_example,
    oracle_example,
    reading_examples,
)
from agents.learner import Learner, OptimizerConfig
from agents.logs import Silent
from agents.supervised import SupervisedConfig, fit, measure
from agents.trajectories import Example
from search_env.datasets.world import World

SEED = 9001
ARTICLES = 1000
LOOKUPS = 4400  # about all that a world of that size has
HELD_OUT = 64
SEARCH_RATE, GO_ON_RATE = 0.2, 0.4
PROTOCOLS = ("r1-searcher", "r1-searcher", "r1-searcher", "search-r1")
# Name, updates, tokens an update, worlds, examples a world, documents shown.
STAGES = (
    ("copying", 400, 2048, 1, 6400, 0),
    ("reading-1", 1400, 2048, 24, 600, 1),
    ("reading-3", 300, 3072, 16, 100, 3),
    ("episodes-1", 1600, 3072, 40, 280, 1),
    ("episodes-3", 800, 6144, 40, 140, 3),
)


def examples_of(stage: str, world: int, count: int, documents: int) -> Iterator[Example]:
    """Yield the examples of a stage that come from one world."""
    random = np.random.default_rng([SEED, world])
    if stage == "copying":
        yield from copying_examples(random, count, length=128, vocabulary=1024)
        return
    options = {"articles": ARTICLES, "questions": max(count // 2, 1), "seed": SEED + world}
    env = gym.make(
        "SearchQA-v0",
        protocol=PROTOCOLS[world % len(PROTOCOLS)],
        top_k=documents,
        dataset_options=options,
    ).unwrapped
    assert isinstance(env, search_env.SearchQAEnv)
    if stage.startswith("reading"):
        lookups = World(ARTICLES, SEED + world).questions(LOOKUPS, hops=(1,), kinds=["lookup"])
        yield from itertools.islice(reading_examples(env, lookups, random, documents), count)
        return
    for index in range(len(env.questions)):
        yield oracle_example(env, index, decisions=False)
        yield hasty_example(env, index, random, search_rate=SEARCH_RATE, go_on_rate=GO_ON_RATE)


def untrained() -> Qwen2ForCausalLM:
    """Return the model with heads in its first layer that look one, two and three tokens back.

    Position differences are all that a rotary product of two constant vectors depends on, and
    biases are constant vectors. Copying needs such heads; found by training, they cost more than
    all the rest.
    """
    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=384,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = Qwen2ForCausalLM(config)
    attention = model.model.layers[0].self_attn
    size = config.hidden_size // config.num_attention_heads
    pairs = 5  # of the highest frequencies, which tell neighbours apart
    angles = 10000.0 ** (-torch.arange(pairs) * 2 / size)
    with torch.no_grad():
        for head, back in enumerate((1, 2, 3)):
            query, key = torch.zeros(size), torch.zeros(size)
            query[:pairs] = 5.0
            key[:pairs] = 5.0 * torch.cos(back * angles)
            key[size // 2 : size // 2 + pairs] = 5.0 * torch.sin(back * angles)
            attention.q_proj.bias[head * size : (head + 1) * size] = query
            attention.k_proj.bias[head * size : (head + 1) * size] = key
    return model


class Bar(Silent):
    """Shows the progress of the stages."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=sum(stage[1] for stage in STAGES))

    def step(self, step, metrics, samples) -> None:  # noqa: ANN001
        """Move on."""
        loss = f"loss {metrics['loss']:.3f}"
        self._progress.update(self._task, completed=step, description=loss)


def save(learner: Learner, folder: Path) -> None:
    """Write weights in bfloat16, as they are computed with, and the configuration."""
    learner.model.save_pretrained(folder)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="Multiplies updates, for trials.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scale, start = arguments.scale, time.perf_counter()
    total = int(sum(stage[1] for stage in STAGES) * scale)
    optimizer = OptimizerConfig(
        learning_rate=4e-3,
        weight_decay=0.01,
        warmup_steps=100,
        schedule="linear",
        floor=0.02,
        total_steps=total,
        optimizer="muon",
    )
    learner = Learner(untrained(), optimizer, dtype="bf16")
    log = []
    with Progress() as progress:
        bar = Bar(progress)
        for number, (name, steps, tokens, worlds, count, documents) in enumerate(STAGES):
            examples = [
                example
                for world in range(worlds)
                for example in examples_of(name, 100 * number + world, count, documents)
            ]
            held_out = list(
                itertools.islice(examples_of(name, 9000 + number, HELD_OUT, documents), HELD_OUT)
            )
            until = learner.updates + int(steps * scale)
            fit(learner, examples, SupervisedConfig(until, tokens, SEED), observer=bar)
            log.append({"stage": name, "updates": learner.updates, **measure(learner, held_out)})
            log[-1]["minutes"] = (time.perf_counter() - start) / 60
            progress.console.print(json.dumps(log[-1]))
            save(learner, arguments.out)
    (arguments.out / "training.json").write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
