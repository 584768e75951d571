"""The work of a training step that contenders share: episodes, their scripts, one tiny model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from agents.rollout import make_envs
from benchmarks.speed.scripted import Script, write_scripts
from search_env.vector_env import SearchQAVectorEnv

ModelT = TypeVar("ModelT", bound=Qwen2ForCausalLM)

END = 0
"""The id that ends a sequence."""

LEARNING_RATE = 1e-5


@dataclass(slots=True)
class Workload:
    """What both contenders do.

    Attributes:
        envs: Rows of the environment, one for each episode of a step.
        group: Episodes of a question.
        scripts: What is written, by step.
    """

    envs: SearchQAVectorEnv
    group: int
    scripts: list[list[Script]]

    @classmethod
    def of(cls, rows: int, group: int, steps: int, max_tokens: int) -> Workload:
        """Return the work of so many steps; each has its own questions."""
        options = {"max_tokens": max_tokens}
        envs = make_envs("SearchQA-v0", rows=rows, vocabulary=1024, options=options)
        work = cls(envs, group, [])
        work.scripts = [
            write_scripts(envs, work.questions(step), group, seed=step) for step in range(steps)
        ]
        return work

    def questions(self, step: int) -> list[int]:
        """Return the questions of a step."""
        count = self.envs.num_envs // self.group
        return list(range(step * count, (step + 1) * count))

    def tokens(self, step: int) -> list[list[int]]:
        """Return what the policy writes in each episode of a step."""
        return [np.concatenate(script).tolist() for script in self.scripts[step]]


@dataclass(slots=True)
class Measured:
    """One contender's steps.

    Attributes:
        seconds: Of each step.
        parts: Seconds by part, of each step.
        written: What the policy wrote in each episode of each step.
        read: Tokens of each step that were put in behind the prompts.
    """

    seconds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    written: list[list[list[int]]] = field(default_factory=list)
    read: list[int] = field(default_factory=list)


def tiny_model(max_tokens: int, model_class: type[ModelT]) -> ModelT:
    """Return a Qwen2 of two million random parameters, the same at every call."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=END,
    )
    return model_class(config)
