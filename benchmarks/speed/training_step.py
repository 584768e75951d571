"""A whole training step: rollouts with searches and an update, beside TRL's ``GRPOTrainer``.

Run it in an environment that TRL is installed into::

    pip install trl==1.16.0 datasets accelerate
    python -m benchmarks.speed.training_step --output benchmarks/results/speed_training_step.md

Both train the same model from the same weights with GRPO, one optimizer step for a batch of
episodes. TRL plays them by its own tool loop (``tools=``): ``generate`` for all active rows, calls
parsed out of the text, the same retriever behind a function ``search``, documents through the chat
template, ``generate`` again from all tokens. Both policies sample as usual and are then made to
write the same scripts (:mod:`benchmarks.speed.scripted`), so searches and tokens are equal, which is
checked; TRL needs an end-of-sequence token to end a turn, which is not counted. Steps are taken in
turn, so a slow minute of the machine falls on both.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2ForCausalLM

from agents.algorithm import Algorithm
from agents.learner import Learner, OptimizerConfig
from agents.rollout import collect
from agents.updates import update
from benchmarks.reports.measurement_page import heading, publish, table
from benchmarks.speed.scripted import ScriptedEngine
from benchmarks.speed.trl_peer import train_with_trl
from benchmarks.speed.workload import LEARNING_RATE, Measured, Workload, tiny_model

TARGET, HOPED = 2.0, 3.0
ENVIRONMENT_LIMIT = 0.05
PARTS = ("environment", "retrieval", "prefill", "decode", "score", "learn")


class Ours:
    """This package's step: :func:`~agents.rollout.collect` and :func:`~agents.updates.update`."""

    def __init__(self, work: Workload, dtype: str, max_tokens: int) -> None:
        self.work, self.measured = work, Measured()
        learning = OptimizerConfig(learning_rate=LEARNING_RATE)
        model = tiny_model(max_tokens, Qwen2ForCausalLM)
        self._learner = Learner(model, learning, dtype="fp32" if dtype == "fp32" else "bf16")
        rows = work.envs.num_envs
        self._engine = ScriptedEngine(self._learner.model, rows=rows, max_tokens=max_tokens)
        self._algorithm = Algorithm(
            prompts=rows // work.group, group_size=work.group, aggregation="token_mean"
        )

    def step(self, number: int) -> None:
        """Take a step."""
        work = self.work
        questions = work.questions(number)
        self._engine.follow(work.envs, questions, work.scripts[number])
        start = time.perf_counter()
        rollouts = collect(work.envs, self._engine, questions, group_size=work.group, seed=number)
        learnt = update(self._learner, rollouts.trajectories, self._algorithm)
        self.measured.seconds.append(time.perf_counter() - start)
        spent = {"score": learnt["time/score"], "learn": learnt["time/learn"]}
        self.measured.parts.append({**rollouts.seconds, **spent})
        played = rollouts.trajectories
        self.measured.written.append([t.tokens[t.policy].tolist() for t in played])
        behind = [len(t.tokens) - int(np.argmax(t.policy)) - t.num_policy_tokens for t in played]
        self.measured.read.append(sum(behind))


def check(work: Workload, ours: Measured, peer: Measured) -> None:
    """Make sure that both did the work.

    Raises:
        RuntimeError: Somebody wrote another thing, or read much more or less.
    """
    for step in range(len(work.scripts)):
        wanted = work.tokens(step)
        for name, found in (("ours", ours), ("TRL", peer)):
            if found.written[step] != wanted:
                raise RuntimeError(f"Expected the scripts of step {step} from {name}, got others.")
        if abs(ours.read[step] / peer.read[step] - 1.0) > 0.05:
            raise RuntimeError(
                f"Expected documents of equal length in step {step}, got {ours.read[step]} tokens "
                f"in ours and {peer.read[step]} in TRL."
            )


def speed_row(dtype: str, ours: Measured, peer: Measured, work: Workload) -> list[str]:
    """Return the line of a table; the first step warmed both up and is left out."""
    tokens = [sum(map(len, work.tokens(step))) for step in range(1, len(work.scripts))]
    mine, theirs = ours.seconds[1:], peer.seconds[1:]
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    figures = [
        f"{statistics.median(mine):.2f}",
        f"{statistics.median(theirs):.2f}",
        f"{sum(tokens) / sum(mine):,.0f}",
        f"{sum(tokens) / sum(theirs):,.0f}",
        f"{statistics.median(ratios):.2f} ({_verdict(statistics.median(ratios))})",
        f"{min(ratios):.2f} to {max(ratios):.2f}",
    ]
    return [dtype, *figures]


def share_rows(dtype: str, ours: Measured, peer: Measured) -> tuple[list[str], list[str]]:
    """Return where each contender's time goes, as lines of two tables."""

    def shares(measured: Measured, parts: Sequence[str]) -> list[str]:
        whole = sum(measured.seconds[1:])
        sums = [sum(step[part] for step in measured.parts[1:]) / whole for part in parts]
        return [f"{share:.1%}" for share in [*sums, max(0.0, 1.0 - sum(sums))]]

    return [dtype, *shares(ours, PARTS)], [dtype, *shares(peer, ("generate", "search"))]


def environment_share(measured: Measured) -> float:
    """Return the share of the environment's own code in the steps."""
    spent = sum(step["environment"] for step in measured.parts[1:])
    return spent / sum(measured.seconds[1:])


def result(given: argparse.Namespace, command: str) -> str:
    """Measure everything and return the result as Markdown."""
    packages = ["search-env", "torch", "transformers", "trl", "accelerate", "numpy"]
    head = heading("A training step", command, packages).replace(
        "one thread;", f"{torch.get_num_threads()} thread(s) of torch;"
    )
    work = Workload.of(given.rows, given.group, given.steps + 1, given.max_tokens)
    speeds, shares, peers, environment = [], [], [], []
    for dtype in given.dtypes.split(","):
        ours = Ours(work, dtype, given.max_tokens)
        peer = train_with_trl(work, dtype, given.max_tokens, given.micro, ours.step)
        check(work, ours.measured, peer)
        speeds.append(speed_row(dtype, ours.measured, peer, work))
        mine, theirs = share_rows(dtype, ours.measured, peer)
        shares.append(mine)
        peers.append(theirs)
        environment.append(environment_share(ours.measured))
        read = ours.measured.read[-1] / given.rows
    written = np.mean([len(tokens) for tokens in work.tokens(given.steps)])
    searches = np.mean([len(script) - 1 for script in work.scripts[given.steps]])
    most = max(environment)
    kept = "kept" if most < ENVIRONMENT_LIMIT else "not kept"
    columns = ["weights", "ours, s", "TRL, s", "ours, tokens/s", "TRL, tokens/s", "times", "range"]
    work_done = (
        f"{given.rows} episodes a step in groups of {given.group}: {searches:.1f} searches, "
        f"{written:.0f} tokens of the policy and {read:.0f} of documents each."
    )
    return f"""{head}
{work_done}
Qwen2 of 2.0 million random parameters, GRPO, one optimizer step for all episodes, micro-batches of
{given.micro} episodes in TRL and of 16,384 tokens here. bf16 is autocast over float32 weights in
TRL, and bfloat16 weights that follow float32 masters here. Medians of {given.steps} steps taken in
turn, after one to warm up. Tokens are the policy's alone. Target: {TARGET:g} times as fast,
{HOPED:g} hoped for.

{table(columns, speeds)}

## Where the time goes in ours

{table(["weights", *PARTS, "rest"], shares)}

The environment's own code takes at most {most:.1%} of a step (limit {ENVIRONMENT_LIMIT:.0%}:
{kept}).

## Where the time goes in TRL

{table(["weights", "generate", "search", "rest"], peers)}

The rest is parsing and encoding between turns, log-probabilities, gradients and the optimizer.
"""


def _verdict(ratio: float) -> str:
    if ratio >= HOPED:
        return "hope met"
    return "target met" if ratio >= TARGET else f"{TARGET - ratio:.2f} short of the target"


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=64, help="episodes of a step")
    parser.add_argument("--group", type=int, default=8, help="episodes of a question")
    parser.add_argument("--steps", type=int, default=3, help="steps of each, after one to warm up")
    parser.add_argument("--dtypes", default="fp32,bf16", help="types that are computed in")
    parser.add_argument("--micro", type=int, default=8, help="episodes in a micro-batch of TRL")
    parser.add_argument("--max-tokens", type=int, default=3072, help="context")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    command = (
        f"python -m benchmarks.speed.training_step --rows {given.rows} --group {given.group} "
        f"--steps {given.steps} --dtypes {given.dtypes} --micro {given.micro} "
        f"--threads {given.threads}"
    )
    publish(result(given, command), given.output)


if __name__ == "__main__":
    main()
