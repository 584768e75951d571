"""Optimizer settings, learning rate schedules, and the optimizers made from them.

AdamW (fused) for everything, or Muon for the matrices between embedding and head with AdamW for the
rest. Weight decay applies to matrices only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from search_env.agents.algorithms.config import check_choice, check_field
from search_env.errors import ConfigurationError
from search_env.typed_values import check_fields

__all__ = ["OptimizerConfig"]

Schedule: TypeAlias = Literal["constant", "cosine", "linear"]
OptimizerName: TypeAlias = Literal["adamw", "muon"]


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Settings of a learner's optimizer steps.

    Attributes:
        learning_rate: Peak learning rate.
        value_learning_rate: The critic's peak learning rate; None for the same.
        betas: Decay of AdamW's averages; the first is Muon's momentum.
        weight_decay: Decoupled weight decay, times the learning rate; of matrices only.
        eps: Added to AdamW's denominator.
        max_grad_norm: Maximum norm that gradients are clipped to; infinity for no clipping.
        warmup_steps: Steps of a linear rise; the first step has ``1 / warmup_steps`` of the rate.
        schedule: Shape after the warm-up: ``"constant"``, or a decay to ``floor`` at
            ``total_steps``.
        floor: Final fraction of the learning rate, also after ``total_steps``.
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
    schedule: Schedule = "constant"
    floor: float = 0.0
    total_steps: int | None = None
    optimizer: OptimizerName = "adamw"

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_fields(self)
        check_choice("schedule", self.schedule, Schedule)
        check_choice("optimizer", self.optimizer, OptimizerName)
        reachable = (self.total_steps or 0) > self.warmup_steps or self.schedule == "constant"
        values = asdict(self)
        for name, valid, expected in (
            ("learning_rate", 0.0 <= self.learning_rate < math.inf, "0 or more"),
            (
                "value_learning_rate",
                0.0 <= (self.value_learning_rate or 0.0) < math.inf,
                "0 or more",
            ),
            ("betas", all(0.0 <= beta < 1.0 for beta in self.betas), "from 0 to below 1"),
            ("weight_decay", 0.0 <= self.weight_decay < math.inf, "0 or more"),
            ("eps", 0.0 < self.eps < math.inf, "above 0"),
            ("max_grad_norm", self.max_grad_norm > 0.0, "above 0"),
            ("warmup_steps", self.warmup_steps >= 0, "0 or more"),
            ("floor", 0.0 <= self.floor <= 1.0, "from 0 to 1"),
            ("total_steps", reachable, f"above warmup_steps for schedule {self.schedule!r}"),
        ):
            check_field(name, values[name], valid, expected)

    def learning_rate_at(self, update: int) -> float:
        """Return the learning rate of the step after ``update`` steps."""
        if update < self.warmup_steps:
            return self.learning_rate * (update + 1) / self.warmup_steps
        if self.schedule == "constant" or self.total_steps is None:
            return self.learning_rate
        done = min(1.0, (update - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        left = 1.0 - done if self.schedule == "linear" else (1.0 + math.cos(math.pi * done)) / 2.0
        return self.learning_rate * (self.floor + (1.0 - self.floor) * left)


def make_optimizers(
    config: OptimizerConfig,
    parameters: Mapping[str, nn.Parameter],
    embeddings: AbstractSet[str],
    value_head: nn.Linear | None,
) -> list[Optimizer]:
    """Return optimizers that together update each parameter once; see :func:`configure`.

    ``embeddings`` has the names of the parameters of embeddings and head. Muon with a torch without
    it, or for matrices split over ranks, raises ConfigurationError.
    """
    hidden = {n for n, p in parameters.items() if p.ndim == 2 and n not in embeddings}
    rest = [p for n, p in parameters.items() if config.optimizer != "muon" or n not in hidden]
    critic = [] if value_head is None else list(value_head.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim >= 2], "decays": True, "critic": False},
        {"params": [p for p in rest if p.ndim < 2], "decays": False, "critic": False},
        {"params": critic, "decays": False, "critic": True},
    ]
    groups = [group for group in groups if group["params"]]
    optimizers: list[Optimizer] = []
    if groups:
        optimizers.append(AdamW(groups, betas=config.betas, eps=config.eps, fused=True))
    if config.optimizer == "muon" and hidden:
        optimizers.append(_muon(config, [p for n, p in parameters.items() if n in hidden]))
    return optimizers


def configure(optimizer: Optimizer, config: OptimizerConfig, update: int) -> None:
    """Set learning rates and weight decay for the step after ``update`` steps."""
    rate = value_rate = config.learning_rate_at(update)
    if config.value_learning_rate is not None:
        peak = config.value_learning_rate
        value_rate = replace(config, learning_rate=peak).learning_rate_at(update)
    for group in optimizer.param_groups:
        group["lr"] = value_rate if group["critic"] else rate
        group["weight_decay"] = config.weight_decay if group["decays"] else 0.0


def _muon(config: OptimizerConfig, matrices: list[nn.Parameter]) -> Optimizer:
    if not hasattr(torch.optim, "Muon"):
        raise ConfigurationError(
            f"Expected torch 2.9 or later for Muon, got {torch.__version__}. Update torch, or use "
            "optimizer='adamw'."
        )
    if any(isinstance(matrix, DTensor) for matrix in matrices):
        # Muon's bfloat16 iterations over parts of a matrix give another update than over the whole.
        raise ConfigurationError(
            "Expected whole matrices for Muon, got matrices split over ranks. Use "
            "optimizer='adamw' or sharded=False."
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
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, nn.Embedding) or module is head
        for name, _ in module.named_parameters(recurse=False)
    }
