"""Tiny models and runs on the toy, for the tests of training; also a script that makes a run."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import search_env  # noqa: F401
from search_env.agents.algorithms.config import Algorithm
from search_env.agents.inference.engine import Engine
from search_env.agents.reporting.logs import JsonLinesLog
from search_env.agents.rollouts.collect import collect
from search_env.agents.training.config import Phase, TrainConfig
from search_env.agents.training.run import TrainResult
from search_env.agents.training.train import train
from search_env.agents.types import Trajectory

ONE_PHASE = (Phase(reward="r1-searcher-stage1"),)
SMALL = Algorithm(
    advantage="grpo", aggregation="token_mean", prompts=4, group_size=4, learning_rate=3e-3
)


def tiny_model(hidden: int = 16, seed: int = 0, vocabulary: int = 24) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        initializer_range=0.2 if hidden < 64 else 0.02,
    )
    return Qwen2ForCausalLM(config)


def toy_config(out, **changes) -> TrainConfig:
    settings = {
        "model": "tiny",
        "algorithm": SMALL,
        "env_id": "SearchQA-Toy-v0",
        "max_tokens": 16,
        "dtype": "fp32",
        "phases": ONE_PHASE,
        "phase_search_rate": None,
        "phase_format_rate": None,
        "num_envs": 8,
        "steps": 4,
        "eval_every": 0,
        "eval_questions": 8,
        "checkpoint_every": 1,
        "out": str(out),
        "threads": 1,
    }
    return TrainConfig(**{**settings, **changes})


def toy_trajectories(model, *, questions=5, group_size=4, seed=0, critic=None) -> list[Trajectory]:
    """Return episodes of a model with rewards, scores and parts drawn at random."""
    envs = gym.make_vec("SearchQA-Toy-v0", num_envs=6, autoreset_mode="Disabled").unwrapped
    engine = Engine(model, rows=6, max_tokens=16, value_head=critic)
    random = np.random.default_rng(seed)
    found = collect(envs, engine, range(questions), group_size=group_size, seed=seed).trajectories
    paid = []
    for trajectory in found:
        parts = {"a": float(random.integers(2)), "b": float(random.integers(3)) / 2}
        paid.append(replace(trajectory, reward=sum(parts.values()), reward_parts=parts))
    return paid


def run_both_phases(out, *, steps: int, resume=False, observer=None, **changes) -> TrainResult:
    """Run two phases with everything that could differ after a resumption."""
    algorithm = replace(SMALL, minibatch=8, epochs=2, dynamic_sampling=True, max_batches=3)
    phases = (*ONE_PHASE, Phase(reward="f1", changes={"learning_rate": 1e-3}))
    settings = {"algorithm": algorithm, "phases": phases, "phase_episodes": 90, "phase_window": 10}
    config = toy_config(out, **{**settings, "steps": steps, "eval_every": 3, **changes})
    return train(config, model=tiny_model(), resume=resume, observer=observer)


def run_shared(out: Path, *, steps: int) -> TrainResult:
    """Run with other processes of torchrun; groups do not divide evenly among them."""
    base = tiny_model(hidden=32)
    if os.environ["RANK"] == "0":
        base.save_pretrained(out / "base")
    algorithm = replace(SMALL, prompts=5, kl="loss", kl_coefficient=0.01, minibatch=10)
    config = toy_config(out / "run", algorithm=algorithm, steps=steps, sharded=True)
    return train(config, model=base, observer=JsonLinesLog(out / "metrics.jsonl"))


if __name__ == "__main__":  # python -m tests.agents.toy_runs OUT STEPS [split]
    print("ready", flush=True)
    if sys.argv[3:] == ["split"]:
        run_shared(Path(sys.argv[1]), steps=int(sys.argv[2]))
    else:
        run_both_phases(sys.argv[1], steps=int(sys.argv[2]))
