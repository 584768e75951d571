"""What a run will need, estimated from a trial: memory and time."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from search_env.agents.doctor.findings import Finding, Section
from search_env.agents.doctor.trial import Measured
from search_env.agents.training.config import TrainConfig

_SECTION = Section("Estimates")
_GB = 1e9
_FULL = 0.9  # share of the memory above which a run is likely to fail


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a run needs in each process, by what they hold."""

    weights: float  # with gradients, optimizer, float32 copies and reference
    cache: float  # of all rows at their full length
    learning: float  # activations of the largest micro-batch

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.cache + self.learning


def weight_bytes(model: PreTrainedModel, config: TrainConfig) -> float:
    """Return the bytes of weights, gradients, AdamW's averages and the reference model."""
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    compute = 2 if config.dtype == "bf16" else 4
    copies = 4 if config.dtype == "bf16" else 0
    algorithms = [config.algorithm_of(phase) for phase in range(len(config.phases))]
    reference = any(algorithm.uses_reference for algorithm in algorithms) and not config.lora_rank
    return compute * total * (1 + reference) + (copies + 4 + 8) * trained


def estimate_memory(config: TrainConfig, memory: Memory, device: torch.device) -> Iterator[Finding]:
    """Yield the memory of a run beside what the device has."""
    available = _device_bytes(device)
    needed = memory.total * config.processes
    processes = "" if config.processes == 1 else f" in each of {config.processes} processes"
    text = (
        f"memory: weights with gradients and optimizer {memory.weights / _GB:.1f} GB, cache up to "
        f"{memory.cache / _GB:.1f} GB, a micro-batch about {memory.learning / _GB:.1f} GB"
        f"{processes}; {device.type} has {available / _GB:.1f} GB"
    )
    yield _SECTION.checked(
        needed <= _FULL * available,
        text,
        "Lower --num-envs or --max-tokens (cache), max_tokens_per_micro_batch (micro-batch), or "
        "train adapters: --set lora_rank=16.",
    )


def estimate_time(config: TrainConfig, measured: Measured) -> Iterator[Finding]:
    """Yield the time of a step and of the run, in one process, from the trial's episodes."""
    algorithm = config.algorithm
    share = algorithm.prompts * algorithm.group_size / measured.episodes
    rollout = share * measured.rollout_seconds
    passes = (algorithm.epochs > 1) + algorithm.uses_reference
    learn = share * (algorithm.epochs * measured.learn_seconds + passes * measured.score_seconds)
    every = config.eval_every
    evaluations = config.steps // every + 1 if every else 0
    evaluate = measured.rollout_seconds * config.eval_questions / measured.episodes
    total = config.steps * (rollout + learn) + evaluations * evaluate
    limit = "" if config.minutes is None else f"; it ends after {config.minutes:g} minutes"
    yield _SECTION.ok(
        f"time: a step about {_duration(rollout + learn)} ({_duration(rollout)} rollouts, "
        f"{_duration(learn)} learning), {evaluations} evaluations of {_duration(evaluate)}; "
        f"{config.steps} steps about {_duration(total)} in one process{limit}"
    )


class MemoryMeter:
    """Measures by how much memory grows, at its peak, from one moment to another.

    On CPUs the operating system tells the highest peak of the process: a peak below an earlier one
    is not seen.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = float(torch.cuda.memory_allocated(device))
        else:
            self._before = _resident_bytes()

    def growth(self) -> float:
        """Return the bytes since the meter was made."""
        if self._device.type == "cuda":
            peak = float(torch.cuda.max_memory_allocated(self._device))
        else:
            peak = _peak_bytes()
        return max(0.0, peak - self._before)


def _peak_bytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _resident_bytes() -> float:
    """Return the memory of this process; its peak where the system does not tell."""
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        return _peak_bytes()
    return float(int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


def _device_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _duration(seconds: float) -> str:
    """Return a duration in words.

    Example:
        >>> _duration(0.25), _duration(75), _duration(7330)
        ('0.25 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
