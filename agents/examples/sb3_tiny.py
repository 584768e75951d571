"""The bundled base model, trained to search by Stable-Baselines3's PPO as it comes.

    python -m search_env.agents.examples.sb3_tiny [--steps 131072] [--seed 0]

The reward is that of R1-Searcher's first phase: half for a search, half for the format. Training
ends at a mean reward of 0.85, as the policy got worse after that. It prints the shares of held-out
questions in which the policy searches and keeps the format, before and after.
The project's own trainer (``search-env train``) does this in less time, and both phases.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor
from transformers import PreTrainedModel

from search_env.agents.bridges.sb3_env import SearchQAVecEnv
from search_env.agents.bridges.sb3_policy import CausalLMPolicy
from search_env.agents.inference.sampling import Sampling
from search_env.agents.models import save_model
from search_env.agents.rollouts.lm_agent import play_questions
from search_env.envs.search_qa_vector import SearchQAVectorEnv

TASK: dict[str, Any] = {
    "dataset_options": {"hops": [1]},
    "max_tokens": 1024,
    "max_policy_tokens": 256,
}
"""One-hop questions: Stable-Baselines3 keeps every observation whole, and short ones are cheap."""
SAMPLING = Sampling(top_p=0.95)
ENOUGH = 0.85
"""Mean reward of the last 100 episodes at which training ends."""


class Score(NamedTuple):
    """Means over episodes."""

    search_rate: float
    format_rate: float
    exact_match: float


class Printer(BaseCallback):
    """Prints a line whenever a rollout is complete; ends the training once it is paid enough."""

    def __init__(self) -> None:
        super().__init__()
        self._start, self._mean = time.perf_counter(), np.nan

    def _on_step(self) -> bool:
        return not self._mean >= ENOUGH

    def _on_rollout_end(self) -> None:
        paid = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        self._mean = float(np.mean(paid)) if paid else np.nan
        seconds = time.perf_counter() - self._start
        line = f"{self.num_timesteps:7,} tokens, {seconds:4.0f} s: reward {self._mean:.2f}"
        print(line, flush=True)


def score(model: PreTrainedModel, questions: int = 64) -> Score:
    """Ask questions that are not trained on; sample as in training."""
    envs = gym.make_vec("SearchQA-v0", 32, autoreset_mode="Disabled", split="validation", **TASK)
    rows = cast(SearchQAVectorEnv, envs.unwrapped)
    played = play_questions(model, rows, range(questions), sampling=SAMPLING)
    each = [(t.num_searches > 0, t.well_formed, t.scores["exact_match"]) for t in played]
    return Score(*np.mean(each, axis=0).tolist())


def make_ppo(model: str | PreTrainedModel, rows: int, rollout: int, seed: int) -> PPO:
    """Return PPO over a language model; ``rollout`` is the number of tokens of each row."""
    envs = gym.make_vec("SearchQA-Stage1-v0", rows, autoreset_mode="SameStep", copy=False, **TASK)
    return PPO(
        CausalLMPolicy,
        VecMonitor(SearchQAVecEnv(envs)),
        learning_rate=1e-4,
        n_steps=rollout,
        batch_size=rows * rollout // 2,  # large ones are cheap: an episode is read once in each
        n_epochs=2,
        gamma=1.0,
        gae_lambda=1.0,  # whether to search is decided a hundred tokens before it is paid
        vf_coef=0.01,  # the critic shares the model, and must not reshape it
        target_kl=0.02,  # near the base: phase 1 must not destroy what it can
        policy_kwargs={"model": model, "sampling": SAMPLING},
        seed=seed,
        device="cpu",
    )


def main() -> None:
    """Score, train, score."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny-base", help="name or folder of the base")
    parser.add_argument("--steps", type=int, default=131_072, help="tokens to write in training")
    parser.add_argument("--rows", type=int, default=16, help="episodes side by side")
    parser.add_argument("--rollout", type=int, default=1024, help="tokens of each row an update")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--questions", type=int, default=64, help="to score by")
    parser.add_argument("--save", help="folder for the trained model")
    args = parser.parse_args()
    ppo = make_ppo(args.model, args.rows, args.rollout, args.seed)
    model = cast(CausalLMPolicy, ppo.policy).model
    before = score(model, args.questions)
    ppo.learn(args.steps, Printer())
    for name, means in (("before", before), ("after", score(model, args.questions))):
        print(name, *(f"{key} {value:.2f}" for key, value in means._asdict().items()), sep="  ")
    if args.save:
        save_model(model, args.save)


if __name__ == "__main__":
    torch.set_num_threads(1)  # models this small are slower on more
    main()
