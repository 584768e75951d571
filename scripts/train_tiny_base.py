"""Make the bundled base model: a tiny reader that seldom searches.

    torchrun --nproc-per-node 2 scripts/train_tiny_base.py --out runs/base

It climbs the ladder of :mod:`agents.ladder` in procedural worlds that nobody trains or tests on,
with one learning rate that falls over all of it. The seed is fixed; the same machine, versions,
threads and processes give the same weights.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from rich.progress import Progress
from transformers import PreTrainedModel

from agents.distributed import Ranks, joined
from agents.ladder import Stage, stage_examples
from agents.learner import Learner, OptimizerConfig
from agents.logs import Silent
from agents.models import save_model, tiny_config, untrained
from agents.supervised import SupervisedConfig, fit, measure

SEED = 9001
ARTICLES = 1000
LEARNING_RATE = 4e-3
STAGES = (
    Stage("copying", 400, 2048, 1, copies=6400),
    Stage("reading and thinking", 1200, 2048, 16, cards=300, thoughts=200),
    Stage("one document", 900, 4096, 18, cards=200, thoughts=100, episodes=100),
    Stage("three documents", 900, 8192, 18, 0, 300, 100, 90, documents=3),
    Stage("three documents, slower", 900, 8192, 18, 0, 300, 100, 90, documents=3),
)


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
            examples, held_out = stage_examples(number, stage, articles=ARTICLES, seed=SEED)
            until = learner.updates + stage.updates
            fit(learner, examples, SupervisedConfig(until, stage.tokens, SEED), observer=bar)
            minutes = (time.perf_counter() - start) / 60
            log.append({**asdict(stage), "minutes": minutes, **measure(learner, held_out)})
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
