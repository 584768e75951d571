"""The float32 weights that an optimizer updates, and the model that follows them.

Three arrangements behind the same methods:

* float32: the model's own parameters are optimised;
* bfloat16: the model computes in bfloat16 and follows float32 copies, in which updates and
  gradients too small for bfloat16 accumulate;
* split over ranks (FSDP2): each rank holds a part of every float32 weight; bfloat16 copies exist
  while a layer computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from transformers import PreTrainedModel

from search_env.agents.learning.distributed import shard
from search_env.agents.learning.precision import TORCH_DTYPES, Dtype, resolve_dtype
from search_env.errors import ConfigurationError


class MasterWeights:
    """The trained parameters of a model, in float32; gradients accumulate in ``parameters``.

    The model is changed in place; parameters without ``requires_grad`` stay as they are. An unknown
    dtype, or nothing to train, raises ConfigurationError.
    """

    def __init__(self, model: PreTrainedModel, dtype: Dtype, *, sharded: bool = False) -> None:
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigurationError(
                "Expected a model with parameters to train, got one where all are frozen. Call "
                "requires_grad_() on the parameters to train."
            )
        self._model = model
        copies = {}
        if resolve_dtype(dtype, model.device) == "bf16" and not sharded:
            trained = self._trained().items()
            copies = {n: nn.Parameter(p.detach().float().clone()) for n, p in trained}
        arrange(model, dtype, sharded=sharded)
        self.parameters = copies or self._trained()

    def _trained(self) -> dict[str, nn.Parameter]:
        """Return the model's trained parameters."""
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    def collect(self) -> None:
        """Add the model's gradients to those of the master weights, and clear them."""
        for name, parameter in self._trained().items():
            master, gradient = self.parameters[name], parameter.grad
            if parameter is not master and gradient is not None:
                parameter.grad = None
                master.grad = gradient.float() if master.grad is None else master.grad + gradient

    def refresh(self) -> None:
        """Copy the master weights into the model."""
        with torch.no_grad():
            for name, parameter in self._trained().items():
                if parameter is not self.parameters[name]:
                    parameter.copy_(self.parameters[name])

    def clear(self) -> None:
        """Clear the gradients of model and master weights."""
        for parameter in (*self._trained().values(), *self.parameters.values()):
            parameter.grad = None

    def weights(self) -> dict[str, Tensor]:
        """Return copies of the master weights by name, whole on each rank."""
        return {name: whole(p.detach()).clone() for name, p in self.parameters.items()}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Set the master weights and the model."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(like(parameter, weights[name]))
        self.refresh()


def arrange(model: PreTrainedModel, dtype: str, *, sharded: bool = False) -> None:
    """Cast a model to the type it computes in, and split it over ranks if ``sharded``."""
    compute = TORCH_DTYPES[resolve_dtype(dtype, model.device)]
    for parameter in model.parameters():
        # Not model.to(): buffers, such as rotary frequencies, keep their precision.
        parameter.data = parameter.data.to(torch.float32 if sharded else compute)
    if sharded:
        shard(model, compute)


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor that may be split over ranks; if it is, all ranks must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Split a whole tensor over ranks like a parameter of the same shape."""
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(
            tensor.to(parameter.device), parameter.device_mesh, parameter.placements
        )
    return tensor


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients together; some may be split over ranks."""
    split = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    local = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = [whole(get_total_norm(part)) for part in (split, local) if part]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms or [torch.zeros(())]))
    return norm


def whole_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return an optimizer's state with whole tensors."""
    return _map_state(optimizer.state_dict(), lambda _, tensor: whole(tensor))


def split_state(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Split the tensors of a :func:`whole_state` like the optimizer's parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return _map_state(state, lambda index, tensor: like(parameters[index], tensor))


def _map_state(saved: Mapping[str, Any], change: Callable[[int, Tensor], Tensor]) -> dict[str, Any]:
    """Return a state_dict with each parameter's tensors changed."""
    state = {
        index: {name: change(index, value) for name, value in values.items()}
        for index, values in saved["state"].items()
    }
    return {**saved, "state": state}
