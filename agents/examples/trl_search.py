"""TRL's GRPOTrainer teaches the bundled base model to search, with ids that are exact.

    python -m search_env.agents.examples.trl_search [--updates 12] [--seed 0]

The reward is that of R1-Searcher's first phase: half for a search, half for the format. Each
generation is eight questions with eight episodes each, in two updates. Needs TRL (the `trl` extra).
It prints the mean reward and the search rate of every generation.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from search_env.agents.bridges.trl import ExactRollouts, env_reward, task_rows

ARGUMENTS: dict[str, Any] = {
    "split": "train",
    "reward": "r1-searcher-stage1",
    "max_tokens": 2048,
    "max_policy_tokens": 384,
}
BASE = Path(__file__).parents[1] / "assets" / "tiny-base"


class Noted(ExactRollouts):
    """Exact rollouts that keep the means of each call."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.curve: list[dict[str, float]] = []
        self._start = time.perf_counter()

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        """Play, and note the mean reward and the share of episodes with a search."""
        columns = super().__call__(prompts, trainer)
        searched = [0 in mask for mask in columns["env_mask"]]  # documents were inserted
        point = {
            "reward": float(np.mean(columns["env_reward"])),
            "search_rate": float(np.mean(searched)),
            "seconds": time.perf_counter() - self._start,
        }
        self.curve.append(point)
        print(
            f"generation {len(self.curve)}: reward {point['reward']:.3f}, search rate "
            f"{point['search_rate']:.3f}, {point['seconds']:.0f} s",
            flush=True,
        )
        return columns


def tokenizer() -> Any:
    """Return the base's tokenizer as transformers has them; TRL decodes with it, for its logs."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    asset = files("search_env.tokens") / "world_1k.json"
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(asset.read_text("utf-8")),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )


def train(
    updates: int = 12, seed: int = 0, *, questions: int = 8, group_size: int = 8
) -> list[dict[str, float]]:
    """Train; return the curve."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    rollouts = Noted("SearchQA-v0", ARGUMENTS, num_envs=questions * group_size)
    episodes, microbatch = questions * group_size, 4
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(BASE),
            processing_class=tokenizer(),
            reward_funcs=env_reward,
            train_dataset=Dataset.from_list(task_rows("SearchQA-v0", ARGUMENTS)),
            rollout_func=rollouts,
            args=GRPOConfig(
                output_dir=folder,
                max_steps=updates,
                per_device_train_batch_size=microbatch,
                steps_per_generation=episodes // microbatch,
                gradient_accumulation_steps=max(episodes // microbatch // 2, 1),
                num_generations=group_size,
                max_completion_length=ARGUMENTS["max_tokens"],
                learning_rate=1e-4,
                lr_scheduler_type="constant",
                beta=0.0,
                temperature=1.0,
                seed=seed,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                logging_steps=1_000_000,
            ),
        )
        trainer.train()
    return rollouts.curve


def main() -> None:
    """Train, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--updates", type=int, default=12, help="two for each generation")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    arguments = parser.parse_args()
    train(arguments.updates, arguments.seed)


if __name__ == "__main__":
    main()
