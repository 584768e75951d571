"""PPO on the toy, in one file: through two phases of reward to a policy that really searches.

    python -m search_env.agents.examples.ppo_toy [--masked] [--seed 0]

Phase 1 is R1-Searcher's, which pays searching and the format; phase 2 pays the answer. Both pay
`SHAPING` too, without which the toy is memorised: see `docs/toy.md`. The score is F1, the
environment's own return, of the greedy policy on all questions of `train`, and of `validation`,
whose answers it never saw. A spent budget is a rule of the task and ends an episode like any other
end, without bootstrapping. Left out of PPO, as nothing here needs it: value clipping.
"""

from __future__ import annotations

import argparse
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from search_env.metrics.answers import token_f1
from search_env.rewards import F1, Reward, evidence_recall, get_reward
from search_env.types import Transcript
from search_env.wrappers.staged_reward import R1_SEARCHER_PHASES, VectorStagedReward
from search_env.wrappers.token_window import VectorTokenWindow


def query_overlap(transcript: Transcript) -> dict[str, float]:
    """Return how near the best query came to the right one, as token F1: half a query counts."""
    right = [hop.query for hop in transcript.question.hops]
    return {"query_overlap": max([0.0, *(token_f1(s.query, right) for s in transcript.searches)])}


SHAPING = 0.5 * Reward("query-overlap", ("query_overlap",), query_overlap) + evidence_recall(0.5)
PHASES = tuple(get_reward(name) + SHAPING for name in R1_SEARCHER_PHASES)
SWITCH: dict[str, Any] = {"search_rate": 0.9, "format_rate": 0.9, "window": 8192}


@dataclass(frozen=True)
class Args:
    """Settings of a run."""

    seed: int = 0
    masked: bool = False  # sample well-formed actions only
    window: int = 4  # last tokens seen: enough to search, to copy and to answer
    phases: tuple[str | Reward, ...] = PHASES
    total_steps: int = 500_000  # of all rows together
    num_envs: int = 128
    num_steps: int = 32  # of each row between two updates
    epochs: int = 8
    minibatch: int = 512
    learning_rate: float = 3e-3  # at first; it falls to 0
    gamma: float = 1.0  # episodes are short
    entropy: float = 0.03
    score_every: int = 3  # updates


class Score(NamedTuple):
    """Means over all questions of a split; the best are 1."""

    episode_return: float
    search_rate: float
    evidence_rate: float  # episodes that found the document of their own question


class Progress(NamedTuple):
    """Scores of a run at one moment."""

    steps: int
    seconds: float
    phase: int
    train: Score
    validation: Score


Batch = namedtuple("Batch", "windows masks actions log_probs values rewards ends")  # (T, N, ...)


class Policy(nn.Module):
    """An actor and a critic over one-hot tokens."""

    def __init__(self, window: int, categories: int, actions: int) -> None:
        super().__init__()

        def network(outputs: int) -> nn.Sequential:
            wide = nn.Linear(window * categories, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
            return nn.Sequential(*wide, nn.Linear(128, outputs))

        self.categories, self.actor, self.critic = categories, network(actions), network(1)

    def forward(self, windows: Tensor, masks: Tensor) -> tuple[Any, Tensor]:
        """Return distributions over actions and values ``(B,)`` for windows ``(B, window)``."""
        x = nn.functional.one_hot(windows, self.categories).flatten(1).float()
        logits = self.actor(x).masked_fill(masks == 0, -1e9)
        return Categorical(logits=logits, validate_args=False), self.critic(x).squeeze(1)


def make(num_envs: int, window: int, split: str = "train") -> Any:
    """Return the toy, a window of its last tokens observed."""
    envs = gym.make_vec("SearchQA-Toy-v0", num_envs, autoreset_mode="SameStep", split=split)
    return VectorTokenWindow(envs, window, keep="last")


def score(choose: Callable[[Any, Any], Any], window: int, split: str) -> Score:
    """Ask each question of a split once; ``choose`` takes all windows and all masks."""
    envs = make(64, window, split)
    windows, _ = envs.reset(options={"index": list(range(64))})
    ended: dict[int, Transcript] = {}
    while len(ended) < 64:
        windows, *_ = envs.step(choose(windows, envs.unwrapped.action_masks()))
        ended = envs.unwrapped.transcripts | ended  # a row's first episode stays
    each = [(F1(t).total, bool(t.searches), evidence_recall()(t).total > 0) for t in ended.values()]
    return Score(*np.mean(each, axis=0).tolist())


def advantages(batch: Batch, values: Tensor, gamma: float, decay: float = 0.95) -> Tensor:
    """Return generalised advantages ``(T, N)``; ``values`` are those after the last step."""
    result, later = torch.zeros_like(batch.rewards), torch.zeros_like(values)
    for t in reversed(range(len(result))):
        on = 1 - batch.ends[t]
        error = batch.rewards[t] + gamma * on * values - batch.values[t]
        result[t] = later = error + gamma * decay * on * later
        values = batch.values[t]
    return result


def train(args: Args) -> Iterator[Progress]:
    """Train a policy; yield its scores every few updates."""
    torch.manual_seed(args.seed)
    base = make(args.num_envs, args.window)
    envs = VectorStagedReward(base, args.phases, after_episodes=None, **SWITCH)
    policy = Policy(args.window, base.single_observation_space.nvec[0], base.single_action_space.n)
    optimizer = torch.optim.Adam(policy.parameters(), lr=args.learning_rate, eps=1e-5)

    def look(windows: Any, masks: Any) -> tuple[Tensor, Tensor, Any, Tensor]:
        seen, allowed = torch.as_tensor(windows), torch.as_tensor(masks)
        allowed = allowed if args.masked else torch.ones_like(allowed)
        with torch.no_grad():
            return seen, allowed, *policy(seen, allowed)

    def greedy(windows: Any, masks: Any) -> Any:
        return look(windows, masks)[2].probs.argmax(1).numpy()

    start, size = time.perf_counter(), args.num_envs * args.num_steps
    windows, _ = envs.reset(seed=1000 * args.seed)
    updates = args.total_steps // size
    for number in range(1, updates + 1):
        steps = []  # play
        for _ in range(args.num_steps):
            seen, allowed, distribution, values = look(windows, base.unwrapped.action_masks())
            did = distribution.sample()
            windows, paid, terminated, truncated, _ = envs.step(did.numpy())
            results = (torch.as_tensor(x).float() for x in (paid, terminated | truncated))
            steps.append(Batch(seen, allowed, did, distribution.log_prob(did), values, *results))
        batch = Batch(*(torch.stack(column) for column in zip(*steps, strict=True)))
        after = look(windows, base.unwrapped.action_masks())[3]
        advantage = advantages(batch, after, args.gamma).flatten()

        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - (number - 1) / updates)
        flat = Batch(*(column.flatten(0, 1) for column in batch))
        for rows in (torch.randperm(size).reshape(-1, args.minibatch) for _ in range(args.epochs)):
            for i in rows:
                distribution, values = policy(flat.windows[i], flat.masks[i])
                ratio = (distribution.log_prob(flat.actions[i]) - flat.log_probs[i]).exp()
                gain = (advantage[i] - advantage[i].mean()) / (advantage[i].std() + 1e-8)
                policy_loss = -torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
                value_loss = 0.5 * (values - flat.values[i] - advantage[i]).square().mean()
                loss = policy_loss + value_loss - args.entropy * distribution.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()

        if number % args.score_every == 0 or number == updates:
            scores = (score(greedy, args.window, split) for split in ("train", "validation"))
            yield Progress(number * size, time.perf_counter() - start, envs.phase, *scores)


def main() -> None:
    """Train, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=Args.seed, help="of everything random")
    parser.add_argument("--masked", action="store_true", help="sample well-formed actions only")
    torch.set_num_threads(1)  # networks this small are slower on more
    for at in train(Args(**vars(parser.parse_args()))):
        line = f"{at.steps:7,} steps, {at.seconds:3.0f} s, phase {at.phase + 1}"
        for name, split in (("train", at.train), ("validation", at.validation)):
            line += "; {}: return {:.2f}, searches {:.2f}, finds {:.2f}".format(name, *split)
        print(line, flush=True)


if __name__ == "__main__":
    main()
