"""Whether packed sequences give a model's own log-probabilities and gradients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from search_env.agents.errors import ModelMismatchError
from search_env.agents.inference.agreement import (
    ADVICE,
    check_agreement,
    own_log_probs,
    probes,
    refused,
    tolerance,
)
from search_env.agents.inference.forward import check_windows, context_limit
from search_env.agents.learning.packing import packed_attention, packed_logits
from search_env.agents.learning.recomputation import recomputed

_WATCHED = 8
"""Number of parameters whose gradients are compared, those of the first layers."""


def probe(model: PreTrainedModel, layers: Sequence[nn.Module], *, backward: bool) -> None:
    """Compare a few short packed sequences with the model's own forward and backward pass.

    No gradient is left behind.

    Args:
        model: A model in evaluation mode.
        layers: Those that are recomputed in the backward pass.
        backward: Whether to compare gradients, too. They belong to several processes where a model
            is split, which then compares the forward pass alone. In bfloat16 they say nothing: on
            ids in no order, those of SmolLM2 differ by 2.7 of their norm between two right passes.

    Raises:
        ModelMismatchError: The model does not run packed, or computes something else then.
    """
    where, sequences = "the learner", probes(model)
    watched = _watched(model) if backward else []
    lengths = [len(sequence) for sequence in sequences]
    windows: list[int | None] = []
    with torch.set_grad_enabled(backward), refused(model, where):
        expected = own_log_probs(model, sequences)
        expected_gradient = _gradient(expected, sequences, watched)
        with packed_attention(model), recomputed(layers):
            keep = torch.arange(sum(lengths)).flip(0)  # a model that ignores it differs
            logits = packed_logits(model, sequences, keep, windows).flip(0)
            actual = list(torch.split(logits.float().log_softmax(-1), lengths))
            gradient = _gradient(actual, sequences, watched)
    layers_with_window = sum(window is not None for window in windows)
    check_windows(model, layers_with_window, context_limit(model)[0] or 1 << 62)
    check_agreement(model, [e.detach() for e in expected], [a.detach() for a in actual], where)
    norm, error = float(expected_gradient.norm()), float((gradient - expected_gradient).norm())
    if error > tolerance(model) * norm + 1e-6:
        raise ModelMismatchError(
            f"Expected {type(model).__name__} to have the gradients of its own backward pass in "
            f"{where}, got others: they differ by {error / norm:.2g} of their norm. {ADVICE}"
        )


def _watched(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the first trained parameters after the embedding."""
    embeddings = model.get_input_embeddings().weight
    trained = (p for p in model.parameters() if p.requires_grad and p is not embeddings)
    return list(itertools.islice(trained, _WATCHED))


def _gradient(
    log_probs: Sequence[Tensor], sequences: Sequence[Tensor], watched: Sequence[nn.Parameter]
) -> Tensor:
    """Return the gradient of the sequences' log-probability, float32 in one dimension."""
    if not watched:
        return torch.zeros(1)
    total = torch.stack(
        [
            rows[torch.arange(len(ids) - 1), ids[1:].to(rows.device)].sum()
            for rows, ids in zip(log_probs, sequences, strict=True)
        ]
    ).sum()
    parts = torch.autograd.grad(total, watched, allow_unused=True, materialize_grads=True)
    return torch.cat([part.float().flatten() for part in parts])
