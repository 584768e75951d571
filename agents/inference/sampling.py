"""The distribution that tokens are drawn from, for both the engine and the learner.

Rollouts store the log-probability of each token under the distribution it was drawn from; the
learner recomputes it with the same function, so that a ratio of 1 means the same policy. A draw is
the inverse of the cumulative distribution at one uniform number per row: it costs one pass over the
vocabulary and one random number, where ``torch.multinomial`` draws a random number for every id.

Shapes in the comments: N rows, V ids of the vocabulary, ``...`` any leading dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_env.agents.algorithms.config import check_field

__all__ = ["Sampling"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How logits become a distribution.

    Filters apply in the order temperature, ``top_k``, ``top_p``, ``min_p``, as in transformers.

    Attributes:
        temperature: Divisor of the logits; 0 takes the most likely id (its log-probability is 0).
        top_p: Keep the fewest ids whose probabilities add up to this, and any as likely as the
            least likely of them; 1 keeps all.
        top_k: Keep the k most likely ids; 0 keeps all.
        min_p: Keep ids at least this fraction as likely as the most likely one; 0 keeps all.

    Raises:
        ConfigurationError: A value out of its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value, valid, expected in (
            ("temperature", self.temperature, self.temperature >= 0.0, "0 or more"),
            ("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (all) or a number of ids"),
            ("min_p", self.min_p, 0.0 <= self.min_p < 1.0, "from 0 to below 1"),
        ):
            check_field(name, value, valid, expected)

    def log_probs(self, logits: Tensor) -> Tensor:
        """Return the log-probabilities of all ids, float32, from logits of any float type.

        Both are ``(..., V)``; ids outside the filters get minus infinity.

        Example:
            >>> logits = torch.tensor([0.0, 1.0, 3.0])
            >>> Sampling(top_k=2).log_probs(logits).exp().tolist()
            [0.0, 0.11920291185379028, 0.8807970285415649]
        """
        logits = logits.float()
        if self.temperature == 0.0:
            best = logits.argmax(-1, keepdim=True)  # (..., 1)
            return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
        return self._filtered(logits / self.temperature).log_softmax(-1)

    def log_prob_of(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return the log-probabilities, float32 ``(...)``, of ids ``(...)``, differentiably.

        An id drawn under an older policy may have left the nucleus of the logits ``(..., V)``
        since. It is then added to the nucleus for its own log-probability, so the result is always
        finite.
        """
        logits = logits.float()
        if self.temperature == 0.0:
            return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        logits = logits / self.temperature
        chosen = logits.gather(-1, ids[..., None])  # (..., 1)
        if not self._keeps_all:
            logits = self._filtered(logits).scatter(-1, ids[..., None], chosen)
        return chosen[..., 0] - logits.logsumexp(-1)

    def draw(self, log_probs: Tensor, uniforms: Tensor) -> Tensor:
        """Return one id per row, int64 ``(N,)``, each with a probability above zero.

        ``log_probs`` ``(N, V)`` come from :meth:`log_probs`; the uniforms ``(N,)`` are in [0, 1).
        """
        cumulative = log_probs.exp().cumsum(-1)  # (N, V)
        # Float32 probabilities do not sum to exactly 1, so the uniforms are scaled to their sum.
        points = uniforms.to(cumulative.dtype)[:, None] * cumulative[:, -1:]  # (N, 1)
        drawn = torch.searchsorted(cumulative, points, right=True)  # (N, 1)
        drawn = drawn.clamp_max(log_probs.shape[-1] - 1)
        # Rounding may select a neighbour without probability.
        impossible = log_probs.gather(-1, drawn) == -torch.inf  # (N, 1)
        return torch.where(impossible, log_probs.argmax(-1, keepdim=True), drawn)[:, 0]

    @property
    def _keeps_all(self) -> bool:
        return self.top_p == 1.0 and self.top_k == 0 and self.min_p == 0.0

    def _filtered(self, logits: Tensor) -> Tensor:
        """Return scaled logits ``(..., V)`` with minus infinity for ids outside the filters."""
        if self.top_k and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, -1).values[..., -1:]  # (..., 1)
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p < 1.0:
            logits = logits.masked_fill(logits < _least_of_nucleus(logits, self.top_p), -torch.inf)
        if self.min_p > 0.0:
            least = logits.amax(-1, keepdim=True) + math.log(self.min_p)  # (..., 1)
            logits = logits.masked_fill(logits < least, -torch.inf)
        return logits


@torch.no_grad()
def _least_of_nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Return the smallest logit of the nucleus, ``(..., 1)``."""
    if _is_on_host(logits):
        # numpy sorts with vector instructions: 1,024 ids in a twentieth of torch's time.
        ordered = torch.from_numpy(np.sort(logits.numpy(), -1)).flip(-1)  # (..., V)
    else:
        ordered = logits.sort(-1, descending=True).values  # (..., V)
    probabilities = ordered.softmax(-1)  # (..., V)
    before = probabilities.cumsum(-1) - probabilities  # (..., V)
    kept = (before < top_p).sum(-1, keepdim=True)  # (..., 1)
    return ordered.gather(-1, (kept - 1).clamp_min(0))


@torch.inference_mode()
def without(logits: Tensor, forbidden: Sequence[NDArray[np.integer]] | None) -> Tensor:
    """Return logits ``(N, V)`` with minus infinity for the ids that each row may not sample."""
    counts = [len(ids) for ids in forbidden or ()]
    if forbidden is None or not any(counts):
        return logits
    rows = torch.repeat_interleave(torch.tensor(counts)).to(logits.device)  # (all ids,)
    ids = torch.from_numpy(np.concatenate(forbidden).astype(np.int64)).to(logits.device)
    return logits.index_put((rows, ids), logits.new_tensor(-torch.inf))


def _is_on_host(logits: Tensor) -> bool:
    return logits.device.type == "cpu"


GREEDY = Sampling(temperature=0.0)
"""Takes the most likely id."""
