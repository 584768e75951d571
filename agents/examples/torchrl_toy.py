"""TorchRL's PPO on the toy: the native vector environment, unchanged, masks in the observation.

    python -m search_env.agents.examples.torchrl_toy [--steps 400000] [--seed 0]

The policy sees the last four tokens and samples well-formed actions only. Rewards are the phases of
:mod:`~search_env.agents.examples.ppo_toy`, and so are the settings; the second phase begins after
a fifth of the steps. A spent budget is a rule of the task, so episodes that ran out of tokens are
ends, not bootstrapped. Scores are of the greedy policy: mean F1 on all questions of `train`, and of
`validation`, whose answers it never saw.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from search_env.agents.examples.ppo_toy import PHASES
from search_env.metrics.answers import token_f1

WINDOW, ROWS, LENGTH = 4, 128, 32
TOY = "SearchQA-Toy-v0"


class Progress(NamedTuple):
    """Scores at one moment."""

    steps: int
    seconds: float
    train: float
    validation: float


class LastTokens(nn.Module):
    """A network over the last tokens, one-hot; empty places have a category of their own."""

    def __init__(self, ids: int, outputs: int) -> None:
        super().__init__()
        self.ids = ids
        self.layers = nn.Sequential(
            nn.Linear(WINDOW * (ids + 1), 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, outputs),
        )

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Return ``(..., outputs)`` for tokens ``(..., L)`` and lengths ``(...)``."""
        places = length.reshape(*tokens.shape[:-1], 1) - WINDOW + torch.arange(WINDOW)
        seen = tokens.long().gather(-1, places.clamp(min=0))
        seen = torch.where(places >= 0, seen, self.ids)
        hot: Tensor = self.layers(nn.functional.one_hot(seen, self.ids + 1).flatten(-2).float())
        return hot


def make(split: str, rows: int) -> tuple[Any, Any]:
    """Return the native vector environment as TorchRL reads it, and itself."""
    from torchrl.envs import DTypeCastTransform, GymWrapper, TransformedEnv

    envs = gym.make_vec(
        TOY,
        num_envs=rows,
        autoreset_mode="Disabled",
        split=split,
        reward=PHASES[0],
        action_mask="observation",
        stable_infos=True,
    )
    env = TransformedEnv(GymWrapper(envs, categorical_action_encoding=True))
    env.append_transform(DTypeCastTransform(torch.int8, torch.bool, in_keys=["action_mask"]))
    return env, envs.unwrapped


@torch.no_grad()
def score(actor: nn.Module, split: str) -> float:
    """Return the mean F1 of the greedy policy over all questions of a split."""
    envs = gym.make_vec(
        TOY, num_envs=64, autoreset_mode="Disabled", split=split, action_mask="observation"
    )
    obs, _ = envs.reset(options={"index": list(range(64))})
    rows = np.arange(64)
    while len(rows):
        logits = actor(*(torch.as_tensor(obs[key][rows]) for key in ("tokens", "length")))
        mask = torch.as_tensor(obs["action_mask"][rows]).bool()
        best = logits.masked_fill(~mask, -torch.inf).argmax(-1)
        envs.send(best.numpy(), rows)  # type: ignore[attr-defined]
        obs, _, terminated, truncated, _ = envs.recv(min_ready=len(rows))  # type: ignore[attr-defined]
        rows = rows[~(terminated | truncated)[rows]]
    ended = [envs.unwrapped.transcript(row) for row in range(64)]  # type: ignore[attr-defined]
    return float(np.mean([token_f1(t.answer, t.question.answers) for t in ended]))


def train(steps: int = 400_000, seed: int = 0, *, score_every: int = 10) -> Iterator[Progress]:
    """Train; yield the scores every few batches."""
    from tensordict.nn import TensorDictModule as Module
    from torchrl.collectors import Collector
    from torchrl.modules import MaskedCategorical, ProbabilisticActor
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import GAE

    torch.manual_seed(seed)
    env, envs = make("train", ROWS)
    env.set_seed(seed)
    ids, keys = 24, ["tokens", "length"]
    network, values = LastTokens(ids, ids), LastTokens(ids, 1)
    actor = ProbabilisticActor(
        Module(network, keys, ["logits"]),
        in_keys={"logits": "logits", "mask": "action_mask"},
        distribution_class=MaskedCategorical,
        return_log_prob=True,
    )
    critic = Module(values, keys, ["state_value"])
    losses = ClipPPOLoss(
        actor,
        critic,
        clip_epsilon=0.2,
        entropy_coeff=0.03,
        critic_coeff=0.5,
        normalize_advantage=True,
    )
    advantages = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(losses.parameters(), lr=3e-3, eps=1e-5)
    size = ROWS * LENGTH
    batches = max(steps // size, 1)
    collector = Collector(env, actor, frames_per_batch=size, total_frames=batches * size)
    start = time.perf_counter()
    for number, batch in enumerate(collector, 1):
        if number == max(batches // 5, 1):  # the policy searches by now: pay for answers
            envs.set_reward(PHASES[1])
        over = batch["next", "done"]  # a spent budget ends the episode like an answer
        batch["next", "terminated"] = over
        with torch.no_grad():
            advantages(batch)
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - (number - 1) / batches)
        flat = batch.reshape(-1)
        for _ in range(8):
            for part in torch.split(torch.randperm(len(flat)), 512):
                loss = losses(flat[part])
                optimizer.zero_grad()
                sum(loss[f"loss_{name}"] for name in ("objective", "critic", "entropy")).backward()
                nn.utils.clip_grad_norm_(losses.parameters(), 0.5)
                optimizer.step()
        if number % score_every == 0 or number == batches:
            at = (score(network, split) for split in ("train", "validation"))
            yield Progress(number * size, time.perf_counter() - start, *at)
    collector.shutdown()


def main() -> None:
    """Train, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=400_000, help="of all rows together")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # networks this small are slower on more
    for at in train(arguments.steps, arguments.seed):
        print(
            f"{at.steps:7,} steps, {at.seconds:3.0f} s: F1 on train {at.train:.2f}, "
            f"on validation {at.validation:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
