"""Decoding, learning and a whole training step at the shapes of Qwen2.5, beside what a GPU can do.

    python -m benchmarks.speed.throughput --shape 1.5b --part decode learner step --output runs.jsonl
    python -m benchmarks.speed.throughput --report runs.jsonl
    python -m benchmarks.speed.throughput --tiny

One shape takes less than ten minutes on an H200. Each measurement is appended to ``--output`` as a
line of JSON and printed as Markdown; ``--report`` writes the Markdown of a file beside it, the
newest measurement of each kind. Weights are random. A step plays 16 questions 16 times each in the
procedural world by scripts (:mod:`benchmarks.speed.scripted`), so searches happen, and learns from it.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
from benchmarks.reports.measurement_page import processor, publish, table
from benchmarks.speed.scripted import ScriptedEngine, write_scripts
from benchmarks.speed.shapes import (
    BANDWIDTH,
    MATRIX_RATE,
    MEMORY,
    SHAPES,
    decode_bytes,
    learner_flops,
    needs_adapters,
    random_model,
    shape_config,
    state_gib,
)
from search_env.types import Source, StopReason

PARTS = ("decode", "learner", "step")
DECODE_AIM, LEARNER_AIM = 0.6, 0.45
PROMPTS = GROUP = 16
_SEVEN = 7_615_616_512  # parameters of the 7B shape
_PACKAGES = ("search-env", "torch", "transformers", "numpy")
_MICRO_TOKENS = {"tiny": 512, "1.5b": 16_384, "3b": 16_384, "7b": 16_384}
_CHECKPOINTED = ("3b", "7b")

Record = dict[str, Any]


def device_of() -> torch.device:
    """Return the GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds_of(call: Callable[[], object]) -> float:
    """Return what a call takes, the GPU's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def decode_part(shape: str, tiny: bool, device: torch.device) -> Iterator[Record]:
    """Yield what decoding takes at each batch size, for rows of one length that share nothing."""
    context, new = (48, 4) if tiny else (2048, 64)
    model = random_model(shape, device)
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
        mean = context + new / 2
        least = decode_bytes(shape_config(shape), batch, int(mean)) / BANDWIDTH
        yield {
            "batch": batch,
            "context": mean,
            "step_ms": 1e3 * taken,
            "limit_ms": 1e3 * least,
            "tokens_per_second": batch / taken,
            "share_of_limit": least / taken,
            "prefill_seconds": engine.timings.prefill_seconds,
        }
        del engine, steps
        collect_garbage()


def learner_of(model: PreTrainedModel, shape: str, lora: bool) -> tuple[Learner, bool]:
    """Return a learner, and whether it trains adapters because the whole would not fit."""
    size = sum(parameter.numel() for parameter in model.parameters())
    frozen = lora or needs_adapters(size)
    if frozen:
        model = with_lora(model)
    learner = Learner(
        model,
        OptimizerConfig(learning_rate=1e-6),
        dtype="bf16",
        micro_tokens=_MICRO_TOKENS[shape],
        gradient_checkpointing=shape in _CHECKPOINTED,
    )
    return learner, frozen


def learner_part(shape: str, tiny: bool, device: torch.device, lora: bool) -> Iterator[Record]:
    """Yield what an update takes, on episodes of random tokens, most of them documents."""
    model = random_model(shape, device)
    learner, frozen = learner_of(model, shape, lora)
    groups, group, lengths = (2, 2, (8, 8, 24)) if tiny else (8, 8, (256, 384, 1408))
    trajectories = random_trajectories(groups, group, lengths)
    micro = _MICRO_TOKENS[shape]
    yield {
        **measured_update(learner, trajectories, group),
        "tokens": sum(len(t.tokens) for t in trajectories),
        "flops": learner_flops(shape_config(shape), trajectories, micro, frozen),
        "adapters": frozen,
        "micro_tokens": micro,
        "checkpointing": shape in _CHECKPOINTED,
        "state_gib": state_gib(*sizes(learner.model)),
        "peak_gib": peak_gib(),
    }


def measured_update(
    learner: Learner, trajectories: Sequence[Trajectory], group: int
) -> dict[str, float]:
    """Return the seconds of the second of two equal updates."""
    algorithm = Algorithm(prompts=len(trajectories) // group, group_size=group)
    update(learner, trajectories, algorithm)
    return {"seconds": seconds_of(lambda: update(learner, trajectories, algorithm))}


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
    found = []
    for number in range(groups * group):
        tokens = random.integers(1, 1000, len(sources)).astype(np.int32)
        tokens[:prompt] = prompts[number // group]
        log_probs = np.where(sources == Source.POLICY, -7.0, np.nan).astype(np.float32)
        found.append(
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
    return found


def step_part(shape: str, tiny: bool, device: torch.device, lora: bool) -> Iterator[Record]:
    """Yield what a whole training step takes and where its time goes, after one to warm up."""
    prompts, group = (2, 2) if tiny else (PROMPTS, GROUP)
    size, thought = (1024, (4, 8)) if tiny else (2048, (40, 120))
    learner, frozen = learner_of(random_model(shape, device), shape, lora)
    envs = make_envs(
        "SearchQA-v0",
        rows=prompts * group,
        vocabulary=shape_config(shape).vocab_size,
        options={"max_tokens": size, "dataset_options": {"hops": [1 if tiny else 2]}},
    )
    engine = ScriptedEngine(learner.model, rows=prompts * group, max_tokens=size)
    algorithm = Algorithm(prompts=prompts, group_size=group)
    record: Record = {}
    for step in range(2):
        questions = list(range(step * prompts, (step + 1) * prompts))
        scripts = write_scripts(envs, questions, group, thought, step)
        engine.follow(envs, questions, scripts)

        def whole(questions: list[int] = questions, step: int = step) -> None:
            rollouts = collect(envs, engine, questions, group_size=group, seed=step)
            learnt = update(learner, rollouts.trajectories, algorithm)
            record["parts"] = {
                **rollouts.seconds,
                "score": learnt["time/score"],
                "learn": learnt["time/learn"],
            }
            record["policy_tokens"] = rollouts.policy_tokens
            record["tokens"] = sum(len(t.tokens) for t in rollouts.trajectories)
            record["searches"] = sum(t.num_searches for t in rollouts.trajectories)

        record["seconds"] = seconds_of(whole)
    yield {
        **record,
        "prompts": prompts,
        "group": group,
        "adapters": frozen,
        "peak_gib": peak_gib(),
    }


def sizes(model: PreTrainedModel) -> tuple[int, int]:
    """Return the number of parameters, and of those that are trained."""
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return sum(p.numel() for p in parameters), trained


def peak_gib() -> float:
    """Return the most memory that the GPU held since the part began; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def collect_garbage() -> None:
    """Give back what earlier parts held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measure(parts: Sequence[str], shapes: Sequence[str], lora: bool) -> Iterator[Record]:
    """Yield one record for each measurement, with its circumstances."""
    device = device_of()
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    circumstances = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "hardware": hardware,
        "versions": {name: version(name) for name in _PACKAGES}
        | {"Python": platform.python_version(), "CUDA": torch.version.cuda or "none"},
    }
    for shape in shapes:
        for part in parts:
            collect_garbage()
            tiny = shape == "tiny"
            found = {
                "decode": lambda s=shape, t=tiny: decode_part(s, t, device),
                "learner": lambda s=shape, t=tiny: learner_part(s, t, device, lora),
                "step": lambda s=shape, t=tiny: step_part(s, t, device, lora),
            }[part]()
            for record in found:
                yield {"part": part, "shape": shape, **record, **circumstances}


def newest(records: Sequence[Record]) -> list[Record]:
    """Return the last record of each part, shape and batch size, in order."""
    kept = {(r["part"], r["shape"], r.get("batch"), r.get("adapters")): r for r in records}
    return list(kept.values())


def markdown(records: Sequence[Record]) -> str:
    """Return all records as a result page."""
    made = sorted({(r["date"], r["hardware"], _versions(r)) for r in records})
    lines = "\n".join(f"* {date}: {hardware}; {versions}" for date, hardware, versions in made)
    by_part = {part: [r for r in records if r["part"] == part] for part in PARTS}
    texts = (decode_text, learner_text, step_text)
    sections = [text(by_part[p]) for p, text in zip(PARTS, texts, strict=True) if by_part[p]]
    return f"""# Throughput at the shapes of Qwen2.5

* Command: `python -m benchmarks.speed.throughput --shape 1.5b 3b 7b`
{lines}

Random weights in bfloat16. Limits are those of an H200: {BANDWIDTH / 1e12:.1f} TB/s of memory,
{MATRIX_RATE / 1e12:.0f} TFLOP/s in bfloat16 products, {MEMORY:.0f} GiB.

{chr(10).join(sections)}"""


def decode_text(records: Sequence[Record]) -> str:
    """Return the section on decoding."""
    rows = [
        [
            f"{r['shape']}, batch {r['batch']}, context {r['context']:,.0f}",
            f"{r['tokens_per_second']:,.0f}",
            f"{r['step_ms']:.2f}",
            f"{r['limit_ms']:.2f}",
            _against(r["share_of_limit"], DECODE_AIM),
        ]
        for r in records
    ]
    columns = ["shape", "tokens/s", "step, ms", "limit, ms", "share of the limit"]
    return f"""## Decoding

The limit is the time to read all weights and every row's keys and values once. Aim:
{DECODE_AIM:.0%} of it.

{table(columns, rows)}
"""


def learner_text(records: Sequence[Record]) -> str:
    """Return the section on learning."""
    rows = [
        [
            f"{r['shape']}, {'adapters' if r['adapters'] else 'all weights'}",
            f"{r['tokens'] / r['seconds']:,.0f}",
            f"{r['seconds']:.2f}",
            f"{r['flops'] / r['seconds'] / 1e12:.0f}",
            _against(r["flops"] / r["seconds"] / MATRIX_RATE, LEARNER_AIM),
            f"{r['state_gib']:.1f}",
            f"{r['peak_gib']:.1f}",
        ]
        for r in records
    ]
    columns = ["shape", "tokens/s", "update, s", "TFLOP/s", "MFU", "state, GiB", "peak, GiB"]
    return f"""## Learning

One update with everything in it. Operations that are counted: those of the model that cannot be
saved; documents count, common prompts of a group once, logits at the policy's tokens alone. Aim:
{LEARNER_AIM:.0%} of the GPU's rate (MFU).

{table(columns, rows)}

State is weights (2 bytes) and, where trained, float32 masters, gradients and moments (18 bytes
more). All of the 7B shape would be {state_gib(_SEVEN, _SEVEN):.0f} GiB before the first activation,
so on one GPU it trains adapters of rank 16 ({state_gib(_SEVEN, 0):.0f} GiB of weights). Without
float32 masters it would be {10 * _SEVEN / 2**30:.0f} GiB, but then updates smaller than a
bfloat16's precision are lost, so that is not offered. Several GPUs can split the whole
(`Learner(sharded=True)`).
"""


def step_text(records: Sequence[Record]) -> str:
    """Return the section on whole steps."""
    parts = ("environment", "retrieval", "prefill", "decode", "score", "learn")
    rows = []
    for r in records:
        rest = r["seconds"] - sum(r["parts"].values())
        rows.append(
            [
                f"{r['shape']}, {r['prompts']} x {r['group']}"
                f"{', adapters' if r['adapters'] else ''}",
                f"{r['seconds']:.1f}",
                *(f"{r['parts'][part] / r['seconds']:.1%}" for part in parts),
                f"{max(rest, 0.0) / r['seconds']:.1%}",
            ]
        )
    told = "; ".join(
        f"{r['shape']}: {r['policy_tokens']:,} tokens of the policy, {r['tokens']:,} in all, "
        f"{r['searches']} searches"
        for r in records
    )
    return f"""## A whole training step

Episodes with searches by scripts, then one update. {told}.

{table(["shape", "seconds", *parts, "rest"], rows)}
"""


def _against(share: float, aim: float) -> str:
    """Return a share and how far it is from what is aimed at."""
    verdict = "met" if share >= aim else f"{aim - share:.0%} short of {aim:.0%}"
    return f"{share:.0%} ({verdict})"


def _versions(record: Record) -> str:
    return ", ".join(f"{name} {number}" for name, number in record["versions"].items())


def read(path: Path) -> list[Record]:
    """Return the records of a file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or report what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["1.5b"])
    parser.add_argument("--tiny", action="store_true", help="as --shape tiny: seconds on a CPU")
    parser.add_argument("--lora", action="store_true", help="adapters at every shape")
    parser.add_argument("--output", type=Path, help="file to append records to")
    parser.add_argument("--report", type=Path, help="write the Markdown of such a file")
    given = parser.parse_args(arguments)
    if given.report:
        publish(markdown(newest(read(given.report))), given.report.with_suffix(".md"))
        return
    shapes = ["tiny"] if given.tiny else given.shape
    if shapes != ["tiny"] and not torch.cuda.is_available():
        parser.error("expected a GPU for these shapes, got none; pass --tiny")
    records = []
    for record in measure(given.part, shapes, given.lora):
        records.append(record)
        if given.output:
            given.output.parent.mkdir(parents=True, exist_ok=True)
            with given.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        print(json.dumps(record), file=sys.stderr, flush=True)
    publish(markdown(records) + "\n", None)


if __name__ == "__main__":
    main()
