"""Make the bundled base model: a tiny reader that seldom searches.

    torchrun --nproc-per-node 2 scripts/train_tiny_base.py --out runs/base

It climbs the ladder of :mod:`search_env.agents.imitation.base_model_stages` in procedural worlds
that nobody trains or tests on, in four rounds, each with a learning rate that falls over all of it.
From the second on, tags count in full, for what is right nearly always is not good enough where a
hundred tokens are drawn; and thoughts say after each search which steps are left, so that when to
stop can be read there. The last one teaches three and five documents under the tags of both
protocols, and haste: most of its episodes that search stop after the first search. Whether to
search and whether to go on are what reinforcement learning is left to change.

Each stage leaves its model in a folder of its own, ``01-copying`` and so on. A run that was stopped
goes on after its last hundred updates. The seed is fixed; the same machine, versions, threads and
processes give the same weights. Once they are in ``agents/assets``, run
``scripts/play_base_test.py``, whose file the default run's report reads.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

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
from search_env.agents.training.supervised_saves import SupervisedSaves
from search_env.paths import append
from search_env.tokens.tokenizer import load_tokenizer

SEED = 9001
ARTICLES = 1000
SAVE_EVERY = 100
_early = partial(BaseModelStage, recounts=False)
_three = partial(
    _early,
    updates=900,
    tokens=8192,
    worlds=18,
    cards=300,
    thoughts=100,
    episodes=90,
    documents=(3,),
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
    documents=(3,),
    tags=1.0,
    guesses=0.5,
    decisions="later",
    search_rate=0.22,
    think_on_rate=0.4,
)
HURRY = BaseModelStage(
    "in a hurry",
    updates=600,
    tokens=8192,
    worlds=24,
    cards=80,
    episodes=130,
    documents=(3, 5),
    tags=1.0,
    guesses=0.5,
    search_rate=0.22,
    go_on_rate=0.3,
)
ROUNDS = (
    (4e-3, CLIMB),
    (1.5e-3, (_whole("every token", cards=240, thoughts=250, branched=500, episodes=100),)),
    (1.5e-3, (_whole("every token, again", cards=120, thoughts=300, branched=400, episodes=160),)),
    (1e-3, (HURRY,)),
)


class Bar(Silent):
    """Shows the progress of a round."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._task = progress, progress.add_task("", total=total)

    def step(self, step, metrics, samples) -> None:  # noqa: ANN001
        """Move on."""
        loss = f"loss {metrics['loss']:.3f}"
        self._progress.update(self._task, completed=step, description=loss)


def name_of(number: int, stage: BaseModelStage) -> str:
    """Return the name of a stage's folder; stages are counted from 1."""
    return f"{number:02}-{stage.name.replace(',', '').replace(' ', '-')}"


def make_learner(model: PreTrainedModel, rate: float, updates: int, ranks: Ranks) -> Learner:
    """Return the learner of a round."""
    optimizer = OptimizerConfig(
        learning_rate=rate,
        weight_decay=0.01,
        warmup_steps=100,
        schedule="linear",
        floor=0.02,
        total_steps=updates,
        optimizer="muon",
    )
    return Learner(model, optimizer, dtype="auto", ranks=ranks)


def train_round(number: int, first: int, model: PreTrainedModel, out: Path, ranks: Ranks) -> None:
    """Run a round, whose stages begin with stage ``first``, or what is left of it."""
    rate, stages = ROUNDS[number]
    updates = sum(stage.updates for stage in stages)
    learner = make_learner(model, rate, updates, ranks)
    saves = SupervisedSaves(learner, out / f"round-{number + 1}", {"rate": rate, "seed": SEED})
    save = saves.save if ranks.is_main else lambda: None
    until = 0
    with Progress(disable=not ranks.is_main) as progress:
        bar = Bar(progress, updates)
        for index, stage in enumerate(stages, first):
            until += stage.updates
            folder = out / name_of(index, stage)
            if folder.exists():
                continue
            start = time.perf_counter()
            examples, held_out = stage_examples(index, stage, articles=ARTICLES, seed=SEED)
            config = SupervisedConfig(until, stage.tokens, SEED, save_every=SAVE_EVERY)
            fit(learner, examples, config, observer=bar, save=save)
            minutes = (
                time.perf_counter() - start
            ) / 60  # since the last save, where it was resumed
            result = {**asdict(stage), "minutes": minutes, **measure(learner, held_out)}
            if ranks.is_main:
                save()
                print(json.dumps(result), flush=True)
                append(out / "training.jsonl", json.dumps(result).encode() + b"\n")
                save_model(learner.model, folder, tokenizer=load_tokenizer("world-1k"))
            ranks.broadcast(None)  # nobody looks for the folder before it is written
    if ranks.is_main:
        saves.finish()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="model that has been through all rounds but the last")
    args = parser.parse_args()
    out = args.out
    torch.set_num_threads(1)
    with init_process_group() as ranks:
        first, before = 1, args.model
        for number, (_, stages) in enumerate(ROUNDS):
            if args.model and number < len(ROUNDS) - 1:
                first += len(stages)
                continue
            last = out / name_of(first + len(stages) - 1, stages[-1])
            if not last.exists():
                model = untrained(tiny_config(), SEED)
                model = model if before is None else load_model(before)
                train_round(number, first, model, out, ranks)
            first, before = first + len(stages), last


if __name__ == "__main__":
    main()
