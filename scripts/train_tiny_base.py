"""Make the bundled base model: a tiny reader that seldom searches.

    torchrun --nproc-per-node 2 scripts/train_tiny_base.py --out runs/base

It climbs the ladder of :mod:`search_env.agents.imitation.base_model_stages` in procedural worlds
that nobody trains or tests on, in two rounds, each with a learning rate that falls over all of it.
In the second, tags count in full, for what is right nearly always is not good enough where a
hundred tokens are drawn; and thoughts say after each search which steps are left, so that when to
stop can be read there. A run that was broken off goes on after its last whole round. The seed is
fixed; the same machine, versions, threads and processes give the same weights. Once they are in
``agents/assets``, run ``scripts/play_base_test.py``, whose file the default run's report reads.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from transformers import PreTrainedModel

from search_env.agents.imitation.base_model_stages import BaseModelStage, stage_examples
from search_env.agents.imitation.sft import SupervisedConfig, fit, measure
from search_env.agents.learning.distributed import Ranks, init_process_group
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.models import load_model, save_model, tiny_config, untrained
from search_env.agents.reporting.logs import Silent
from search_env.tokens.tokenizer import load_tokenizer

SEED = 9001
ARTICLES = 1000
_early = partial(BaseModelStage, recounts=False)
_three = partial(
    _early, updates=900, tokens=8192, worlds=18, cards=300, thoughts=100, episodes=90, documents=3
)
CLIMB = (
    _early("copying", 400, 2048, worlds=1, copies=6400),
    _early("reading and thinking", 1200, 2048, worlds=16, cards=300, thoughts=200),
    _early("one document", 900, 4096, worlds=18, cards=200, thoughts=100, episodes=100),
    _three("three documents"),
    _three("three documents, slower"),
)
_whole = partial(
    BaseModelStage,
    updates=1500,
    tokens=8192,
    worlds=20,
    documents=3,
    tags=1.0,
    guesses=0.5,
    decisions="later",
    search_rate=0.22,
    think_on_rate=0.4,
)
ROUNDS = (
    (4e-3, CLIMB),
    (1.5e-3, (_whole("every token", cards=240, thoughts=250, branched=500, episodes=100),)),
    (1.5e-3, (_whole("every token, again", cards=120, thoughts=300, branched=400, episodes=160),)),
)


class Bar(Silent):
    """Shows the progress of a round."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._task = progress, progress.add_task("", total=total)

    def step(self, step, metrics, samples) -> None:  # noqa: ANN001
        """Move on."""
        loss = f"loss {metrics['loss']:.3f}"
        self._progress.update(self._task, completed=step, description=loss)


def train(
    rate: float,
    stages: tuple[BaseModelStage, ...],
    first: int,
    model: PreTrainedModel,
    ranks: Ranks,
) -> Iterator[dict[str, Any]]:
    """Run a round; yield what the model is worth on held-out examples after each stage."""
    total, start = sum(stage.updates for stage in stages), time.perf_counter()
    optimizer = OptimizerConfig(
        learning_rate=rate,
        weight_decay=0.01,
        warmup_steps=100,
        schedule="linear",
        floor=0.02,
        total_steps=total,
        optimizer="muon",
    )
    learner = Learner(model, optimizer, dtype="auto", ranks=ranks)
    with Progress(disable=not ranks.is_main) as progress:
        bar = Bar(progress, total)
        for number, stage in enumerate(stages, first):
            examples, held_out = stage_examples(number, stage, articles=ARTICLES, seed=SEED)
            until = learner.updates + stage.updates
            fit(learner, examples, SupervisedConfig(until, stage.tokens, SEED), observer=bar)
            minutes = (time.perf_counter() - start) / 60
            yield {**asdict(stage), "minutes": minutes, **measure(learner, held_out)}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    file = out / "training.json"
    torch.set_num_threads(1)
    with init_process_group() as ranks:
        log = ranks.broadcast(json.loads(file.read_text()) if file.is_file() else [])
        first = 0
        for rate, stages in ROUNDS:
            first += len(stages)
            if len(log) >= first:
                continue
            # From the file, so that a run that was broken off is the same as one that was not.
            model = load_model(out) if log else untrained(tiny_config(), SEED)
            for result in train(rate, stages, first - len(stages), model, ranks):
                log.append(result)
                if ranks.is_main:
                    print(json.dumps(result), flush=True)
            if ranks.is_main:
                save_model(model, out, tokenizer=load_tokenizer("world-1k"))
                file.write_text(json.dumps(log, indent=1) + "\n")
            ranks.broadcast(None)  # nobody reads before it is written


if __name__ == "__main__":
    main()
