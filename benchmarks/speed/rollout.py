"""Rollouts against the environment: the engine beside ``generate`` called turn by turn.

    python -m search_env.benchmarks.speed.rollout --output benchmarks/results/speed_rollout.md

Both write the same scripts (:mod:`search_env.benchmarks.speed.scripted`), which is checked. The
peer is the loop of Search-R1 (``search_r1/llm_agent/generation.py``) with a stopping criterion for
each row, which the original lacks: active rows are left-padded, ``generate`` writes until each has
closed its query, and the next turn starts from the texts alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from search_env.agents.rollouts.collect import collect, make_envs
from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.benchmarks.speed.scripted import (
    Script,
    ScriptedEngine,
    TokenIds,
    forced_to,
    tiny_model,
    write_scripts,
)
from search_env.envs.search_qa import Observation
from search_env.envs.search_qa_vector import SearchQAVectorEnv

TARGET = 2.0
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


Played = tuple[list[list[int]], float]
"""All tokens of each episode, and the seconds of all episodes together."""


def run_engine(
    envs: SearchQAVectorEnv,
    model: PreTrainedModel,
    scripts: list[Script],
    max_tokens: int,
    group: int,
) -> Played:
    """Play all episodes with the engine, rows refilled as they end."""
    questions = range(len(scripts) // group)
    engine = ScriptedEngine(model, rows=envs.num_envs, max_tokens=max_tokens)
    engine.follow(envs, questions, scripts)
    start = time.perf_counter()
    trajectories = collect(envs, engine, questions, group_size=group).trajectories
    seconds = time.perf_counter() - start
    return [trajectory.tokens.tolist() for trajectory in trajectories], seconds


class _ClosedQuery(StoppingCriteria):
    """Ends each row where its turn ends."""

    def __init__(self, turns: list[TokenIds], start: int) -> None:
        self._ends = torch.tensor([start + len(turn) for turn in turns])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        return input_ids.shape[1] >= self._ends


def generate_turn(
    model: PreTrainedModel, texts: Sequence[TokenIds], turns: list[TokenIds]
) -> list[TokenIds]:
    """Return what ``generate`` writes behind each text, all rows padded to the longest."""
    width = max(map(len, texts))
    ids = np.stack([np.pad(text, (width - len(text), 0)) for text in texts])
    mask = np.stack([np.arange(width) >= width - len(text) for text in texts]).astype(np.int64)
    output = model.generate(  # type: ignore[operator]
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        do_sample=True,
        top_k=0,
        max_new_tokens=max(map(len, turns)),
        logits_processor=forced_to(turns, width),
        stopping_criteria=StoppingCriteriaList([_ClosedQuery(turns, width)]),
        pad_token_id=0,
    )
    written = output.numpy()[:, width:]
    return [line[: len(turn)] for line, turn in zip(written, turns, strict=True)]


def run_generate(
    envs: SearchQAVectorEnv, model: PreTrainedModel, scripts: list[Script], group: int
) -> Played:
    """Play all episodes batch by batch, turn by turn."""
    episodes, start = [], time.perf_counter()
    for first in range(0, len(scripts), envs.num_envs):
        batch = scripts[first : first + envs.num_envs]
        index = [(first + row) // group for row in range(len(batch))]
        obs, _ = envs.reset(options={"index": index + index[:1] * (envs.num_envs - len(batch))})
        finished: dict[int, list[int]] = {}
        for turn in range(max(map(len, batch))):
            active = [row for row in range(len(batch)) if row not in finished]
            texts = [obs["tokens"][row, : obs["length"][row]].astype(np.int64) for row in active]
            written = generate_turn(model, texts, [batch[row][turn] for row in active])
            obs = _write(envs, dict(zip(active, written, strict=True)), finished)
        episodes += [finished[row] for row in range(len(batch))]
    return episodes, time.perf_counter() - start


def _write(
    envs: SearchQAVectorEnv, lines: dict[int, TokenIds], finished: dict[int, list[int]]
) -> Observation:
    """Hand the environment a turn of each row; return the observation with the documents."""
    for step in range(max(map(len, lines.values()))):
        going = [row for row, line in lines.items() if step < len(line) and row not in finished]
        rows = np.array(going, np.int64)
        envs.send(np.array([lines[row][step] for row in rows]), rows)
        obs, *_ = envs.recv(len(rows))
        finished.update({row: list(t.tokens) for row, t in envs.transcripts.items()})
    return obs


def play_in_turn(dtype: str, args: argparse.Namespace) -> tuple[NDArray[Any], list[list[int]], int]:
    """Return seconds ``(repeats, 2)`` of engine and ``generate``, episodes, and policy tokens."""
    options = {"max_tokens": args.max_tokens}
    envs = make_envs("SearchQA-v0", num_envs=args.rows, vocabulary=1024, options=options)
    model = tiny_model(args.max_tokens, LlamaForCausalLM, eos_token_id=None)
    model = model.to(DTYPES[dtype]).eval().requires_grad_(False)
    scripts = write_scripts(envs, range(args.questions), args.group)
    seconds = np.empty((args.repeats, 2))
    for repeat in range(args.repeats):
        episodes, seconds[repeat, 0] = run_engine(envs, model, scripts, args.max_tokens, args.group)
        others, seconds[repeat, 1] = run_generate(envs, model, scripts, args.group)
        if episodes != others:
            raise RuntimeError("Expected equal episodes of both contenders, got others.")
    return seconds, episodes, sum(len(turn) for script in scripts for turn in script)


def page(args: argparse.Namespace) -> str:
    """Measure everything and return the table."""
    torch.set_num_threads(args.threads)
    rows = []
    for dtype in args.dtypes.split(","):
        seconds, episodes, tokens = play_in_turn(dtype, args)
        times = seconds[:, 1] / seconds[:, 0]
        rates = [f"{rate:,.0f}" for rate in np.median(tokens / seconds, axis=0)]
        spread = f"{min(times):.2f} to {max(times):.2f}"
        rows.append([f"{dtype}, {args.rows} rows", *rates, f"{np.median(times):.2f}", spread])
    sizes = list(map(len, episodes))
    columns = ["weights", "engine, tokens/s", "`generate`, tokens/s", "times", "range"]
    return f"""{len(sizes)} episodes of {min(sizes)} to {max(sizes)} tokens, {np.mean(sizes):.0f} in
the mean, {tokens / len(sizes):.0f} of them the policy's; groups of {args.group}. Llama of 2.0
million random parameters. Tokens are the policy's alone. Medians of {args.repeats} rounds in turn.
Target: {TARGET:g} times `generate` driven turn by turn.

{table(columns, rows)}
"""


if __name__ == "__main__":
    options = parser(__doc__, __spec__.name)
    options.add_argument("--rows", type=int, default=64, help="sequences side by side")
    options.add_argument("--questions", type=int, default=32, help="one for each group")
    options.add_argument("--group", type=int, default=8, help="episodes of a question")
    options.add_argument("--dtypes", default="fp32,bf16", help="types of the weights")
    options.add_argument("--repeats", type=int, default=3, help="rounds of each contender")
    options.add_argument("--max-tokens", type=int, default=4096, help="context")
    options.add_argument("--threads", type=int, default=1, help="threads of torch")
    measure(options, "Rollouts", ["torch", "transformers", "numpy"], page)
