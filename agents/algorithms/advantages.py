"""Advantages of policy tokens: pure functions of rewards, groups and a mask.

Shapes, here and in the comment at each tensor:

* B: episodes.
* P: policy tokens of the longest episode, padded on the right; document tokens are removed first.
* C: parts of the reward.
* M: episodes of one group.

Arguments of several functions:

* ``mask``: bool ``(B, P)``, the tokens that count. It may have holes, which are skipped without
  discounting over them. Values at masked positions, NaN included, have no effect; results, float32
  ``(B, P)``, are 0 there.
* ``rewards``: ``(B,)``, one per episode. ``token_rewards``: ``(B, P)``.
* ``values``: ``(B, P)``: the critic's value of the state in which each token was chosen.
* ``groups``: int ``(B,)``: episodes of one question have the same number.
* ``penalties``: ``(B, P)``, added to the token rewards: ``-beta * k1``.
* ``reduce``: sums over processes, so that all of them whiten with the same moments; every process
  calls it the same number of times.

Formulas: reference implementation verl ``core_algos.py`` at 1dda039 and the papers named at each
function. Sums run in float64, so a group with equal rewards gets exactly 0. Rewards are in
:mod:`search_env.rewards`, losses in :mod:`search_env.agents.algorithms.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from search_env.agents.algorithms.config import Algorithm, Whitening, required

__all__ = ["estimate"]

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes (the identity for a single one)."""


class Estimate(NamedTuple):
    """Advantages, and the targets of a critic."""

    advantages: Tensor  # float32 (B, P)
    returns: Tensor | None = None  # float32 (B, P): targets of the value loss


def _single_process(sums: Tensor) -> Tensor:
    return sums


# ------------------------------------------------------------------------------------- tokens


def at_last_token(rewards: Tensor, mask: Tensor) -> Tensor:
    """Return token rewards: each episode's reward at its last token that counts, 0 elsewhere.

    An episode without tokens gets no reward.

    Example:
        >>> mask = torch.tensor([[True, True, False], [True, False, True]])
        >>> at_last_token(torch.tensor([1.0, 2.0]), mask).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]
    """
    remaining = mask.flip(-1).cumsum(-1).flip(-1)  # (B, P): tokens from here to the end
    return torch.where(mask & (remaining == 1), rewards.float()[:, None], 0.0)


def gae(
    token_rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    bootstrap: Tensor | None = None,
) -> Estimate:
    """Return generalised advantage estimates (arXiv 1506.02438) and returns.

    ``delta_t = r_t + gamma V_{t+1} - V_t``, ``A_t = delta_t + gamma lam A_{t+1}``, where t + 1 is
    the next token that counts; with ``lam`` 1 the advantage is the return minus the value. The
    advantages are not whitened; returns are ``A + V``. Rewards at masked positions are ignored, as
    in verl: use :func:`at_last_token`.

    ``bootstrap``, ``(B,)``, is the value of the state after the last token: 0 for an episode that
    terminated. None is 0 for all, as in verl and OpenRLHF. That is right where budgets are part of
    the task, as in the environments of this package (an episode that runs out of tokens has
    failed). Pass values where a budget only truncates a continuing task.

    Example:
        >>> gae(
        ...     torch.tensor([[0.0, 9.0, 1.0]]),
        ...     torch.tensor([[0.5, 9.0, 0.75]]),
        ...     torch.tensor([[True, False, True]]),
        ... ).advantages.tolist()
        [[0.5, 0.0, 0.25]]
    """
    rewards = torch.where(mask, token_rewards.float(), 0.0)  # (B, P)
    values = torch.where(mask, values.float(), 0.0)  # (B, P)
    advantages = torch.zeros_like(values)  # (B, P)
    advantage = values.new_zeros(len(values))  # (B,), of the next token that counts
    next_value = advantage if bootstrap is None else bootstrap.float()  # (B,)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # (B,)
        advantage = torch.where(mask[:, t], delta + gamma * lam * advantage, advantage)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        advantages[:, t] = advantage
    advantages = torch.where(mask, advantages, 0.0)
    return Estimate(advantages, advantages + values)


def bi_level_gae(
    token_rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    turn_ends: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    turn_gamma: float = 0.95,
) -> Estimate:
    """Return RAGEN's estimates (arXiv 2504.20073): GAE over turns, then within each turn.

    The return of a turn, estimated over the turns' last tokens with ``turn_gamma``, is the reward
    at its last token; inside a turn tokens are discounted by ``gamma``. RAGEN infers the ends of
    turns from nonzero rewards, which joins a turn without reward to the next; here they are
    passed: ``turn_ends``, bool ``(B, P)``, marks the last token of each turn; that of the episode
    is always one. Rewards inside a turn are ignored; ``lam`` is used on both levels.
    """
    ends = mask & (turn_ends | at_last_token(mask.new_ones(len(mask)), mask).bool())  # (B, P)
    turn_returns = gae(token_rewards, values, ends, gamma=turn_gamma, lam=lam).returns  # (B, P)
    assert turn_returns is not None
    turns = ends.flip(-1).cumsum(-1).flip(-1)  # (B, P): number of each token's turn, last is 1
    total = torch.zeros_like(mask, dtype=torch.float32)  # (B, P)
    for turn in range(1, int(turns.max()) + 1 if turns.numel() else 1):
        inside = mask & (turns == turn)
        total += gae(turn_returns, values, inside, gamma=gamma, lam=lam).advantages
    return Estimate(total, total + torch.where(mask, values.float(), 0.0))


def returns_to_go(token_rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Return ``G_t = r_t + gamma G_{t+1}`` over the tokens that count, ``(B, P)``."""
    return gae(token_rewards, torch.zeros_like(token_rewards), mask, gamma=gamma).advantages


def whiten(
    values: Tensor,
    mask: Tensor,
    *,
    divide: bool = True,
    eps: float = 1e-8,
    reduce: Reduce = _single_process,
) -> Tensor:
    """Return values with mean 0 and, with ``divide``, variance 1 over all tokens that count.

    ``divide`` divides by ``sqrt(var + eps)``, unbiased (verl); False only subtracts the mean.
    Released code often includes document tokens (R1-Searcher, Search-R1), which dilutes both
    moments; here only policy tokens count.
    """
    clean = torch.where(mask, values.double(), 0.0)  # (B, P)
    total, count = reduce(torch.stack([clean.sum(), mask.sum().double()])).unbind()  # () each
    centred = torch.where(mask, clean - total / count.clamp(min=1.0), 0.0)  # (B, P)
    if divide:
        variance = reduce(centred.square().sum()) / (count - 1.0).clamp(min=1.0)
        centred = centred * (variance + eps).rsqrt()
    return centred.float()


# ------------------------------------------------------------------------------------- groups


class _Groups:
    """Group statistics of a float64 number per episode; every method maps ``(B,)`` to ``(B,)``."""

    def __init__(self, groups: Tensor) -> None:
        _, self.index = torch.unique(groups, return_inverse=True)  # (B,)
        ones = torch.ones(len(groups), dtype=torch.float64, device=groups.device)  # (B,)
        self.size = self.sum(ones)  # (B,)

    def members(self) -> Sequence[Tensor]:
        """Return the episodes of each group, int64 ``(M,)``."""
        return torch.split(self.index.argsort(stable=True), self.index.bincount().tolist())

    def sum(self, numbers: Tensor) -> Tensor:
        sums = numbers.new_zeros(len(numbers)).index_add(0, self.index, numbers)  # (B,), by group
        return sums[self.index]

    def baseline(self, numbers: Tensor) -> Tensor:
        """Return the group's mean; 0 for a group of one (verl), which keeps its reward."""
        return torch.where(self.size > 1, self.sum(numbers) / self.size, 0.0)

    def others(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and unbiased standard deviation of the group's other episodes.

        The mean is the episode's own number in a group of one, the deviation 0 where there are not
        two others, and where these are equal but for rounding.
        """
        count = (self.size - 1.0).clamp(min=1.0)  # (B,)
        mean = torch.where(self.size > 1, (self.sum(numbers) - numbers) / count, numbers)
        centred = numbers - self.sum(numbers) / self.size  # (B,), against cancellation in squares
        squares = self.sum(centred.square()) - centred.square() - centred.square() / count
        floor = 1e-12 * self.sum(centred.square())
        squares = torch.where((self.size > 2) & (squares > floor), squares, 0.0)
        return mean, (squares / (self.size - 2.0).clamp(min=1.0)).sqrt()

    def deviation(self, numbers: Tensor) -> Tensor:
        """Return the group's unbiased standard deviation; 1 for a group of one (verl)."""
        centred = numbers - self.sum(numbers) / self.size  # (B,)
        variance = self.sum(centred.square()) / (self.size - 1.0).clamp(min=1.0)  # (B,)
        return torch.where(self.size > 1, variance.sqrt(), 1.0)


def _broadcast(numbers: Tensor, mask: Tensor) -> Tensor:
    """Return ``(B,)`` as float32 ``(B, P)``: an episode's number at each of its tokens."""
    return torch.where(mask, numbers.float()[:, None], 0.0)


def grpo(rewards: Tensor, groups: Tensor, mask: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Return GRPO's advantages (arXiv 2402.03300): ``(R - mean) / (std + eps)`` of the group.

    The standard deviation is unbiased. A group of one keeps its reward as advantage (mean 0,
    std 1), as in verl; eps is verl's (TRL 1e-4, OpenRLHF 1e-9).

    Example:
        >>> mask = torch.ones(4, 1, dtype=torch.bool)
        >>> groups = torch.zeros(4, dtype=torch.int)
        >>> advantages = grpo(torch.tensor([1.0, 0.0, 0.0, 1.0]), groups, mask)
        >>> [round(advantage, 3) for advantage in advantages[:, 0].tolist()]
        [0.866, -0.866, -0.866, 0.866]
    """
    group, rewards = _Groups(groups), rewards.double()
    centred = rewards - group.baseline(rewards)  # (B,)
    return _broadcast(centred / (group.deviation(rewards) + eps), mask)


def mean_only(rewards: Tensor, groups: Tensor, mask: Tensor) -> Tensor:
    """Return Dr. GRPO's advantages (arXiv 2503.20783): the reward minus the group's mean.

    A group of one keeps its reward.
    """
    rewards = rewards.double()
    return _broadcast(rewards - _Groups(groups).baseline(rewards), mask)


def rloo(rewards: Tensor, groups: Tensor, mask: Tensor) -> Tensor:
    """Return RLOO's advantages (arXiv 2402.14740): the reward minus the mean of the others.

    A group of one gets 0, so that an episode whose group was otherwise invalid raises no error.
    """
    group, rewards = _Groups(groups), rewards.double()
    others = (group.sum(rewards) - rewards) / (group.size - 1.0).clamp(min=1.0)  # (B,)
    return _broadcast(torch.where(group.size > 1, rewards - others, 0.0), mask)


def grpo_leave_one_out(rewards: Tensor, groups: Tensor, mask: Tensor) -> Tensor:
    """Return NeMo-RL's advantages: minus the mean of the others, over the others' deviation.

    The standard deviation is unbiased; where it is 0 the difference is not divided. A group of one
    gets 0. Source: NeMo-RL ``calculate_baseline_and_std_per_prompt`` with
    ``use_leave_one_out_baseline`` and ``normalize_rewards``, its defaults.

    Example:
        >>> mask, groups = torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, dtype=torch.int)
        >>> grpo_leave_one_out(torch.tensor([2.0, 0.0, 0.0]), groups, mask)[:, 0].tolist()
        [2.0, -0.7071067690849304, -0.7071067690849304]
    """
    rewards = rewards.double()
    mean, deviation = _Groups(groups).others(rewards)  # (B,) each
    return _broadcast((rewards - mean) / torch.where(deviation > 0, deviation, 1.0), mask)


def opo(rewards: Tensor, groups: Tensor, mask: Tensor) -> Tensor:
    """Return OPO's advantages (arXiv 2505.23585): a baseline that weights rewards by length.

    ``R_i - sum_j |y_j| R_j / sum_j |y_j|``, lengths in tokens that count; a group of one gets 0.
    """
    group, rewards = _Groups(groups), rewards.double()
    lengths = mask.sum(-1).double()  # (B,)
    baseline = group.sum(lengths * rewards) / group.sum(lengths).clamp(min=1.0)  # (B,)
    return _broadcast(rewards - baseline, mask)


def pass_at_k(
    rewards: Tensor, groups: Tensor, mask: Tensor, *, divide: bool = True, eps: float = 1e-6
) -> Tensor:
    """Return the best episode's lead ``(R_max - R_second) / (std + eps)``, 0 for all others.

    With a tie for the best all get 0, and so does a group of one. Without ``divide`` the lead is
    not divided. Source: verl ``compute_grpo_passk_outcome_advantage``.
    """
    group, rewards = _Groups(groups), rewards.double()
    leads = torch.zeros_like(rewards)  # (B,)
    for members in group.members():
        if len(members) > 1:
            best, second = rewards[members].topk(2).indices
            leads[members[best]] = rewards[members[best]] - rewards[members[second]]
    return _broadcast(leads / (group.deviation(rewards) + eps) if divide else leads, mask)


def gdpo(
    components: Tensor,
    groups: Tensor,
    mask: Tensor,
    *,
    weights: Tensor | None = None,
    divide: bool = True,
    whitening: Whitening = "tokens",
    reduce: Reduce = _single_process,
) -> Tensor:
    """Return GDPO's advantages (arXiv 2601.05242): each part of the reward is normalised alone.

    Each part is normalised in its group as in GRPO, so that a part with a large spread cannot
    dominate; the sum of the ``components`` ``(B, C)`` under ``weights`` ``(C,)``, by default 1
    each, is whitened over the batch's tokens, as in verl, or over its episodes that have any, as in
    the paper and TRL. ``divide`` divides by the group's standard deviation; the whitening always
    divides.
    """
    normalise = grpo if divide else mean_only
    counted = mask.any(-1, keepdim=True)  # (B, 1)
    total = torch.zeros_like(counted, dtype=torch.float32)  # (B, 1)
    for number, part in enumerate(components.unbind(-1)):  # part: (B,)
        weight = 1.0 if weights is None else weights[number]
        total = total + weight * normalise(part, groups, counted)
    if whitening == "episodes":
        return torch.where(mask, whiten(total, counted, reduce=reduce), 0.0)
    return whiten(torch.where(mask, total, 0.0), mask, reduce=reduce)


def reinforce_pp(
    rewards: Tensor,
    mask: Tensor,
    *,
    penalties: Tensor | None = None,
    gamma: float = 1.0,
    divide: bool = True,
    reduce: Reduce = _single_process,
) -> Tensor:
    """Return REINFORCE++'s advantages (arXiv 2501.03262): whitened returns to go.

    The reward is placed at the last token that counts; ``divide`` as in :func:`whiten`.
    """
    token_rewards = _penalised(at_last_token(rewards, mask), penalties)
    return whiten(returns_to_go(token_rewards, mask, gamma), mask, divide=divide, reduce=reduce)


def reinforce_pp_baseline(
    rewards: Tensor,
    groups: Tensor,
    mask: Tensor,
    *,
    penalties: Tensor | None = None,
    divide: bool = True,
    reduce: Reduce = _single_process,
) -> Tensor:
    """Return REINFORCE++-baseline's advantages: minus the group's mean, whitened over the batch.

    R1-Searcher's estimator (``reinforce_baseline`` of OpenRLHF), where masked document tokens
    count in the whitening; here they do not. The returns to go of the penalties, undiscounted, are
    added before the whitening; ``divide`` as in :func:`whiten`.
    """
    advantages = _add_penalty_returns(mean_only(rewards, groups, mask), penalties, mask)
    return whiten(advantages, mask, divide=divide, reduce=reduce)


def _penalised(token_rewards: Tensor, penalties: Tensor | None) -> Tensor:
    return token_rewards if penalties is None else token_rewards + penalties


def _add_penalty_returns(advantages: Tensor, penalties: Tensor | None, mask: Tensor) -> Tensor:
    return advantages if penalties is None else advantages + returns_to_go(penalties, mask)


# ----------------------------------------------------------------------------------- dispatch


def estimate(
    algorithm: Algorithm,
    rewards: Tensor,
    groups: Tensor,
    mask: Tensor,
    *,
    values: Tensor | None = None,
    bootstrap: Tensor | None = None,
    penalties: Tensor | None = None,
    components: Tensor | None = None,
    reduce: Reduce = _single_process,
) -> Estimate:
    """Return the advantages of an algorithm.

    The KL penalty enters the token rewards in gae and reinforce_pp, and the return in rloo (paper,
    TRL). In all others its return to go is added to the group's advantage and never divided by
    the group's deviation (OpenRLHF, hence R1-Searcher).

    Args:
        algorithm: Estimator and its settings.
        rewards: ``(B,)``.
        groups: int ``(B,)``; a group's episodes are all in this batch, on this process.
        mask: bool ``(B, P)``.
        values: ``(B, P)``, for gae.
        bootstrap: ``(B,)``, see :func:`gae`.
        penalties: ``(B, P)``: ``-kl_coefficient * k1``, with ``kl="reward"``.
        components: ``(B, C)``, for gdpo.
        reduce: See the top of the module.

    Raises:
        ConfigurationError: An input of the estimator is None.
    """
    divide, gamma = algorithm.normalize_std, algorithm.gamma
    match algorithm.advantage:
        case "gae":
            token_rewards = _penalised(at_last_token(rewards, mask), penalties)
            values = required("values", values, "advantage='gae'")
            advantages, returns = gae(
                token_rewards, values, mask, gamma=gamma, lam=algorithm.lam, bootstrap=bootstrap
            )
            return Estimate(whiten(advantages, mask, divide=divide, reduce=reduce), returns)
        case "reinforce_pp":
            advantages = reinforce_pp(
                rewards, mask, penalties=penalties, gamma=gamma, divide=divide, reduce=reduce
            )
        case "reinforce_pp_baseline":
            advantages = reinforce_pp_baseline(
                rewards, groups, mask, penalties=penalties, divide=divide, reduce=reduce
            )
        case "rloo":
            if penalties is not None:
                rewards = rewards + torch.where(mask, penalties, 0.0).sum(-1)
            advantages = rloo(rewards, groups, mask)
        case "gdpo":
            components = required("components", components, "advantage='gdpo'")
            whitening = algorithm.gdpo_whitening
            advantages = gdpo(
                components, groups, mask, divide=divide, whitening=whitening, reduce=reduce
            )
            advantages = _add_penalty_returns(advantages, penalties, mask)
        case _:
            advantages = _grouped(algorithm, rewards, groups, mask)
            advantages = _add_penalty_returns(advantages, penalties, mask)
    return Estimate(advantages)


def _grouped(algorithm: Algorithm, rewards: Tensor, groups: Tensor, mask: Tensor) -> Tensor:
    """Return the advantages of the estimators that need rewards and groups only."""
    if algorithm.advantage == "opo":
        return opo(rewards, groups, mask)
    if algorithm.advantage == "pass_at_k":
        return pass_at_k(rewards, groups, mask, divide=algorithm.normalize_std)
    if algorithm.advantage == "grpo_leave_one_out":
        leave_one_out = grpo_leave_one_out if algorithm.normalize_std else rloo
        return leave_one_out(rewards, groups, mask)
    if algorithm.advantage == "grpo" and algorithm.normalize_std:
        return grpo(rewards, groups, mask)
    return mean_only(rewards, groups, mask)
