"""Train a model of 30 or 100 million parameters from nothing until it searches in a large world.

    python -m search_env.benchmarks.studies.train_large --folder runs/large --output FILE.md
    python -m search_env.benchmarks.studies.train_large --folder runs/tiny --tiny

Stage ``pretrain`` climbs the ladder of :mod:`search_env.agents.imitation.base_model_stages`;
``train`` plays both phases in a world of 100,000 articles with questions of one to four hops;
``report`` tests on another world before and after. Each ends after ``--minutes`` with a checkpoint;
the same command goes on from there. ``--tiny`` runs all three with next to no steps, on any
machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search_env.agents.imitation.base_model_stages import BaseModelStage, stage_examples
from search_env.agents.imitation.sft import SupervisedConfig, fit, measure
from search_env.agents.learning.learner import Learner, OptimizerConfig
from search_env.agents.models import load_model, save_model, tiny_config, untrained
from search_env.agents.reporting.logs import JsonLinesLog
from search_env.agents.rollouts.collect import make_envs
from search_env.agents.rollouts.lm_agent import play_questions
from search_env.agents.rollouts.metrics import evaluation_metrics
from search_env.agents.training import checkpoints
from search_env.agents.training.config import TrainConfig
from search_env.agents.training.default_run import PHASES, TINY
from search_env.agents.training.train import train
from search_env.benchmarks.reports.measurement_page import heading, parser, publish, table
from search_env.benchmarks.speed.throughput import device_of
from search_env.tokens.tokenizer import load_tokenizer

SEED = 19_001
"""Seed of the first pretraining world; nobody trains or tests on these."""
PARTS = ("pretrain", "train", "report")
HOPS = (1, 2, 3, 4)
_SLICE = 50  # updates between two looks at the clock


@dataclass(frozen=True, slots=True)
class Size:
    """All numbers of an experiment."""

    shape: tuple[int, int, int, int]  # hidden width, layers, heads, feed-forward width
    ladder: tuple[BaseModelStage, ...]  # of pretraining
    articles: int  # of its worlds
    learning_rate: float  # its highest (Muon)
    world: int  # articles of the worlds that the model is trained and tested in
    steps: int  # of training, both phases together
    prompts: int  # questions of a step
    group: int  # episodes of each
    rows: int  # episodes side by side
    rate: float  # learning rate of the phases
    max_tokens_per_micro_batch: int  # most in one forward and backward pass
    max_tokens: int  # context of the phases and of the test
    questions: int  # of the test

    def worlds(self, articles: int, questions: int) -> dict[str, Any]:
        """Return the options of a world."""
        return {"articles": articles, "questions": questions, "hops": list(HOPS)}


_LARGE = Size(
    shape=(512, 10, 8, 1408),
    ladder=(
        BaseModelStage("copying", 400, 16_384, 1, copies=20_000),
        BaseModelStage("reading and thinking", 1200, 16_384, 24, cards=2400, thoughts=1600),
        BaseModelStage("one document", 1000, 32_768, 24, cards=1200, thoughts=600, episodes=600),
        BaseModelStage(
            "three documents", 1000, 65_536, 40, cards=1200, thoughts=400, episodes=360, documents=3
        ),
    ),
    articles=4000,
    learning_rate=2e-3,
    world=100_000,
    steps=150,
    prompts=32,
    group=16,
    rows=256,
    rate=1e-4,
    max_tokens_per_micro_batch=65_536,
    max_tokens=4096,
    questions=800,
)
SIZES = {
    "tiny": Size(
        shape=(64, 2, 4, 64),
        ladder=(
            BaseModelStage("copying", 2, 512, 1, copies=8),
            BaseModelStage("one document", 2, 1024, 1, cards=4, thoughts=2, episodes=2),
        ),
        articles=100,
        learning_rate=2e-3,
        world=200,
        steps=2,
        prompts=1,
        group=2,
        rows=2,
        rate=1e-4,
        max_tokens_per_micro_batch=4096,
        max_tokens=512,
        questions=4,
    ),
    "30m": _LARGE,
    "100m": replace(
        _LARGE,
        shape=(768, 12, 12, 2304),
        learning_rate=1.5e-3,
        rate=5e-5,
        max_tokens_per_micro_batch=32_768,
    ),
}


def pretrain(size: Size, folder: Path, minutes: float, workers: int) -> bool:
    """Climb the ladder until it or the time is over; return whether the base model is done."""
    start, kept = time.monotonic(), folder / "pretrain"
    if (folder / "base").is_dir():
        return True
    total = sum(stage.updates for stage in size.ladder)
    schedule = OptimizerConfig(
        learning_rate=size.learning_rate,
        weight_decay=0.01,
        warmup_steps=min(200, total // 10),
        schedule="linear",
        floor=0.02,
        total_steps=total,
        optimizer="muon",
    )
    hidden, layers, heads, wide = size.shape
    shape = tiny_config(hidden_size=hidden, intermediate_size=wide, layers=layers, heads=heads)
    model = untrained(shape, SEED).to(device_of())  # type: ignore[arg-type]
    learner = Learner(
        model, schedule, dtype="bf16", max_tokens_per_micro_batch=size.max_tokens_per_micro_batch
    )
    config: dict[str, Any] = json.loads(json.dumps(asdict(size)))
    log: list[dict[str, Any]] = []
    if newest := checkpoints.latest(kept):
        saved = checkpoints.load(newest, config=config)
        learner.load_state_dict({**saved.state["learner"], "weights": saved.weights})
        log = saved.state["log"]
    end = 0
    for number, stage in enumerate(size.ladder):
        end += stage.updates
        if learner.updates >= end:
            continue
        examples, held_out = stage_examples(
            number, stage, articles=size.articles, seed=SEED, workers=workers
        )
        while learner.updates < end and _left(start, minutes):
            until = min(end, learner.updates + _SLICE)
            fit(learner, examples, SupervisedConfig(until, stage.tokens, SEED))
        if learner.updates < end:
            break
        log.append({"stage": stage.name, "updates": end, **measure(learner, held_out)})
        print(json.dumps(log[-1]), flush=True)
    state = learner.state_dict()
    weights = state.pop("weights")
    made = checkpoints.Checkpoint(learner.updates, weights, {"learner": state, "log": log}, config)
    checkpoints.save(kept, made, keep_last=1)
    if learner.updates < total:
        return False
    save_model(model, folder / "base", learner.weights(), tokenizer=load_tokenizer("world-1k"))
    (folder / "pretrain.json").write_text(json.dumps(log, indent=1) + "\n", "utf-8")
    return True


def reinforce(size: Size, folder: Path, minutes: float) -> bool:
    """Train until both phases or the time are over; return whether they are done."""
    out = folder / "rl"
    newest = checkpoints.latest(out / "checkpoints")
    steps = None if newest is None else checkpoints.step_of(newest)
    if steps is not None and steps >= size.steps:
        return True
    spent = checkpoints.load(newest).state["run"]["seconds"] / 60 if newest else 0.0
    episodes = size.prompts * size.group
    config = TrainConfig(
        model=str(folder / "base"),
        algorithm=replace(
            TINY, prompts=size.prompts, group_size=size.group, learning_rate=size.rate
        ),
        env_options={"dataset_options": size.worlds(size.world, 4 * size.steps * size.prompts)},
        eval_options={"split": "validation", "dataset_options": size.worlds(size.articles, 100)},
        max_tokens=size.max_tokens,
        phases=PHASES["both"],
        phase_episodes=max(1, size.steps // 3) * episodes,
        phase_window=episodes,
        steps=size.steps,
        minutes=spent + minutes,
        num_envs=size.rows,
        dtype="bf16",
        max_tokens_per_micro_batch=size.max_tokens_per_micro_batch,
        eval_every=0,
        checkpoint_every=10,
        out=str(out),
    )
    log = JsonLinesLog(out / "log.jsonl", resume_step=steps)
    return train(config, observer=log, resume=newest is not None).steps >= size.steps


def report(name: str, folder: Path) -> str:
    """Test the base and the trained model; return the result as Markdown."""
    size, metrics = SIZES[name], ("search_rate", "searches", "exact_match", "f1")
    newest = checkpoints.latest(folder / "rl" / "checkpoints")
    steps = 0 if newest is None else checkpoints.step_of(newest)
    models = {
        "before (0 steps)": folder / "base",
        f"after ({steps} steps)": folder / "rl" / "model",
    }
    rows, parameters = [], 0
    for when, path in models.items():
        if not path.is_dir():
            continue
        model = load_model(path, dtype=torch.bfloat16, device=device_of())
        parameters = model.num_parameters()
        worlds = size.worlds(size.world, size.questions)
        options = {"split": "test", "max_tokens": size.max_tokens, "dataset_options": worlds}
        vocabulary = model.config.vocab_size
        envs = make_envs("SearchQA-v0", num_envs=size.rows, vocabulary=vocabulary, options=options)
        scores = evaluation_metrics(play_questions(model, envs))
        columns = [*metrics, *(f"exact_match_{hops}_hops" for hops in HOPS)]
        rows.append([when, *(f"{scores.get(f'eval/{c}', np.nan):.3f}" for c in columns)])
    stages = folder / "pretrain.json"
    ladder = [
        [r["stage"], f"{r['updates']:,}", f"{r['eval/loss']:.3f}", f"{r['eval/exact']:.3f}"]
        for r in (json.loads(stages.read_text("utf-8")) if stages.is_file() else [])
    ]
    packages = ["search-env", "torch", "transformers", "numpy"]
    command = f"python -m search_env.benchmarks.studies.train_large --size {name}"
    head = heading("A larger model in a large world", command, packages)
    if torch.cuda.is_available():
        head += f"* GPU: {torch.cuda.get_device_name()}\n"
    return f"""{head}
Qwen2 of {parameters / 1e6:.1f} million parameters, from nothing: pretraining on other worlds of
{size.articles:,} articles, then both phases in a world of {size.world:,} articles,
{size.prompts} questions x {size.group} episodes a step. Scores are of greedy episodes on
{size.questions} questions of a test world of {size.world:,} articles that shares no name with the
others.

## Before and after both phases

{table(["", "search rate", "searches", "EM", "F1", *(f"EM, {h} hops" for h in HOPS)], rows)}

## Pretraining, on examples of worlds that were left out

{table(["stage", "updates", "loss", "all right"], ladder)}
"""


def _left(start: float, minutes: float) -> bool:
    return time.monotonic() - start < 60 * minutes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages that are named."""
    options = parser(__doc__)
    options.add_argument("--stage", choices=PARTS, nargs="+", default=list(PARTS))
    options.add_argument("--size", choices=list(SIZES), default="30m")
    options.add_argument("--tiny", action="store_true", help="as --size tiny")
    options.add_argument("--folder", type=Path, required=True, help="where everything is kept")
    options.add_argument("--minutes", type=float, default=8.0, help="most of each stage")
    options.add_argument("--workers", type=int, help="processes that write examples")
    args = options.parse_args(arguments)
    name = "tiny" if args.tiny else args.size
    spare = 0 if args.tiny else max(0, (os.cpu_count() or 1) - 2)
    workers = spare if args.workers is None else args.workers
    for stage in args.stage:
        if stage == "report":
            publish(report(name, args.folder), args.output)
            continue
        done = (
            pretrain(SIZES[name], args.folder, args.minutes, workers)
            if stage == "pretrain"
            else reinforce(SIZES[name], args.folder, args.minutes)
        )
        print(f"{stage}: {'done' if done else 'not done; run the same command again'}", flush=True)
        if not done:
            return


if __name__ == "__main__":
    main()
