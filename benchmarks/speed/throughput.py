"""Decoding and a whole training step at the shapes of Qwen2.5, beside what a GPU can do.

    python -m search_env.benchmarks.speed.throughput --shape 1.5b 3b 7b --output FILE.md
    python -m search_env.benchmarks.speed.throughput --tiny

One shape takes less than ten minutes on an H200. Weights are random. A step plays 16 questions 16
times each by scripts (:mod:`search_env.benchmarks.speed.scripted`) and learns from it.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.inference.engine import Engine
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.models import with_lora
from search_env.agents.rollouts.collect import make_envs
from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.benchmarks.speed.scripted import (
    STEP_PARTS,
    ScriptedEngine,
    scripted_step,
    write_scripts,
)

BANDWIDTH = 4.3e12  # bytes a second that an H200 reads and writes in a copy
SHAPES = {
    "tiny": (64, 2, 4, 2, 128, 1100, 4096, True),
    "1.5b": (1536, 28, 12, 2, 8960, 151_936, 131_072, True),
    "3b": (2048, 36, 16, 2, 11_008, 151_936, 32_768, True),
    "7b": (3584, 28, 28, 4, 18_944, 152_064, 131_072, False),
}
"""Hidden width, layers, heads, key-value heads, feed-forward width, vocabulary, positions, and
whether embeddings are tied: ``"tiny"``, and those of Qwen2.5's ``config.json``."""
WITH_ADAPTERS = ("7b",)
"""Too large to be trained whole on one GPU: 20 bytes a weight are 142 of its 139 GiB."""
_CHECKPOINTED = ("3b", "7b")


def shape_config(name: str) -> Qwen2Config:
    """Return the configuration of a shape in :data:`SHAPES`."""
    hidden, layers, heads, key_heads, ffn, vocabulary, positions, tied = SHAPES[name]
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        intermediate_size=ffn,
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        rms_norm_eps=1e-6,
        bos_token_id=None,
        eos_token_id=0,
    )


def random_model(name: str, device: torch.device) -> PreTrainedModel:
    """Return a model of a shape with random bfloat16 weights."""
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(shape_config(name), dtype=torch.bfloat16)
    return model.eval()


def matrix_weights(config: Qwen2Config) -> int:
    """Return the number of weights in the matrices of all layers and of the head."""
    width = config.hidden_size // config.num_attention_heads
    heads = 2 * (config.num_attention_heads + config.num_key_value_heads)  # queries to output
    layer = config.hidden_size * (heads * width + 3 * config.intermediate_size)
    return config.num_hidden_layers * layer + config.vocab_size * config.hidden_size


def decode_bytes(config: Qwen2Config, batch: int, context: int) -> int:
    """Return the bytes that one step reads: all matrices, and every row's keys and values."""
    width = config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * width
    return 2 * (matrix_weights(config) + token * context * batch)


def device_of() -> torch.device:
    """Return the GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def clock() -> float:
    """Return seconds, once the GPU has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


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
        start = clock()
        steps()
        taken = (clock() - start) / new
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


def step_rows(shape: str, lora: bool) -> Iterator[list[str]]:
    """Yield what a whole training step takes and where its time goes, after one to warm up."""
    tiny, adapters = shape == "tiny", lora or shape in WITH_ADAPTERS
    prompts, group, size, thought = (2, 2, 1024, (4, 8)) if tiny else (16, 16, 2048, (40, 120))
    model = random_model(shape, device_of())
    learner = Learner(
        with_lora(model) if adapters else model,
        OptimizerConfig(learning_rate=1e-6),
        dtype="bf16",
        max_tokens_per_micro_batch=512 if tiny else 16_384,
        gradient_checkpointing=shape in _CHECKPOINTED,
    )
    envs = make_envs(
        "SearchQA-v0",
        num_envs=prompts * group,
        vocabulary=shape_config(shape).vocab_size,
        options={"max_tokens": size, "dataset_options": {"hops": [1 if tiny else 2]}},
    )
    engine = ScriptedEngine(learner.model, rows=prompts * group, max_tokens=size)
    algorithm = Algorithm(prompts=prompts, group_size=group)
    for step in range(2):
        questions = list(range(step * prompts, (step + 1) * prompts))
        engine.follow(envs, questions, write_scripts(envs, questions, group, thought, step))
        start = clock()
        rollouts, parts = scripted_step(learner, engine, envs, questions, algorithm, step)
        seconds = clock() - start
    played = rollouts.trajectories
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    yield [
        f"{shape}, {'adapters' if adapters else 'all weights'}, {prompts} x {group}",
        f"{seconds:.1f}",
        f"{sum(len(t.tokens) for t in played):,}",
        f"{sum(t.num_searches for t in played):,}",
        *(f"{parts[part] / seconds:.1%}" for part in STEP_PARTS),
        f"{peak:.1f}",
    ]


def collect_garbage() -> None:
    """Give back what earlier parts held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


PARTS = {
    "decode": (
        "Decoding: the limit is the time to read all weights and every row's keys and values once",
        ["shape", "tokens/s", "step, ms", "limit, ms", "share of the limit"],
        decode_rows,
    ),
    "step": (
        "A whole training step: episodes with searches by scripts, then one update",
        ["shape", "seconds", "tokens", "searches", *STEP_PARTS, "peak, GiB"],
        step_rows,
    ),
}
"""Title, columns and rows of each part."""


def page(args: argparse.Namespace) -> str:
    """Measure and return the tables."""
    sections = [f"GPU: {torch.cuda.get_device_name()}.\n"] if torch.cuda.is_available() else []
    for part in args.part:
        title, columns, measure_rows = PARTS[part]
        rows = []
        for shape in args.shape:
            collect_garbage()
            rows += measure_rows(shape, args.lora)
        sections.append(f"## {title}\n\n{table(columns, rows)}\n")
    return "\n".join(sections)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = parser(__doc__, __spec__.name)
    options.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--shape", nargs="+", choices=SHAPES, default=["1.5b"])
    options.add_argument(
        "--tiny",
        dest="shape",
        action="store_const",
        const=["tiny"],
        help="as --shape tiny: seconds on a CPU",
    )
    options.add_argument("--lora", action="store_true", help="adapters at every shape")
    if options.parse_args(arguments).shape != ["tiny"] and not torch.cuda.is_available():
        options.error("expected a GPU for these shapes, got none; pass --tiny")
    packages = ["torch", "transformers", "numpy"]
    measure(options, "Throughput at the shapes of Qwen2.5", packages, page, arguments=arguments)


if __name__ == "__main__":
    main()
