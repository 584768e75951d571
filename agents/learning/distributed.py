"""Several processes that train one model: data parallel with torchrun, and sharded models.

Each process (rank) rolls out and learns from its part of the groups. Losses are normalised by
totals over all ranks, so gradients are *summed*, not averaged, and N processes take the same step
as one. Without torchrun everything here is the identity.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from search_env.errors import ConfigurationError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process, number ``rank`` of ``size`` from 0, among those that train together.

    The device is that of tensors in collective operations.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the display."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Return the elementwise sums over ranks, in float64."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(number) for number in total.tolist()]

    def max(self, number: int) -> int:
        """Return the largest of the ranks' numbers."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def broadcast(self, value: T) -> T:
        """Return the main rank's value; it is pickled, so the ranks must trust each other."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def split(self, items: Sequence[T]) -> list[T]:
        """Return this rank's part: every ``size``-th item, so that sizes differ by at most one.

        Example:
            >>> [Ranks(rank, 2).split("abcde") for rank in range(2)]
            [['a', 'c', 'e'], ['b', 'd']]
        """
        return list(items[self.rank :: self.size])

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by the sum over ranks.

        A parameter without a gradient on any rank keeps none: with zeros an optimizer would decay
        it. Gradients of sharded parameters were already summed in the backward pass.
        """
        if self.size == 1:
            return
        parameters = [p for p in parameters if not isinstance(p, DTensor)]
        present = self.sum([float(p.grad is not None) for p in parameters])
        used = [p for p, count in zip(parameters, present, strict=True) if count]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if not used:
            return
        flat = torch.cat([_gradient(p).flatten() for p in used])
        dist.all_reduce(flat)
        parts = torch.split(flat, [p.numel() for p in used])
        for parameter, summed in zip(used, parts, strict=True):
            _gradient(parameter).copy_(summed.view_as(parameter))


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def shard(model: nn.Module, dtype: torch.dtype) -> None:
    """Split a model's weights over ranks, layer by layer (FSDP2).

    Each rank keeps its part in float32; a layer is gathered in ``dtype`` while it computes. From
    then on all ranks must run the model, which is changed in place, the same number of times.
    Gradients are summed in float32. Needs torch 2.9 or later, and a process group, else it raises
    ConfigurationError.
    """
    if not dist.is_initialized():
        raise ConfigurationError(
            "Expected several processes to split the model over, got one. Start with torchrun, or "
            "set sharded=False."
        )
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for part in (*layers, model):
        fully_shard(part, mp_policy=policy)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)  # the sum; the default is the mean
            part.set_force_sum_reduction_for_comms(True)  # an operation that gloo has, too


SINGLE_RANK = Ranks()
"""One process."""

# A thread of gloo keeps a collective's tensors for a moment after it is done. If it frees them
# while the interpreter exits, the process aborts (pytorch/pytorch#179291); and with FSDP, caches of
# DTensor keep the group, and so its threads, until the end.
_GLOO_RELEASE_SECONDS = 0.2


@contextmanager
def init_process_group(device: str = "auto") -> Iterator[Ranks]:
    """Join the processes that torchrun started, for the duration of a block.

    nccl on CUDA (one GPU per process, by ``LOCAL_RANK``), gloo elsewhere. Without torchrun's
    environment variables there is one process and nothing is set up.

    Args:
        device: Device of the models: ``"cpu"``, or ``"auto"`` for GPUs where available.

    Raises:
        ConfigurationError: More processes than GPUs on this machine.
    """
    if not by_torchrun():
        yield SINGLE_RANK
        return
    place = torch.device("cpu")
    if device != "cpu" and torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ConfigurationError(
                f"Expected one GPU per process, got {torch.cuda.device_count()} GPUs and local "
                f"rank {local}. Lower --nproc-per-node."
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    with _process_group(place) as ranks:
        yield ranks


def by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "WORLD_SIZE" in os.environ


@contextmanager
def init_process_group_at(address: str, rank: int, size: int) -> Iterator[Ranks]:
    """Join processes on this machine's CPUs at ``"tcp://HOST:PORT"``, during a block."""
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    with _process_group(torch.device("cpu")) as ranks:
        yield ranks


@contextmanager
def _process_group(device: torch.device) -> Iterator[Ranks]:
    """Yield the ranks of the default process group, and destroy it at the end."""
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
        if device.type == "cpu":
            time.sleep(_GLOO_RELEASE_SECONDS)
