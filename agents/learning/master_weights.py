"""The weights that an optimizer updates, in float32, and the model that follows them.

Three arrangements, behind the same few methods:

* float32: the model's own parameters are optimised;
* bfloat16: the model computes in bfloat16 and follows float32 copies, so that updates too small
  for bfloat16 add up, and gradients of micro-batches do as well;
* split over ranks (FSDP2): each rank holds a part of every float32 weight; bfloat16 copies exist
  while a layer computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from transformers import PreTrainedModel

from search_env.agents.learning.distributed import shard
from search_env.agents.learning.precision import Dtype, resolve_dtype
from search_env.errors import ConfigurationError


class MasterWeights:
    """What is optimised of a model.

    Args:
        model: Changed in place. Parameters that ask for no gradient stay as they are.
        dtype: What it computes in, as for
            :func:`~search_env.agents.learning.precision.resolve_dtype`.
        sharded: Split it over ranks.

    Attributes:
        parameters: By name; gradients add up in them.

    Raises:
        ConfigurationError: Another dtype, or nothing to train.
    """

    def __init__(self, model: PreTrainedModel, dtype: Dtype, *, sharded: bool = False) -> None:
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigurationError(
                "Expected a model with parameters to train, got one where all are frozen. Call "
                "requires_grad_() on those to train."
            )
        self._model = model
        copies = {}
        dtype = resolve_dtype(dtype, model.device)
        if dtype == "bf16" and not sharded:
            trained = self._trained().items()
            copies = {n: nn.Parameter(p.detach().float().clone()) for n, p in trained}
        arrange(model, dtype, sharded=sharded)
        self.parameters = copies or self._trained()

    def _trained(self) -> dict[str, nn.Parameter]:
        """Return the model's own trained parameters."""
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    def collect(self) -> None:
        """Move the model's gradients to the masters."""
        for name, own in self._trained().items():
            master, gradient = self.parameters[name], own.grad
            if own is not master and gradient is not None:
                own.grad = None
                master.grad = gradient.float() if master.grad is None else master.grad + gradient

    def refresh(self) -> None:
        """Make the model follow the masters."""
        with torch.no_grad():
            for name, own in self._trained().items():
                if own is not self.parameters[name]:
                    own.copy_(self.parameters[name])

    def clear(self) -> None:
        """Forget gradients."""
        for parameter in (*self._trained().values(), *self.parameters.values()):
            parameter.grad = None

    def weights(self) -> dict[str, Tensor]:
        """Return copies of the masters by name, whole on each rank."""
        return {name: whole(p.detach()).clone() for name, p in self.parameters.items()}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Set the masters, and the model with them."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(like(parameter, weights[name]))
        self.refresh()


def arrange(model: PreTrainedModel, dtype: str, *, sharded: bool = False) -> None:
    """Bring a model into the type it computes in, and split it over ranks if asked for.

    Raises:
        ConfigurationError: Another dtype than
            :func:`~search_env.agents.learning.precision.resolve_dtype` knows.
    """
    compute = torch.bfloat16 if resolve_dtype(dtype, model.device) == "bf16" else torch.float32
    for parameter in model.parameters():
        # Not model.to(): buffers, such as frequencies of rotary positions, keep their precision.
        parameter.data = parameter.data.to(torch.float32 if sharded else compute)
    if sharded:
        shard(model, compute)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor whole that may be split over ranks; then all ranks must call this."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor


def like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Split a whole tensor over ranks as a parameter of its shape is."""
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(
            tensor.to(parameter.device), parameter.device_mesh, parameter.placements
        )
    return tensor


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of gradients, of which some may be split over ranks."""
    split = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    own = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = [whole(get_total_norm(part)) for part in (split, own) if part]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms or [torch.zeros(())]))
    return norm


def whole_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return an optimizer's state with whole tensors."""
    saved = optimizer.state_dict()
    state = {
        index: {name: whole(value) for name, value in values.items()}
        for index, values in saved["state"].items()
    }
    return {**saved, "state": state}


def split_state(optimizer: Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Split the tensors of an optimizer's state as its parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        index: {name: like(parameters[index], value) for name, value in values.items()}
        for index, values in saved["state"].items()
    }
    return {**saved, "state": state}
