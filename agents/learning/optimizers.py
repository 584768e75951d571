"""How weights are updated: optimizer, learning rate over time, limits; data, and what it makes.

AdamW (fused) for everything, or Muon for the matrices between embedding and head with AdamW for the
rest. Weight decay falls on matrices alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from search_env.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """How a learner takes its steps.

    Attributes:
        learning_rate: At its highest.
        value_learning_rate: The critic's; the same if None.
        betas: Decay of AdamW's averages; the first is Muon's momentum.
        weight_decay: Decoupled, times the learning rate; of matrices only.
        eps: Added to AdamW's denominator.
        max_grad_norm: Gradients are scaled down to this norm; infinity leaves them.
        warmup_steps: Steps of a linear rise from 0; the first step has a part of the rate.
        schedule: What follows: ``"constant"``, or a fall to ``floor`` at ``total_steps``.
        floor: Fraction of the learning rate that a schedule ends at, and stays at.
        total_steps: Steps until then, warm-up included; for ``"cosine"`` and ``"linear"``.
        optimizer: ``"adamw"``, or ``"muon"`` for hidden matrices and AdamW for the rest, with
            Muon's updates scaled to the size of AdamW's (arXiv 2502.16982), so that both share a
            learning rate.

    Raises:
        ConfigurationError: A value out of its range.

    Example:
        >>> config = OptimizerConfig(learning_rate=1.0, warmup_steps=2, schedule="linear",
        ...                          total_steps=4, floor=0.1)
        >>> [round(config.learning_rate_at(update), 2) for update in range(6)]
        [0.5, 1.0, 1.0, 0.55, 0.1, 0.1]
    """

    learning_rate: float = 1e-6
    value_learning_rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    floor: float = 0.0
    total_steps: int | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"

    def __post_init__(self) -> None:
        """Check the ranges."""
        falls = self.schedule != "constant"
        for name, value, good, wanted in (
            ("learning_rate", self.learning_rate, self.learning_rate >= 0.0, "0 or more"),
            (
                "value_learning_rate",
                self.value_learning_rate,
                (self.value_learning_rate or 0.0) >= 0.0,
                "0 or more",
            ),
            (
                "betas",
                self.betas,
                all(0.0 <= beta < 1.0 for beta in self.betas),
                "from 0 to below 1",
            ),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0.0, "0 or more"),
            ("eps", self.eps, self.eps > 0.0, "above 0"),
            ("max_grad_norm", self.max_grad_norm, self.max_grad_norm > 0.0, "above 0"),
            ("warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "0 or more"),
            (
                "schedule",
                self.schedule,
                self.schedule in ("constant", "cosine", "linear"),
                "one that exists",
            ),
            ("floor", self.floor, 0.0 <= self.floor <= 1.0, "from 0 to 1"),
            (
                "total_steps",
                self.total_steps,
                not falls or (self.total_steps or 0) > self.warmup_steps,
                f"above warmup_steps for schedule {self.schedule!r}",
            ),
            ("optimizer", self.optimizer, self.optimizer in ("adamw", "muon"), "adamw or muon"),
        ):
            if not good:
                raise ConfigurationError(
                    f"Expected {name} to be {wanted}, got {value!r}. Mend {name}."
                )

    def learning_rate_at(self, update: int) -> float:
        """Return the learning rate of the step after ``update`` steps."""
        if update < self.warmup_steps:
            return self.learning_rate * (update + 1) / self.warmup_steps
        if self.schedule == "constant" or self.total_steps is None:
            return self.learning_rate
        part = min(1.0, (update - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        left = 1.0 - part if self.schedule == "linear" else (1.0 + math.cos(math.pi * part)) / 2.0
        return self.learning_rate * (self.floor + (1.0 - self.floor) * left)


def make_optimizers(
    config: OptimizerConfig,
    parameters: Mapping[str, nn.Parameter],
    embeddings: AbstractSet[str],
    value_head: nn.Linear | None,
) -> list[Optimizer]:
    """Return the optimizers that together update each parameter once; see :func:`configure`.

    Args:
        config: What to make.
        parameters: The model's, by name.
        embeddings: Names of those that embed tokens or positions, or are the head.
        value_head: The critic.

    Raises:
        ConfigurationError: Muon with a torch that does not have it, or for matrices that are split
            over ranks.
    """
    hidden = {n for n, p in parameters.items() if p.ndim == 2 and n not in embeddings}
    rest = {n: p for n, p in parameters.items() if config.optimizer != "muon" or n not in hidden}
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in rest.values() if (p.ndim >= 2) == decays],
            "decays": decays,
            "critic": False,
        }
        for decays in (True, False)
    ]
    if value_head is not None:
        critic = list(value_head.parameters())
        groups.append({"params": critic, "decays": False, "critic": True})
    groups = [group for group in groups if group["params"]]
    optimizers: list[Optimizer] = []
    if groups:
        optimizers.append(AdamW(groups, betas=config.betas, eps=config.eps, fused=True))
    if config.optimizer == "muon" and hidden:
        optimizers.append(
            _muon(config, [parameters[name] for name in parameters if name in hidden])
        )
    return optimizers


def configure(optimizer: Optimizer, config: OptimizerConfig, update: int) -> None:
    """Set learning rates and weight decay for the step after ``update`` steps."""
    rate = config.learning_rate_at(update)
    critics = rate
    if config.value_learning_rate is not None:
        critics = replace(config, learning_rate=config.value_learning_rate).learning_rate_at(update)
    for group in optimizer.param_groups:
        group["lr"] = critics if group["critic"] else rate
        group["weight_decay"] = config.weight_decay if group["decays"] else 0.0


def _muon(config: OptimizerConfig, matrices: list[nn.Parameter]) -> Optimizer:
    """Return Muon for matrices."""
    if not hasattr(torch.optim, "Muon"):
        raise ConfigurationError(
            f"Expected torch 2.9 or later for Muon, got {torch.__version__}. Update torch, or take "
            "optimizer='adamw'."
        )
    if any(isinstance(matrix, DTensor) for matrix in matrices):
        # Its iterations in bfloat16 over parts of a matrix give another update than over the whole.
        raise ConfigurationError(
            "Expected whole matrices for Muon, got matrices split over ranks. Take "
            "optimizer='adamw', or do without sharded."
        )
    return torch.optim.Muon(
        [{"params": matrices, "decays": True, "critic": False}],
        momentum=config.betas[0],
        adjust_lr_fn="match_rms_adamw",
    )


def embedding_names(model: PreTrainedModel) -> set[str]:
    """Return the names of parameters of embeddings and head."""
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) or module is head
        for own, _ in module.named_parameters(recurse=False)
    }
