"""Train a model of 30 or 100 million parameters from nothing until it searches in a large world.

    python -m benchmarks.studies.train_large --folder runs/large --stage pretrain
    python -m benchmarks.studies.train_large --folder runs/large --stage train
    python -m benchmarks.studies.train_large --folder runs/large --stage report --output FILE.md
    python -m benchmarks.studies.train_large --folder runs/tiny --tiny

``pretrain`` climbs the ladder of :mod:`agents.ladder`; ``train`` plays both phases in a
world of 100,000 articles with questions of one to four hops; ``report`` asks the test world before
and after. Each ends after ``--minutes`` with a checkpoint; the same command goes on from there and
says when there is nothing left to do. Weights stay in the folder. ``--tiny`` runs all three with
next to no steps, on any machine.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents import checkpoints
from agents.config import TrainConfig
from agents.ladder import Stage, stage_examples
from agents.learner import Learner, OptimizerConfig
from agents.logs import JsonLinesLog
from agents.metrics import evaluation_metrics
from agents.models import load_model, save_model, tiny_config, untrained
from agents.policy import play_questions
from agents.reinforce import train
from agents.rollout import make_envs
from agents.supervised import SupervisedConfig, fit, measure
from agents.tiny import PHASES, TINY
from benchmarks.reports.measurement_page import heading, publish, table
from benchmarks.speed.throughput import device_of
from search_env.tokenizer import load_tokenizer

SEED = 19_001
"""Of the first pretraining world; nobody trains or tests on these."""
STAGES = ("pretrain", "train", "report")
HOPS = (1, 2, 3, 4)
_SLICE = 50  # updates between two looks at the clock


@dataclass(frozen=True, slots=True)
class Size:
    """All numbers of an experiment.

    Attributes:
        shape: Hidden width, layers, heads, feed-forward width.
        ladder: Stages of pretraining.
        articles: Size of the worlds of pretraining.
        learning_rate: Of pretraining, at its highest (Muon).
        world: Articles of the worlds that it is trained and tested in.
        steps: Training steps of both phases together.
        prompts: Questions of a step.
        group: Episodes of each.
        rows: Episodes side by side.
        rate: Learning rate of the phases.
        micro_tokens: Most tokens in one forward and backward pass.
        max_tokens: Context of the phases and of the test.
        questions: How many the test asks.
    """

    shape: tuple[int, int, int, int]
    ladder: tuple[Stage, ...]
    articles: int
    learning_rate: float
    world: int
    steps: int
    prompts: int
    group: int
    rows: int
    rate: float
    micro_tokens: int
    max_tokens: int
    questions: int


_LARGE_LADDER = (
    Stage("copying", 400, 16_384, 1, copies=20_000),
    Stage("reading and thinking", 1200, 16_384, 24, cards=2400, thoughts=1600),
    Stage("one document", 1000, 32_768, 24, cards=1200, thoughts=600, episodes=600),
    Stage("three documents", 1000, 65_536, 40, cards=1200, thoughts=400, episodes=360, documents=3),
)
_TINY_LADDER = (
    Stage("copying", 2, 512, 1, copies=8),
    Stage("one document", 2, 1024, 1, cards=4, thoughts=2, episodes=2),
)
_LARGE = Size(
    shape=(512, 10, 8, 1408),
    ladder=_LARGE_LADDER,
    articles=4000,
    learning_rate=2e-3,
    world=100_000,
    steps=150,
    prompts=32,
    group=16,
    rows=256,
    rate=1e-4,
    micro_tokens=65_536,
    max_tokens=4096,
    questions=800,
)
SIZES = {
    "tiny": replace(
        _LARGE,
        shape=(64, 2, 4, 64),
        ladder=_TINY_LADDER,
        articles=100,
        world=200,
        steps=2,
        prompts=1,
        group=2,
        rows=2,
        micro_tokens=4096,
        max_tokens=512,
        questions=4,
    ),
    "30m": _LARGE,
    "100m": replace(
        _LARGE,
        shape=(768, 12, 12, 2304),
        learning_rate=1.5e-3,
        rate=5e-5,
        micro_tokens=32_768,
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
    config = tiny_config(hidden_size=hidden, intermediate_size=wide, layers=layers, heads=heads)
    model = untrained(config, SEED).to(device_of())  # type: ignore[arg-type]
    learner = Learner(model, schedule, dtype="bf16", micro_tokens=size.micro_tokens)
    log: list[dict[str, Any]] = []
    if newest := checkpoints.latest(kept):
        saved = checkpoints.load(newest, config=_plain(size))
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
    checkpoint = checkpoints.Checkpoint(
        learner.updates, state.pop("weights"), {"learner": state, "log": log}, _plain(size)
    )
    checkpoints.save(kept, checkpoint, keep_last=1)
    if learner.updates < total:
        return False
    save_model(model, folder / "base", learner.weights(), tokenizer=load_tokenizer("world-1k"))
    (folder / "pretrain.json").write_text(json.dumps(log, indent=1) + "\n", "utf-8")
    return True


def reinforce(size: Size, folder: Path, minutes: float) -> bool:
    """Train until both phases or the time are over; return whether they are done."""
    out = folder / "rl"
    newest = checkpoints.latest(out / "checkpoints")
    spent, done = 0.0, None
    if newest is not None:
        spent = checkpoints.load(newest).state["run"]["seconds"] / 60
        done = checkpoints.step_of(newest)
    if done is not None and done >= size.steps:
        return True
    episodes = size.prompts * size.group
    config = TrainConfig(
        model=str(folder / "base"),
        algorithm=replace(
            TINY, prompts=size.prompts, group_size=size.group, learning_rate=size.rate
        ),
        env_options={"dataset_options": _questions(size.world, 4 * size.steps * size.prompts)},
        eval_options={"split": "validation", "dataset_options": _questions(size.articles, 100)},
        max_tokens=size.max_tokens,
        phases=PHASES["both"],
        phase_episodes=max(1, size.steps // 3) * episodes,
        phase_window=episodes,
        steps=size.steps,
        minutes=spent + minutes,
        rows=size.rows,
        dtype="bf16",
        micro_tokens=size.micro_tokens,
        eval_every=0,
        checkpoint_every=10,
        out=str(out),
    )
    log = JsonLinesLog(out / "log.jsonl", resume_step=done)
    result = train(config, observer=log, resume=newest is not None)
    return result.steps >= size.steps


def report(name: str, folder: Path) -> str:
    """Test the base and the trained model on the test world; return the result as Markdown.

    Answers are kept in the folder, so that only what is missing is asked.
    """
    size, known = SIZES[name], folder / "report.json"
    found: dict[str, Any] = json.loads(known.read_text("utf-8")) if known.is_file() else {}
    wanted = {"before": folder / "base", "after": folder / "rl" / "model"}
    envs = None
    for when, path in wanted.items():
        steps = _steps(folder) if when == "after" else 0
        if not path.is_dir() or found.get(when, {}).get("steps") == steps:
            continue
        model = load_model(path, dtype=torch.bfloat16, device=device_of())
        if envs is None:
            envs = make_envs(
                "SearchQA-v0",
                rows=size.rows,
                vocabulary=model.config.vocab_size,
                options={
                    "split": "test",
                    "max_tokens": size.max_tokens,
                    "dataset_options": _questions(size.world, size.questions),
                },
            )
        metrics = evaluation_metrics(play_questions(model, envs))
        found[when] = {"steps": steps, "parameters": model.num_parameters(), **metrics}
    known.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return markdown(name, folder, found)


def markdown(name: str, folder: Path, found: dict[str, Any]) -> str:
    """Return what was found as a result page."""
    size = SIZES[name]
    packages = ["search-env", "torch", "transformers", "numpy"]
    command = f"python -m benchmarks.studies.train_large --size {name}"
    head = heading("A larger model in a large world", command, packages)
    if torch.cuda.is_available():
        head += f"* GPU: {torch.cuda.get_device_name()}\n"
    names = ("search_rate", "searches", "exact_match", "f1")
    by_hops = [f"exact_match_{hops}_hops" for hops in HOPS]
    rows = [
        [f"{when} ({values['steps']} steps)", *(_figure(values, n) for n in [*names, *by_hops])]
        for when, values in found.items()
    ]
    columns = ["", "search rate", "searches", "EM", "F1", *(f"EM, {h} hops" for h in HOPS)]
    stages = folder / "pretrain.json"
    climbed = json.loads(stages.read_text("utf-8")) if stages.is_file() else []
    ladder = [
        [r["stage"], f"{r['updates']:,}", f"{r['eval/loss']:.3f}", f"{r['eval/exact']:.3f}"]
        for r in climbed
    ]
    parameters = max((values["parameters"] for values in found.values()), default=0)
    return f"""{head}
Qwen2 of {parameters / 1e6:.1f} million parameters, from nothing: pretraining on other worlds of
{size.articles:,} articles, then both phases in a world of {size.world:,} articles,
{size.prompts} questions x {size.group} episodes a step. Scores are of greedy episodes on
{size.questions} questions of a test world of {size.world:,} articles that shares no name with the
others.

## Before and after both phases

{table(columns, rows)}

## Pretraining, on examples of worlds that were left out

{table(["stage", "updates", "loss", "all right"], ladder)}
"""


def _figure(values: dict[str, Any], name: str) -> str:
    """Return a metric to print; there may be no question of so many hops."""
    return f"{values.get(f'eval/{name}', np.nan):.3f}"


def _questions(articles: int, count: int) -> dict[str, Any]:
    return {"articles": articles, "questions": count, "hops": list(HOPS)}


def _plain(size: Size) -> dict[str, Any]:
    """Return a size as JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(size)))
    return plain


def _steps(folder: Path) -> int:
    """Return how many training steps are behind the newest checkpoint."""
    newest = checkpoints.latest(folder / "rl" / "checkpoints")
    return 0 if newest is None else checkpoints.step_of(newest)


def _left(start: float, minutes: float) -> bool:
    return time.monotonic() - start < 60 * minutes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stage", choices=STAGES, nargs="+", default=list(STAGES))
    parser.add_argument("--size", choices=list(SIZES), default="30m")
    parser.add_argument("--tiny", action="store_true", help="as --size tiny")
    parser.add_argument("--folder", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--minutes", type=float, default=8.0, help="most of each stage")
    parser.add_argument("--workers", type=int, help="processes that write examples")
    parser.add_argument("--output", type=Path, help="Markdown file of the report")
    given = parser.parse_args(arguments)
    name = "tiny" if given.tiny else given.size
    size = SIZES[name]
    spare = 0 if given.tiny else max(0, (os.cpu_count() or 1) - 2)
    workers = spare if given.workers is None else given.workers
    for stage in given.stage:
        if stage == "report":
            publish(report(name, given.folder), given.output)
            continue
        done = (
            pretrain(size, given.folder, given.minutes, workers)
            if stage == "pretrain"
            else reinforce(size, given.folder, given.minutes)
        )
        print(f"{stage}: {'done' if done else 'not done; run the same command again'}", flush=True)
        if not done:
            return


if __name__ == "__main__":
    main()
