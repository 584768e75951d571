"""Decoding, learning and a whole training step at the shapes of Qwen2.5, beside what a GPU can do.

    python -m benchmarks.speed.throughput --shape 1.5b 3b 7b --output FILE.md
    python -m benchmarks.speed.throughput --tiny

One shape takes less than ten minutes on an H200. Weights are random. A step plays 16 questions 16
times each in the procedural world by scripts (:mod:`benchmarks.speed.scripted`), so searches
happen, and learns from it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from agents.algorithm import Algorithm
from agents.engine import Engine
from agents.learner import Learner, OptimizerConfig
from agents.models import with_lora
from agents.rollout import collect, make_envs
from agents.trajectories import Trajectory
from agents.updates import update
from benchmarks.reports.measurement_page import heading, parser, publish, table
from benchmarks.speed.scripted import ScriptedEngine, write_scripts
from benchmarks.speed.shapes import (
    BANDWIDTH,
    MATRIX_RATE,
    SHAPES,
    WITH_ADAPTERS,
    decode_bytes,
    learner_flops,
    random_model,
    shape_config,
)
from search_env.types import Source, StopReason

_CHECKPOINTED = ("3b", "7b")
STEP_PARTS = ("environment", "retrieval", "prefill", "decode", "score", "learn")


def device_of() -> torch.device:
    """Return the GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds_of(call: Callable[[], object]) -> float:
    """Return what a call takes, the GPU's work included."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def decode_rows(shape: str, lora: bool) -> Iterator[list[str]]:
    """Yield what decoding takes at each batch size, for rows of one length that share nothing."""
    tiny = shape == "tiny"
    context, new = (48, 4) if tiny else (2048, 64)
    model = random_model(shape, device_of())
    for batch in (2, 4) if tiny else (64, 256):
        engine = Engine(model, rows=batch, max_tokens=context + 2 * new)
        # A beginning in common would be read once for all rows, and the limit counts every row's.
        prompts = list(np.random.default_rng(0).integers(1, 1000, (batch, context - new)))
        rows = range(batch)

        def steps(engine: Engine = engine, rows: Sequence[int] = rows) -> None:
            for _ in range(new):
                engine.decode(rows)

        engine.begin(rows, prompts, list(rows))
        steps()  # reads the prompts, captures the graphs; leaves rows of `context` tokens
        taken = seconds_of(steps) / new
        mean = context + new // 2
        least = decode_bytes(shape_config(shape), batch, mean) / BANDWIDTH
        yield [
            f"{shape}, batch {batch}, context {mean:,}",
            f"{batch / taken:,.0f}",
            f"{1e3 * taken:.2f}",
            f"{1e3 * least:.2f}",
            f"{least / taken:.0%}",
        ]
        del engine, steps
        collect_garbage()


def learner_of(model: PreTrainedModel, shape: str, lora: bool) -> Learner:
    """Return a learner, of adapters where the whole would not fit or where they are wanted."""
    return Learner(
        with_lora(model) if lora or shape in WITH_ADAPTERS else model,
        OptimizerConfig(learning_rate=1e-6),
        dtype="bf16",
        micro_tokens=_micro_tokens(shape),
        gradient_checkpointing=shape in _CHECKPOINTED,
    )


def learner_rows(shape: str, lora: bool) -> Iterator[list[str]]:
    """Yield what the second of two updates takes, on random tokens, most of them documents."""
    learner = learner_of(random_model(shape, device_of()), shape, lora)
    groups, group, lengths = (2, 2, (8, 8, 24)) if shape == "tiny" else (8, 8, (256, 384, 1408))
    trajectories = random_trajectories(groups, group, lengths)
    algorithm = Algorithm(prompts=groups, group_size=group)
    update(learner, trajectories, algorithm)
    seconds = seconds_of(lambda: update(learner, trajectories, algorithm))
    frozen = lora or shape in WITH_ADAPTERS
    flops = learner_flops(shape_config(shape), trajectories, _micro_tokens(shape), frozen) / seconds
    yield [
        _name(shape, lora),
        f"{sum(len(t.tokens) for t in trajectories) / seconds:,.0f}",
        f"{seconds:.2f}",
        f"{flops / 1e12:.0f}",
        f"{flops / MATRIX_RATE:.0%}",
        f"{peak_gib():.1f}",
    ]


def random_trajectories(groups: int, group: int, lengths: tuple[int, int, int]) -> list[Trajectory]:
    """Return episodes of a prompt, a query, documents and an answer.

    Args:
        groups: How many prompts.
        group: Episodes of each.
        lengths: Tokens of the prompt, of what the policy writes (half of it before the documents)
            and of the documents.
    """
    random = np.random.default_rng(0)
    prompt, written, read = lengths
    order = (Source.PROMPT, Source.POLICY, Source.RETRIEVED, Source.POLICY)
    counts = (prompt, written // 2, read, written - written // 2)
    sources = np.repeat(np.array(order, np.int8), counts)
    prompts = random.integers(1, 1000, (groups, prompt))
    trajectories = []
    for number in range(groups * group):
        tokens = random.integers(1, 1000, len(sources)).astype(np.int32)
        tokens[:prompt] = prompts[number // group]
        log_probs = np.where(sources == Source.POLICY, -7.0, np.nan).astype(np.float32)
        trajectories.append(
            Trajectory(
                question_id=str(number // group),
                group=number // group,
                tokens=tokens,
                sources=sources,
                log_probs=log_probs,
                values=None,
                reward=float(number % 2),
                reward_parts={},
                stop_reason=StopReason.ANSWERED,
                valid=True,
                well_formed=True,
                answer="",
                scores={},
                num_searches=1,
                hops=1,
                kind="",
            )
        )
    return trajectories


def step_rows(shape: str, lora: bool) -> Iterator[list[str]]:
    """Yield what a whole training step takes and where its time goes, after one to warm up."""
    tiny = shape == "tiny"
    prompts, group, size, thought = (2, 2, 1024, (4, 8)) if tiny else (16, 16, 2048, (40, 120))
    learner = learner_of(random_model(shape, device_of()), shape, lora)
    envs = make_envs(
        "SearchQA-v0",
        rows=prompts * group,
        vocabulary=shape_config(shape).vocab_size,
        options={"max_tokens": size, "dataset_options": {"hops": [1 if tiny else 2]}},
    )
    engine = ScriptedEngine(learner.model, rows=prompts * group, max_tokens=size)
    algorithm = Algorithm(prompts=prompts, group_size=group)
    parts, searches, seconds = {}, 0, 0.0

    def take(questions: list[int], step: int) -> None:
        nonlocal parts, searches
        rollouts = collect(envs, engine, questions, group_size=group, seed=step)
        metrics = update(learner, rollouts.trajectories, algorithm)
        parts = {**rollouts.seconds, **{p: metrics[f"time/{p}"] for p in ("score", "learn")}}
        searches = sum(t.num_searches for t in rollouts.trajectories)

    for step in range(2):
        questions = list(range(step * prompts, (step + 1) * prompts))
        engine.follow(envs, questions, write_scripts(envs, questions, group, thought, step))
        seconds = seconds_of(lambda q=questions, s=step: take(q, s))
    yield [
        f"{_name(shape, lora)}, {prompts} x {group}",
        f"{seconds:.1f}",
        f"{searches}",
        *(f"{parts[part] / seconds:.1%}" for part in STEP_PARTS),
        f"{peak_gib():.1f}",
    ]


def peak_gib() -> float:
    """Return the most memory that the GPU held since the part began; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def collect_garbage() -> None:
    """Give back what earlier parts held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _micro_tokens(shape: str) -> int:
    return 512 if shape == "tiny" else 16_384


def _name(shape: str, lora: bool) -> str:
    return f"{shape}, {'adapters' if lora or shape in WITH_ADAPTERS else 'all weights'}"


PARTS = {
    "decode": (
        "Decoding: the limit is the time to read all weights and every row's keys and values once",
        ["shape", "tokens/s", "step, ms", "limit, ms", "share of the limit"],
        decode_rows,
    ),
    "learner": (
        "Learning: one update, documents read, common prompts of a group once",
        ["shape", "tokens/s", "update, s", "TFLOP/s", "MFU", "peak, GiB"],
        learner_rows,
    ),
    "step": (
        "A whole training step: episodes with searches by scripts, then one update",
        ["shape", "seconds", "searches", *STEP_PARTS, "peak, GiB"],
        step_rows,
    ),
}
"""Title, columns and rows of each part."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = parser(__doc__)
    options.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--shape", nargs="+", choices=SHAPES, default=["1.5b"])
    options.add_argument("--tiny", action="store_true", help="as --shape tiny: seconds on a CPU")
    options.add_argument("--lora", action="store_true", help="adapters at every shape")
    args = options.parse_args(arguments)
    shapes = ["tiny"] if args.tiny else args.shape
    if shapes != ["tiny"] and not torch.cuda.is_available():
        options.error("expected a GPU for these shapes, got none; pass --tiny")
    command = f"python -m benchmarks.speed.throughput --shape {' '.join(shapes)}"
    command += " --lora" if args.lora else ""
    packages = ("search-env", "torch", "transformers", "numpy")
    page = heading("Throughput at the shapes of Qwen2.5", command, packages)
    if torch.cuda.is_available():
        page += f"* GPU: {torch.cuda.get_device_name()}\n"
    for part in args.part:
        title, columns, measure = PARTS[part]
        rows = []
        for shape in shapes:
            collect_garbage()
            rows += measure(shape, args.lora)
        page += f"\n## {title}\n\n{table(columns, rows)}\n"
    publish(page, args.output)


if __name__ == "__main__":
    main()
