"""Gradient checkpointing: layers that are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpoint_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Switch gradient checkpointing on; return the layers for :func:`recomputed`."""
    # The second is its name before transformers 5.20.
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


@contextmanager
def recomputed(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Recompute layers in the backward pass, which transformers does in training mode only.

    The layers alone are in that mode, not their submodules, so dropout stays off.
    """
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
