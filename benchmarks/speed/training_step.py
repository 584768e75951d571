r"""A whole training step: rollouts with searches and an update, beside TRL's ``GRPOTrainer``.

    pip install trl==1.16.0 datasets accelerate
    python -m search_env.benchmarks.speed.training_step \
        --output benchmarks/results/speed_training_step.md

Both train the same model with GRPO, one optimizer step for a batch of episodes; TRL plays them by
its own tool loop (``tools=``). Both policies sample as usual and are then made to write the same
scripts (:mod:`search_env.benchmarks.speed.scripted`), which is checked; TRL needs an
end-of-sequence token to end a turn, which is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import numpy as np
import torch
from transformers import Qwen2ForCausalLM

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.benchmarks.speed.scripted import ScriptedEngine, scripted_step, tiny_model
from search_env.benchmarks.speed.trl_peer import LEARNING_RATE, Measured, Workload, train_with_trl

TARGET, HOPED = 2.0, 3.0


class Ours:
    """This package's training step: ``collect``, then ``update``."""

    def __init__(self, work: Workload, dtype: str, max_tokens: int) -> None:
        self.work, self.measured = work, Measured()
        learning = OptimizerConfig(learning_rate=LEARNING_RATE)
        self._learner = Learner(tiny_model(max_tokens, Qwen2ForCausalLM), learning, dtype=dtype)
        rows = work.envs.num_envs
        self._engine = ScriptedEngine(self._learner.model, rows=rows, max_tokens=max_tokens)
        self._algorithm = Algorithm(
            prompts=rows // work.group, group_size=work.group, aggregation="token_mean"
        )

    def step(self, number: int) -> None:
        """Take a step."""
        work, measured = self.work, self.measured
        questions = work.questions(number)
        self._engine.follow(work.envs, questions, work.scripts[number])
        start = time.perf_counter()
        rollouts, _ = scripted_step(
            self._learner, self._engine, work.envs, questions, self._algorithm, number
        )
        measured.seconds.append(time.perf_counter() - start)
        played = rollouts.trajectories
        measured.written.append([t.tokens[t.policy].tolist() for t in played])
        behind = [len(t.tokens) - int(np.argmax(t.policy)) - t.num_policy_tokens for t in played]
        measured.read.append(sum(behind))


def check(work: Workload, ours: Measured, peer: Measured) -> None:
    """Raise unless both wrote the scripts and read documents of about the same length."""
    for step in range(len(work.scripts)):
        for name, measured in (("ours", ours), ("TRL", peer)):
            if measured.written[step] != work.tokens(step):
                raise RuntimeError(f"Expected the scripts of step {step} from {name}, got others.")
        if abs(ours.read[step] / peer.read[step] - 1.0) > 0.05:
            raise RuntimeError(
                f"Expected documents of equal length in step {step}, got {ours.read[step]} tokens "
                f"in ours and {peer.read[step]} in TRL."
            )


def speed_row(dtype: str, ours: Measured, peer: Measured, work: Workload) -> list[str]:
    """Return the line of a table; the first step warmed both up and is left out."""
    tokens = sum(len(ids) for step in range(1, len(work.scripts)) for ids in work.tokens(step))
    mine, theirs = ours.seconds[1:], peer.seconds[1:]
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    medians = [f"{statistics.median(seconds):.2f}" for seconds in (mine, theirs)]
    rates = [f"{tokens / sum(seconds):,.0f}" for seconds in (mine, theirs)]
    spread = [f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]
    return [dtype, *medians, *rates, *spread]


def page(args: argparse.Namespace) -> str:
    """Measure everything and return the tables."""
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    work = Workload.of(args.rows, args.group, args.steps + 1, args.max_tokens)
    speeds = []
    for dtype in args.dtypes.split(","):
        ours = Ours(work, dtype, args.max_tokens)
        peer = train_with_trl(work, dtype, args.max_tokens, args.micro, ours.step)
        check(work, ours.measured, peer)
        speeds.append(speed_row(dtype, ours.measured, peer, work))
        read = ours.measured.read[-1] / args.rows
    written = np.mean([len(tokens) for tokens in work.tokens(args.steps)])
    searches = np.mean([len(script) - 1 for script in work.scripts[args.steps]])
    columns = ["weights", "ours, s", "TRL, s", "ours, tokens/s", "TRL, tokens/s", "times", "range"]
    return f"""{args.rows} episodes a step in groups of {args.group}: {searches:.1f} searches,
{written:.0f} tokens of the policy and {read:.0f} of documents each. Qwen2 of 2.0 million random
parameters, GRPO, one optimizer step for all episodes, micro-batches of {args.micro} episodes in TRL
and of 16,384 tokens here. bf16 is autocast over float32 weights in TRL, and bfloat16 weights that
follow float32 masters here. Medians of {args.steps} steps taken in turn, after one to warm up.
Tokens are the policy's alone. Target: {TARGET:g} times as fast, {HOPED:g} hoped for.

{table(columns, speeds)}
"""


if __name__ == "__main__":
    options = parser(__doc__, __spec__.name)
    options.add_argument("--rows", type=int, default=64, help="episodes of a step")
    options.add_argument("--group", type=int, default=8, help="episodes of a question")
    options.add_argument("--steps", type=int, default=3, help="steps of each, after one to warm up")
    options.add_argument("--dtypes", default="fp32,bf16", help="types that are computed in")
    options.add_argument("--micro", type=int, default=8, help="episodes in a micro-batch of TRL")
    options.add_argument("--max-tokens", type=int, default=3072, help="context")
    options.add_argument("--threads", type=int, default=1, help="threads of torch")
    measure(
        options, "A training step", ["torch", "transformers", "trl", "accelerate", "numpy"], page
    )
