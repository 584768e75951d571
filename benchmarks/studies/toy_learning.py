r"""Learning on the toy: stock programs and the single file, through two phases to a real search.

    python -m search_env.benchmarks.studies.toy_learning --output benchmarks/results/toy_learning.md
        \ --plot docs/images/toy_learning.png

Stable-Baselines3's PPO and sb3-contrib's MaskablePPO with `MlpPolicy`, and the PPO of
`agents/examples/ppo_toy.py`: same settings, phases and seeds. Beside them an ablation without the
shaping term. Every run is a process of its own on one thread. The plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from search_env.agents.examples.ppo_toy import SWITCH, Args, Progress, score, train
from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.rewards.phases import EpisodeOutcome, PhaseRule
from search_env.wrappers.staged_reward import R1_SEARCHER_PHASES, StagedReward
from search_env.wrappers.token_window import TokenWindow

SOLVED = 0.95  # of the optimal return, which is 1
STEPS, MASKED_STEPS = 500_000, 300_000

Curve = list[Progress]


class BudgetEnds(gym.Wrapper[Any, Any, Any, Any]):
    """Calls a spent budget an end, or PPO, which adds a last value to a cut, would never answer."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; every end is a termination."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, False, info


class Phases(BaseCallback):
    """Switches the phase of all rows together, by the wrappers' rule, and scores the policy."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.curve: Curve = []
        self._args, self._start, self._updates = args, time.perf_counter(), 0
        rates = SWITCH["search_rate"], SWITCH["format_rate"], SWITCH["window"]
        self._rule = PhaseRule(len(args.phases), None, *rates)
        self._state = self._rule.start(0)

    def _on_step(self) -> bool:
        pairs = zip(self.locals["infos"], self.locals["dones"], strict=True)
        episodes = [
            EpisodeOutcome(info["num_searches"], info["well_formed"], info["valid"])
            for info, done in pairs
            if done
        ]
        before, (self._state, _) = self._state, self._rule.observe(self._state, episodes)
        if self._state.phase != before.phase:
            self.training_env.env_method("set_phase", self._state.phase)
        return True

    def _on_rollout_start(self) -> None:  # that is, after an update
        if self._updates and self._updates % self._args.score_every == 0:
            self._score()
        self._updates += 1

    def _on_training_end(self) -> None:
        self._score()

    def _score(self) -> None:
        scores = (score(self._choose, self._args.window, s) for s in ("train", "validation"))
        seconds = time.perf_counter() - self._start
        self.curve.append(Progress(self.num_timesteps, seconds, self._state.phase, *scores))

    def _choose(self, windows: Any, masks: Any) -> Any:
        extra = {"action_masks": masks} if self._args.masked else {}
        return self.model.predict(windows, deterministic=True, **extra)[0]


def stable_baselines(args: Args) -> Curve:
    """Train a stock algorithm with a stock policy on single environments."""

    def make() -> gym.Env[Any, Any]:
        env = TokenWindow(gym.make("SearchQA-Toy-v0"), args.window, keep="last")
        return BudgetEnds(StagedReward(env, args.phases, after_episodes=None))

    callback = Phases(args)
    model = (MaskablePPO if args.masked else PPO)(
        "MlpPolicy",
        DummyVecEnv([make] * args.num_envs),
        learning_rate=lambda left: left * args.learning_rate,
        n_steps=args.num_steps,
        batch_size=args.minibatch,
        n_epochs=args.epochs,
        gamma=args.gamma,
        ent_coef=args.entropy,
        policy_kwargs={"net_arch": [128, 128], "activation_fn": torch.nn.ReLU},
        seed=args.seed,
        device="cpu",
    )
    model.learn(args.total_steps, callback)
    return callback.curve


def single_file(args: Args) -> Curve:
    """Train with the example."""
    return list(train(args))


class Contender(NamedTuple):
    """What is trained, and how."""

    name: str
    learn: Callable[[Args], Curve]
    masked: bool = False
    shaped: bool = True

    def run(self, seed: int) -> Curve:
        """Train with one seed; with masks, for fewer steps."""
        steps = MASKED_STEPS if self.masked else STEPS
        torch.set_num_threads(1)
        phases = {} if self.shaped else {"phases": R1_SEARCHER_PHASES}
        return self.learn(Args(seed=seed, masked=self.masked, total_steps=steps, **phases))


CONTENDERS = (
    Contender("Stable-Baselines3 PPO", stable_baselines),
    Contender("sb3-contrib MaskablePPO", stable_baselines, masked=True),
    Contender("ppo_toy.py", single_file),
    Contender("MaskablePPO, no shaping", stable_baselines, masked=True, shaped=False),
)


def run_all(seeds: Sequence[int], jobs: int) -> dict[str, list[Curve]]:
    """Train every contender with every seed, ``jobs`` at a time."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {c.name: [pool.submit(c.run, seed) for seed in seeds] for c in CONTENDERS}
        return {name: [future.result() for future in own] for name, own in futures.items()}


def figures(curve: Curve) -> list[float]:
    """Return the cells of one seed; NaN where something was never reached."""
    begun = [at for at in curve if at.phase == 1]
    solved = [at for at in curve if at.train.episode_return >= SOLVED]
    unseen = [at for at in curve if at.validation.episode_return >= SOLVED]
    steps = [float(own[0].steps) if own else float("nan") for own in (begun, solved, unseen)]
    seconds = solved[0].seconds if solved else float("nan")
    last = curve[-1].train, curve[-1].validation
    returns = [score.episode_return for score in last]
    return [steps[0], steps[1], seconds, steps[2], *returns, last[0].evidence_rate]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return the mean and the range of some seeds' figures."""
    if np.isnan(values).any():
        reached = np.count_nonzero(~np.isnan(values))
        return f"in {reached} of {len(values)}" if reached else "never"
    low, high = min(values), max(values)
    return f"{np.mean(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def rows(curves: dict[str, list[Curve]]) -> list[list[str]]:
    """Return the table: a row a contender."""
    digits = (0, 0, 0, 0, 2, 2, 2)
    return [
        [name, *map(spread, zip(*map(figures, seeds), strict=True), digits)]
        for name, seeds in curves.items()
    ]


def plot(curves: dict[str, list[Curve]], path: Path) -> None:
    """Draw the learning curves: mean and range over seeds, train and validation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    titles = {"train": "questions trained on", "validation": "questions never seen"}
    for axis, (split, title) in zip(axes, titles.items(), strict=True):
        for number, (name, seeds) in enumerate(curves.items()):
            steps, colour = [at.steps for at in seeds[0]], f"C{number}"
            values = np.array([[getattr(at, split).episode_return for at in c] for c in seeds])
            axis.plot(steps, values.mean(0), color=colour, label=name)
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
            switch = np.nanmean([figures(curve)[0] for curve in seeds])
            axis.plot(switch, 0.0, marker="^", color=colour, clip_on=False, zorder=3)
        axis.axhline(1.0, color="0.5", lw=0.8, ls="--")
        axis.set(title=title, xlabel="environment steps (triangle: phase 2 begins)")
        axis.set_ylim(-0.02, 1.05)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("return (F1) of the greedy policy; best is 1")
    axes[1].legend(loc="upper left", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def page(args: argparse.Namespace) -> str:
    """Train, draw, and return the table."""
    curves = run_all(range(args.seeds), args.jobs)
    if args.plot is not None:
        plot(curves, args.plot)
    columns = ["contender", "steps to phase 2", "steps to .95", "seconds to .95"]
    columns += ["steps to .95, unseen", "return at the end", "return, unseen", "finds the document"]
    return f"""`SearchQA-Toy-v0`, {args.seeds} seeds, {STEPS:,} steps each ({MASKED_STEPS:,} with
masks), {args.jobs} runs at a time on one thread each; the learning rate falls to 0 over them.
Return is F1 of the greedy policy over all 64 questions of a split: `train`, and `validation`, whose
answers the policy never saw (a guess is worth 1/8 there). Mean and range over seeds; steps are
those of the first score that reached it, one every
{Args.num_envs * Args.num_steps * Args.score_every:,} steps.

{table(columns, rows(curves))}

Phases are R1-Searcher's two, switched when 90 % of the last {SWITCH["window"]:,} episodes search
and 90 % are well formed. Both pay the shaping of `agents/examples/ppo_toy.py` too: half of the best
query's F1 against the right query (the form of StepSearch's key term), and half for finding the
question's document. The last row is the same without it: it searches, since that is paid, but never
finds anything, and is left with learning the training answers by heart.

Stable-Baselines3 gets a wrapper that calls a spent budget an end. Without it, PPO treats running
out of tokens as something that goes on and never answers: return 0 after 500,000 steps (one seed).
"""


if __name__ == "__main__":
    options = parser(__doc__, __spec__.name)
    options.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    options.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options.add_argument("--plot", type=Path, help="picture to write")
    packages = ["gymnasium", "torch", "stable-baselines3", "sb3-contrib"]
    measure(options, "Learning on the toy", packages, page)
