"""Losses of policy-gradient algorithms, per token, and the weights that sum them.

Shapes, here and in the comment at each tensor: B episodes, P policy tokens of the longest one, as
in :mod:`search_env.agents.algorithms.advantages`; ``mask`` is bool ``(B, P)``.

A loss is ``sum(weights * token_losses)``: the weights carry all normalisation and are computed once
per optimizer step from totals over all its micro-batches and processes, so that any split adds up
to the same loss and gradient. Values at masked positions, NaN included, affect neither results nor
gradients: inputs are replaced there (multiplying by a mask would keep NaN).

Formulas: the papers named at each function, which also notes where released code differs, as does
``docs/algorithms.md``. DAPO's soft overlong punishment is a reward, ``soft-overlong``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from search_env.agents.algorithms.config import (
    Aggregation,
    Algorithm,
    ImportanceCorrection,
    KLEstimator,
    check_choice,
    required,
)

__all__ = ["policy_loss", "token_weights"]

LOG_RATIO_LIMIT = 20.0
"""Bound of log-ratios, as in verl and OpenRLHF, which keeps their exponential finite."""
GSPO_LIMIT = 10.0
"""Upper limit of the sequence's log-ratio in GSPO (verl)."""
SAPO_POSITIVE, SAPO_NEGATIVE = 1.0, 1.05
"""How steeply SAPO's gate closes for positive advantages and for others (paper, TRL)."""
K3_LIMIT = 10.0
"""Upper limit of k3 where it is only measured (verl); of a loss, ``Algorithm.k3_limit``."""
ICEPOP_FLOOR = 0.5
"""Ratios below it have weight 0 in IcePop."""

Sums = dict[str, Tensor]
"""Scalars that add up over micro-batches and processes; divide by ``"tokens"`` for means."""


class TokenLoss(NamedTuple):
    """A loss for each token."""

    loss: Tensor  # float32 (B, P), 0 at masked positions
    clipped: Tensor  # bool (B, P): where the clipped term is the loss


# --------------------------------------------------------------------------- tokens and weights


def overlong_filter(mask: Tensor, truncated: Tensor) -> Tensor:
    """Return the mask without episodes that a budget ended, bool ``(B,)`` (DAPO's filtering).

    They still count in the statistics of their group if advantages are computed first.
    """
    return mask & ~truncated[:, None]


def keep_group(scores: Sequence[float], low: float = 0.0, high: float = 1.0) -> bool:
    """Return whether a group has signal, the rule of DAPO's dynamic sampling.

    The mean of the episodes' scores has to be between the bounds, both exclusive. With scores 1 and
    0 and the default bounds this is ``0 < number right < G``. For graded rewards pass infinite
    bounds: then any difference is signal.

    Example:
        >>> keep_group([0, 1, 1]), keep_group([1, 1, 1]), keep_group([0.5, 0.5])
        (True, False, False)
    """
    mean = sum(scores) / max(1, len(scores))
    return len(set(scores)) > 1 and low < mean < high


def token_weights(
    mask: Tensor,
    aggregation: Aggregation,
    *,
    tokens: float | None = None,
    sequences: float | None = None,
    horizon: int | None = None,
) -> Tensor:
    """Return the weight of each token's loss.

    | aggregation | loss |
    |---|---|
    | ``token_mean`` | sum of all tokens / tokens (DAPO; verl's default) |
    | ``seq_mean_token_mean`` | mean over episodes of the mean over tokens (GRPO) |
    | ``seq_mean_token_sum`` | mean over episodes of the sum over tokens (RLOO) |
    | ``const_norm`` | sum of all tokens / (episodes * horizon) (Dr. GRPO) |

    Args:
        mask: bool ``(B, P)``, of whole episodes (an episode is never split).
        aggregation: See the table.
        tokens: Number of tokens that count in all micro-batches and processes of the optimizer
            step; None for that of ``mask``.
        sequences: Likewise, number of episodes with at least one token.
        horizon: For ``const_norm``. verl's default is the padded width, which varies from batch to
            batch; here it has to be passed.

    Returns:
        float32 ``(B, P)``, 0 at masked positions.

    Raises:
        ConfigurationError: An unknown aggregation, or ``const_norm`` without a horizon.

    Example:
        >>> mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
        >>> token_weights(mask, "seq_mean_token_mean").tolist()
        [[0.25, 0.25, 0.0, 0.0], [0.125, 0.125, 0.125, 0.125]]
    """
    check_choice("aggregation", aggregation, Aggregation)
    lengths = mask.sum(-1, keepdim=True)  # (B, 1)
    sequences = float((lengths > 0).sum()) if sequences is None else sequences
    weights = torch.full(lengths.shape, 1.0 / max(1.0, sequences), device=mask.device)  # (B, 1)
    if aggregation == "token_mean":
        tokens = float(lengths.sum()) if tokens is None else tokens
        weights = torch.full_like(weights, 1.0 / max(1.0, tokens))
    elif aggregation == "seq_mean_token_mean":
        weights = weights / lengths.clamp(min=1)
    elif aggregation == "const_norm":
        weights = weights / required("horizon", horizon, "aggregation='const_norm'")
    return torch.where(mask, weights, 0.0)


# ------------------------------------------------------------------------------------- policy


def surrogate(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, algorithm: Algorithm
) -> TokenLoss:
    """Return the policy loss of each token.

    With ``r = exp(log_probs - old_log_probs)``:

    * ``ppo`` (arXiv 1707.06347): ``max(-r A, -clip(r, 1 - eps_low, 1 + eps_high) A)``; with
      ``dual_clip`` c (arXiv 1912.09729) at most ``-c A`` where A < 0.
    * ``gspo`` (arXiv 2507.18071): the same with the sequence's ratio
      ``s = exp(mean log r)``; each token carries its part of the gradient
      (``log s + log_prob - sg[log_prob]``), so ``seq_mean_token_mean`` gives the gradient of the
      mean over sequences exactly. Lengths are those of ``mask``: document tokens never count.
    * ``cispo`` (arXiv 2506.13585): ``-sg[min(r, eps_high)] A log_prob``. ``eps_high`` is the bound
      itself (as in TRL, which recommends 5); in verl it is ``1 + eps_high``. No token loses its
      gradient.
    * ``sapo`` (arXiv 2511.20347): ``-A sigmoid(tau (r - 1)) 4 / tau``, tau 1 where A > 0, else
      1.05: at r = 1 the gradient is PPO's, and it decays on both sides.
    * ``reinforce``: ``-A log_prob``.

    All tensors are ``(B, P)``. Gradients flow to ``log_probs``, those of the current policy;
    ``old_log_probs`` are of the policy at the start of the training step, by the learner.
    """
    log_probs = torch.where(mask, log_probs, 0.0)  # (B, P), as all tensors below
    old_log_probs = torch.where(mask, old_log_probs, 0.0).detach()
    advantages = torch.where(mask, advantages, 0.0).detach()
    log_ratio = log_probs - old_log_probs
    if algorithm.surrogate == "reinforce":
        return TokenLoss(-advantages * log_probs, torch.zeros_like(mask))
    if algorithm.surrogate == "gspo":
        lengths = mask.sum(-1, keepdim=True).clamp(min=1)  # (B, 1)
        mean = log_ratio.detach().sum(-1, keepdim=True) / lengths  # (B, 1)
        log_ratio = (log_probs - log_probs.detach() + mean).clamp(max=GSPO_LIMIT)
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    if algorithm.surrogate == "cispo":
        ratio = ratio.detach()
        weight = ratio.clamp(max=algorithm.eps_high)
        return TokenLoss(-weight * advantages * log_probs, mask & (ratio > algorithm.eps_high))
    if algorithm.surrogate == "sapo":
        steepness = torch.where(advantages > 0, SAPO_POSITIVE, SAPO_NEGATIVE)
        gate = (steepness * (ratio - 1.0)).sigmoid() * 4.0 / steepness
        return TokenLoss(-gate * advantages, torch.zeros_like(mask))
    return _clipped(ratio, advantages, mask, algorithm)


def _clipped(ratio: Tensor, advantages: Tensor, mask: Tensor, algorithm: Algorithm) -> TokenLoss:
    """Return PPO's clipped loss; all tensors are ``(B, P)``."""
    unbounded = -ratio * advantages
    bounded = -ratio.clamp(1.0 - algorithm.eps_low, 1.0 + algorithm.eps_high) * advantages
    loss, clipped = torch.maximum(unbounded, bounded), bounded > unbounded
    if algorithm.dual_clip is not None:
        limit = -algorithm.dual_clip * advantages
        over = (advantages < 0) & (loss > limit)
        loss, clipped = torch.where(over, limit, loss), clipped | over
    return TokenLoss(torch.where(mask, loss, 0.0), clipped & mask)


def kl(
    log_probs: Tensor,
    ref_log_probs: Tensor,
    mask: Tensor,
    estimator: KLEstimator,
    *,
    k3_limit: float | None = K3_LIMIT,
) -> Tensor:
    """Return an estimate of the KL divergence from the reference at each token.

    All tensors are ``(B, P)``; gradients flow to ``log_probs``, and masked positions get 0.

    With ``d = log_probs - ref_log_probs`` (clamped to +-20):

    * ``k1 = d``: unbiased; for rewards. As a loss its expected gradient is 0.
    * ``k2 = d^2 / 2``: as a loss it has the KL divergence's gradient.
    * ``k3 = exp(-d) + d - 1``, at most ``k3_limit``: never negative, small variance; GRPO's loss
      term. Its gradient is that of the reverse KL divergence, and 0 beyond the limit, where d is
      below -2.61 for 10. None is no limit, as in the paper and TRL; verl's is 10.
    * ``k3+``: the value of k3, the gradient of k2.

    Source: Schulman, "Approximating KL divergence"; verl ``kl_penalty``.

    Raises:
        ConfigurationError: An unknown estimator.

    Example:
        >>> mask = torch.ones(1, 1, dtype=torch.bool)
        >>> round(kl(torch.tensor([[-0.9]]), torch.tensor([[-1.0]]), mask, "k3").item(), 5)
        0.00484
    """
    check_choice("estimator", estimator, KLEstimator)
    log_probs = torch.where(mask, log_probs, 0.0)  # (B, P), as all tensors below
    ref_log_probs = torch.where(mask, ref_log_probs, 0.0).detach()
    difference = (log_probs - ref_log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if estimator == "k1":
        return difference
    k2 = 0.5 * difference.square()
    if estimator == "k2":
        return k2
    k3 = (-difference).exp() + difference - 1.0
    if k3_limit is not None:
        k3 = k3.clamp(max=k3_limit)
    return k3 if estimator == "k3" else k3.detach() + k2 - k2.detach()


def importance_weights(
    old_log_probs: Tensor,
    rollout_log_probs: Tensor,
    mask: Tensor,
    correction: ImportanceCorrection,
    cap: float = 2.0,
) -> Tensor:
    """Return weights that correct for differences between rollout policy and old policy.

    With the same weights, other kernels or another precision give other log-probabilities. With
    ``w = exp(old_log_probs - rollout_log_probs)``, without gradients:

    * ``none``: 1.
    * ``tis``: ``min(w, cap)`` of the token (truncated importance sampling).
    * ``sequence_tis``: ``min(product of w, cap)`` for all tokens of the episode: unbiased up to the
      cap, of high variance in long episodes.
    * ``icepop``: w within [0.5, cap], 0 outside.

    Source: verl ``docs/algo/rollout_corr.md``; OpenRLHF ``models/loss.py`` (there icepop's bounds
    are 0.5 and 5).

    All tensors are ``(B, P)``: log-probabilities by the learner before its first update, those
    stored when the token was drawn, and weights, 0 at masked positions.

    Raises:
        ConfigurationError: An unknown correction.
    """
    check_choice("correction", correction, ImportanceCorrection)
    old_log_probs = torch.where(mask, old_log_probs, 0.0).detach()  # (B, P), as all tensors below
    log_ratio = old_log_probs - torch.where(mask, rollout_log_probs, 0.0).detach()
    if correction == "sequence_tis":
        log_ratio = log_ratio.sum(-1, keepdim=True).expand_as(log_ratio)
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    if correction == "none":
        ratio = torch.ones_like(ratio)
    elif correction == "icepop":
        ratio = torch.where((ratio >= ICEPOP_FLOOR) & (ratio <= cap), ratio, 0.0)
    else:
        ratio = ratio.clamp(max=cap)
    return torch.where(mask, ratio, 0.0)


# ------------------------------------------------------------------------------------- critic


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None = None
) -> TokenLoss:
    """Return the value loss of each token: ``max((V - R)^2, (clip(V, V_old +- c) - R)^2) / 2``.

    All tensors are ``(B, P)``. Gradients flow to ``values``; the old ones are of the time of the
    rollouts, returns from :func:`search_env.agents.algorithms.advantages.gae`. ``clip`` is c, None
    for no limit. Search-R1's critic also learns from document tokens; here it does not.
    """
    values = torch.where(mask, values, 0.0)  # (B, P), as all tensors below
    old_values = torch.where(mask, old_values, 0.0).detach()
    returns = torch.where(mask, returns, 0.0).detach()
    unbounded = (values - returns).square()
    if clip is None:
        return TokenLoss(0.5 * unbounded, torch.zeros_like(mask))
    clipped = torch.maximum(torch.minimum(values, old_values + clip), old_values - clip)
    bounded = (clipped - returns).square()
    return TokenLoss(0.5 * torch.maximum(unbounded, bounded), (bounded > unbounded) & mask)


# --------------------------------------------------------------------------------- the full loss


def policy_loss(
    algorithm: Algorithm,
    *,
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    entropies: Tensor | None = None,
    ref_log_probs: Tensor | None = None,
    importance: Tensor | None = None,
    values: Tensor | None = None,
    old_values: Tensor | None = None,
    returns: Tensor | None = None,
) -> tuple[Tensor, Sums]:
    """Return the loss of a micro-batch, and the sums to log.

    ``sum(weights * (importance * surrogate + kl - entropy + value))``, each term with its
    coefficient. Losses and sums of all micro-batches and processes add up.

    Args:
        algorithm: Terms and coefficients.
        log_probs: See :func:`surrogate`.
        old_log_probs: See :func:`surrogate`.
        advantages: See :func:`surrogate`.
        mask: bool ``(B, P)``.
        weights: From :func:`token_weights`.
        entropies: ``(B, P)``; needed with an entropy coefficient.
        ref_log_probs: ``(B, P)``; needed with ``kl="loss"``.
        importance: From :func:`importance_weights`; None is 1.
        values: ``(B, P)``; needed with a critic, like the next two.
        old_values: See :func:`value_loss`.
        returns: See :func:`value_loss`.

    Returns:
        The loss, a scalar with a gradient, and sums over tokens without one: ``tokens``,
        ``clipped``, ``log_ratio_k3`` (k3 of the old policy against this one), and where they
        exist ``entropy``, ``kl``, ``value_loss``, ``value_clipped``.

    Raises:
        ConfigurationError: An input of a term is None.
    """
    policy = surrogate(log_probs, old_log_probs, advantages, mask, algorithm)
    loss = policy.loss  # (B, P)
    if importance is not None:
        loss = torch.where(mask, importance, 0.0).detach() * loss
    sums: Sums = {
        "tokens": mask.sum().float(),
        "clipped": policy.clipped.sum().float(),
        "log_ratio_k3": kl(old_log_probs, log_probs, mask, "k3").detach().sum(),
    }
    if algorithm.kl == "loss" and algorithm.kl_coefficient:
        ref_log_probs = required("ref_log_probs", ref_log_probs, "kl='loss'")
        estimator, limit = algorithm.kl_estimator, algorithm.k3_limit
        term = kl(log_probs, ref_log_probs, mask, estimator, k3_limit=limit)  # (B, P)
        loss, sums["kl"] = loss + algorithm.kl_coefficient * term, term.detach().sum()
    if algorithm.entropy_coefficient:
        entropies = required("entropies", entropies, "an entropy_coefficient")
        loss = loss - algorithm.entropy_coefficient * torch.where(mask, entropies, 0.0)
    if entropies is not None:
        sums["entropy"] = torch.where(mask, entropies, 0.0).detach().sum()
    if algorithm.uses_values:
        critic = value_loss(
            required("values", values, "advantage='gae'"),
            required("old_values", old_values, "advantage='gae'"),
            required("returns", returns, "advantage='gae'"),
            mask,
            algorithm.value_clip,
        )
        loss = loss + algorithm.value_coefficient * critic.loss
        sums["value_loss"] = critic.loss.detach().sum()
        sums["value_clipped"] = critic.clipped.sum().float()
    return (torch.where(mask, weights, 0.0) * loss).sum(), sums
