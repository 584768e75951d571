"""Rollouts against the environment: the engine beside ``generate`` called turn by turn.

    python -m search_env.benchmarks.speed.rollout --output benchmarks/results/speed_rollout.md

Both contenders write the same scripts (:mod:`search_env.benchmarks.speed.scripted`) with the same
random model in the same environment, which is checked. The peer is the loop of Search-R1
(``search_r1/llm_agent/generation.py``): all active rows are left-padded, ``generate`` writes until
each of them has closed its query, the documents are appended and the next turn starts from the
texts alone. It is given a stopping criterion for each row, which the original lacks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

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


@dataclass(frozen=True, slots=True)
class Measured:
    """All tokens of each episode, how many the policy wrote, and seconds by part and in total."""

    episodes: list[list[int]]
    policy_tokens: int
    seconds: dict[str, float]


def run_engine(
    envs: SearchQAVectorEnv,
    model: PreTrainedModel,
    scripts: list[Script],
    max_tokens: int,
    group: int,
) -> Measured:
    """Play all episodes with the engine, rows refilled as they end."""
    questions = range(len(scripts) // group)
    engine = ScriptedEngine(model, rows=envs.num_envs, max_tokens=max_tokens)
    engine.follow(envs, questions, scripts)
    start = time.perf_counter()
    rollouts = collect(envs, engine, questions, group_size=group)
    seconds = {**rollouts.seconds, "total": time.perf_counter() - start}
    episodes = [trajectory.tokens.tolist() for trajectory in rollouts.trajectories]
    return Measured(episodes, rollouts.policy_tokens, seconds)


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
) -> Measured:
    """Play all episodes batch by batch, turn by turn."""
    episodes, seconds = [], {"generate": 0.0, "environment": 0.0}
    begun = time.perf_counter()
    for first in range(0, len(scripts), envs.num_envs):
        batch = scripts[first : first + envs.num_envs]
        index = [(first + row) // group for row in range(len(batch))]
        obs, _ = envs.reset(options={"index": index + index[:1] * (envs.num_envs - len(batch))})
        finished: dict[int, list[int]] = {}
        for turn in range(max(map(len, batch))):
            active = [row for row in range(len(batch)) if row not in finished]
            texts = [obs["tokens"][row, : obs["length"][row]].astype(np.int64) for row in active]
            start = time.perf_counter()
            written = generate_turn(model, texts, [batch[row][turn] for row in active])
            middle = time.perf_counter()
            obs = _write(envs, dict(zip(active, written, strict=True)), finished)
            seconds["generate"] += middle - start
            seconds["environment"] += time.perf_counter() - middle
        episodes += [finished[row] for row in range(len(batch))]
    seconds["total"] = time.perf_counter() - begun
    tokens = sum(len(turn) for script in scripts for turn in script)
    return Measured(episodes, tokens, seconds)


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


def play_in_turn(
    rows: int, questions: int, dtype: str, repeats: int, max_tokens: int, group: int
) -> tuple[list[Measured], list[Measured]]:
    """Return the runs of the engine and of ``generate``, taken in turn.

    Raises:
        RuntimeError: The contenders did not write the same.
    """
    envs = make_envs(
        "SearchQA-v0", num_envs=rows, vocabulary=1024, options={"max_tokens": max_tokens}
    )
    model = tiny_model(max_tokens, LlamaForCausalLM, eos_token_id=None)
    model = model.to(DTYPES[dtype]).eval().requires_grad_(False)
    scripts = write_scripts(envs, range(questions), group)
    engine, generate = [], []
    for _ in range(repeats):
        engine.append(run_engine(envs, model, scripts, max_tokens, group))
        generate.append(run_generate(envs, model, scripts, group))
        if engine[-1].episodes != generate[-1].episodes:
            raise RuntimeError("Expected equal episodes of both contenders, got others.")
    return engine, generate


def page(args: argparse.Namespace) -> str:
    """Measure everything and return the tables."""
    torch.set_num_threads(args.threads)
    speeds, shares, lengths = [], [], ""
    for dtype in args.dtypes.split(","):
        runs = play_in_turn(
            args.rows, args.questions, dtype, args.repeats, args.max_tokens, args.group
        )
        totals = np.array([[run.seconds["total"] for run in own] for own in runs])
        times = totals[1] / totals[0]
        name = f"{dtype}, {args.rows} rows"
        written = np.array([[run.policy_tokens for run in own] for own in runs])
        rates = np.median(written / totals, axis=1)
        figures = [*(f"{rate:,.0f}" for rate in rates), f"{np.median(times):.2f}"]
        speeds.append([name, *figures, f"{min(times):.2f} to {max(times):.2f}"])
        for contender, own in zip(("engine", "generate"), runs, strict=True):
            parts = own[-1].seconds
            cells = [f"{parts[p] / parts['total']:.1%}" if p in parts else "" for p in PARTS]
            shares.append([f"{name}, {contender}", *cells, f"{parts['total']:.1f}"])
        sizes = [len(episode) for episode in runs[0][0].episodes]
        lengths = (
            f"{len(sizes)} episodes of {min(sizes)} to {max(sizes)} tokens, "
            f"{np.mean(sizes):.0f} in the mean, "
            f"{runs[0][0].policy_tokens / len(sizes):.0f} of them the policy's"
        )
    columns = ["weights", "engine, tokens/s", "`generate`, tokens/s", "times", "range"]
    return f"""{lengths}; groups of {args.group}. Llama of 2.0 million random parameters.
Tokens are the policy's alone. Medians of {args.repeats} rounds in turn. Target: {TARGET:g} times
`generate` driven turn by turn.

{table(columns, speeds)}

## Where the time goes

{table(["", *PARTS, "seconds"], shares)}
"""


PARTS = ("environment", "retrieval", "prefill", "decode", "generate")


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
