"""Revision beside plain rollouts: tokens that a model samples in a second, in turn in one run.

    python -m search_env.benchmarks.speed.revision --output benchmarks/results/speed_revision.md

Both play the same model in the same rows on the same questions, sampled alike: plain rollouts from
the prompts, in groups of as many as a branch has roll-outs; revision from the prefixes of wasteful
episodes (:mod:`search_env.benchmarks.players.wasteful`), with bans, judgement and files. Tokens are
the policy's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from search_env.agents.inference.engine import Engine
from search_env.agents.inference.sampling import Sampling
from search_env.agents.learning.precision import TORCH_DTYPES
from search_env.agents.models import load_model
from search_env.agents.rollouts.collect import collect, make_envs
from search_env.agents.rollouts.revise import revise_episodes
from search_env.benchmarks.players.wasteful import Waste, wasteful_episode
from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.envs.search_qa import bare_env
from search_env.recording.revise.guards import episode_verifier, what_is_wrong
from search_env.recording.revise.retro_search import RetroSearch
from search_env.recording.revise.settings import RevisionSettings

TARGET = 0.5
SETTINGS = RevisionSettings(separator="\n", skip_bans=False)
SAMPLING = Sampling(temperature=1.0, top_p=0.98)
TIMES = ("environment", "retrieval", "prefill", "decode")


def play_in_turn(args: argparse.Namespace) -> tuple[NDArray[Any], NDArray[Any], list[Any]]:
    """Return tokens and seconds ``(repeats, 2)`` of rollouts and revision, and times by name."""
    options = {
        "max_tokens": args.max_tokens,
        "max_policy_tokens": 384,
        "dataset_options": {"questions": args.questions},
    }
    envs = make_envs("SearchQA-v0", num_envs=args.rows, vocabulary=1024, options=options)
    model = load_model(args.model, dtype=TORCH_DTYPES[args.dtype])
    engine = Engine(model, rows=args.rows, max_tokens=args.max_tokens, sampling=SAMPLING)
    search = RetroSearch(envs.tokenizer, SETTINGS, episode_verifier(SETTINGS))
    env, random = bare_env(gym.make("SearchQA-v0", **options)), np.random.default_rng(0)
    made = [wasteful_episode(env, n, random, Waste()) for n in range(args.questions)]
    episodes = [episode for episode in made if not what_is_wrong(episode, SETTINGS)]
    tokens, seconds = np.empty((args.repeats, 2)), np.empty((args.repeats, 2))
    times: list[Any] = [None, None]
    for repeat in range(args.repeats):
        start = time.perf_counter()
        rollouts = collect(
            *(envs, engine, range(args.questions)), group_size=SETTINGS.rollouts, seed=repeat
        )
        middle = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            played = revise_episodes(
                *(envs, engine, search, episodes, Path(folder) / "revised.jsonl"),
                reviser=args.model,
                seed=repeat,
            )
        seconds[repeat] = middle - start, time.perf_counter() - middle
        tokens[repeat] = rollouts.policy_tokens, played.policy_tokens
        times = [rollouts.seconds, played.seconds]
    return tokens, seconds, times


def page(args: argparse.Namespace) -> str:
    """Measure and return the tables."""
    torch.set_num_threads(args.threads)
    tokens, seconds, times = play_in_turn(args)
    rates = tokens / seconds  # (repeats, 2)
    ratio = rates[:, 1] / rates[:, 0]
    rows, shares = [], []
    for side, name in enumerate(("plain rollouts", "revision")):
        spread = f"{min(rates[:, side]):,.0f} to {max(rates[:, side]):,.0f}"
        rows.append([name, f"{np.mean(tokens[:, side]):,.0f}", _rate(rates[:, side]), spread])
        total = sum(times[side].values())
        shares.append([name, *(f"{times[side][part] / total:.1%}" for part in TIMES)])
    reached = "reached" if np.median(ratio) >= TARGET else "missed"
    return f"""{args.questions} questions, {args.rows} rows, {args.model} in {args.dtype}, branches
and groups of {SETTINGS.rollouts}; {args.repeats} rounds in turn, medians. Target: {TARGET:g} of
plain rollouts.

{table(["contender", "tokens a round", "tokens/s", "range"], rows)}

Revision samples **{np.median(ratio):.2f}** times as many tokens a second as plain rollouts
({min(ratio):.2f} to {max(ratio):.2f}): {reached}.

## Where the time goes

{table(["contender", *TIMES], shares)}

Shares are of the time in rows and engine, of the last round.
"""


def _rate(values: NDArray[Any]) -> str:
    return f"{np.median(values):,.0f}"


if __name__ == "__main__":
    options = parser(__doc__, __spec__.name)
    options.add_argument("--model", default="tiny-trained", help="what samples")
    options.add_argument("--dtype", default="fp32", choices=list(TORCH_DTYPES), help="its weights")
    options.add_argument("--rows", type=int, default=32, help="sequences side by side")
    options.add_argument("--questions", type=int, default=16, help="one for each group or episode")
    options.add_argument("--repeats", type=int, default=3, help="rounds of each contender")
    options.add_argument("--max-tokens", type=int, default=4096, help="context")
    options.add_argument("--threads", type=int, default=1, help="threads of torch")
    measure(options, "Revision", ["torch", "transformers", "numpy"], page)
