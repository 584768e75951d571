"""Learning from one set of episodes: advantages, minibatches, losses, optimizer steps.

The core of policy-gradient training, for rollouts of any origin;
:mod:`search_env.agents.training.train` is the run around it. Normalisation is over the whole
minibatch, on all processes, so its split into micro-batches changes nothing. Episodes without a
gradient (every advantage 0, and no other term in the loss) count in it but are not computed: that
is exact, and saves most of the time late in training. Old log-probabilities are the learner's; with
one optimizer step per set they come from the same pass as the gradient.

No value is estimated for the state after a truncation: budgets are part of the task.

Examples to imitate may join: each optimizer step's loss is then that of its minibatch plus a weight
times the mean negative log-probability of its part of the examples' tokens.

Shapes, here and in the comment at each tensor: B episodes of this rank, P policy tokens of the
longest, b and p the same of one micro-batch, T tokens of one episode.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_env.agents.algorithms.advantages import Estimate, estimate
from search_env.agents.algorithms.config import GROUPED, Algorithm
from search_env.agents.algorithms.losses import (
    importance_weights,
    keep_group,
    kl,
    overlong_filter,
    policy_loss,
    token_weights,
)
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.micro_batches import Outputs
from search_env.agents.types import Example, Trajectory, by_group, learnable
from search_env.types import Source

__all__ = ["update"]

OnAdvantages = Callable[[Sequence[Trajectory], Sequence[NDArray[np.float32]]], None]
"""Called with episodes and their advantages, float32 ``(T,)`` each, NaN at tokens without loss."""

_DRIFT_SAMPLE = 8  # episodes of all ranks to measure the drift with when there is nothing to learn


def update(
    learner: Learner,
    trajectories: Sequence[Trajectory],
    algorithm: Algorithm,
    *,
    seed: int = 0,
    on_advantages: OnAdvantages | None = None,
    examples: Sequence[Example] | None = None,
    example_weight: float = 0.0,
) -> dict[str, float]:
    """Learn from one rollout set: advantages, then minibatches for the algorithm's epochs.

    Args:
        learner: Changed in place; has a critic and a reference model where the algorithm needs one.
        trajectories: Valid trajectories of whole groups; this rank's part of the set.
        algorithm: The algorithm.
        seed: Seed of the order of minibatches.
        on_advantages: Called with this rank's advantages before the first optimizer step.
        examples: Examples of this rank whose negative log-probability joins the loss, in equal
            parts for the steps of an epoch; None where there never are any.
        example_weight: Its weight.

    Returns:
        Metrics over all ranks; those of the loss are means over tokens with a loss, NaN where
        there are none. Those of the examples begin with ``memory/``.

    Raises:
        NonFiniteError: A loss or gradient is not finite; the last completed update's weights stay.
        DeviceMemoryError: Memory ran out; likewise.
    """
    started = time.perf_counter()
    if not algorithm.mask_retrieved:
        trajectories = [_unmasked(trajectory) for trajectory in trajectories]
    batch = _Batch(learner, trajectories, algorithm)
    if on_advantages is not None:
        on_advantages(batch.trajectories, batch.token_advantages())
    scored = time.perf_counter()
    random = np.random.default_rng(seed)
    imitation = _Imitation(learner, examples or (), example_weight, batch.steps, seed)
    sums: Counter[str] = Counter()
    norms, policy_steps = [], 0
    for _ in range(algorithm.epochs):
        minibatches = np.array_split(random.permutation(len(trajectories)), batch.steps)
        for rows, part in zip(minibatches, imitation.parts, strict=True):
            learner.clear()
            has_gradient = batch.accumulate(rows, sums)
            policy_steps += has_gradient
            if imitation.accumulate(part) or has_gradient:
                norms.append(learner.step())
    names = ("tokens", "clipped", "kl", "value_loss", "loss", "log_ratio_k3")
    totals = dict(zip(names, learner.ranks.sum([sums[name] for name in names]), strict=True))
    tokens = totals["tokens"] or math.nan
    metrics = {
        "policy/loss": totals["loss"] / (policy_steps or math.nan),
        "policy/clip_fraction": totals["clipped"] / tokens,
        "policy/update_kl": totals["log_ratio_k3"] / tokens,
        "policy/grad_norm": sum(norms) / (len(norms) or math.nan),
        "policy/learning_rate": learner.learning_rate,
        "policy/updates": float(len(norms)),
        **batch.drift(),
        "time/score": scored - started,
        "time/learn": time.perf_counter() - scored,
    }
    if algorithm.uses_reference:
        metrics["policy/kl"] = batch.distance()
    if algorithm.uses_values:
        metrics["policy/value_loss"] = totals["value_loss"] / tokens
    return metrics if examples is None else {**metrics, **imitation.metrics()}


def useful(trajectories: Sequence[Trajectory], algorithm: Algorithm) -> list[Trajectory]:
    """Return the trajectories to learn from: valid, in groups that the algorithm can use."""
    valid = learnable(trajectories, 2 if algorithm.advantage in GROUPED else 1)
    if not algorithm.dynamic_sampling:
        return valid
    return [
        member
        for members in by_group(valid).values()
        if keep_group([t.reward for t in members], -math.inf, math.inf)
        for member in members
    ]


class _Batch:
    """A rollout set as tensors over policy tokens, on the CPU, and the steps that learn it."""

    def __init__(
        self, learner: Learner, trajectories: Sequence[Trajectory], algorithm: Algorithm
    ) -> None:
        self.learner, self.algorithm = learner, algorithm
        self.trajectories = list(trajectories)
        count = learner.ranks.sum([float(len(trajectories))])[0]
        self.steps = max(1, math.ceil(count / (algorithm.minibatch or count or 1)))
        log_probs = [t.log_probs[t.policy] for t in trajectories]
        self.mask = _padded([np.ones(len(row), np.bool_) for row in log_probs], np.bool_)  # (B, P)
        self.rollout = _padded(log_probs, np.float32)  # (B, P), of the engine that sampled
        self.old = torch.full_like(self.rollout, torch.nan)  # (B, P), NaN until scored
        self.values = torch.zeros_like(self.rollout) if algorithm.uses_values else None  # (B, P)
        self.reference: Tensor | None = None  # (B, P)
        everything = list(range(len(self.trajectories)))
        # Rollouts have no log-probabilities of documents, which are learnt from without the mask.
        if algorithm.uses_values or self._on_any_rank(self.rollout[self.mask].isnan().any()):
            self._score(everything)
        if algorithm.uses_reference:
            self.reference = learner.score(self.trajectories, reference=True).log_probs
        self.advantages, self.returns = self._estimate()  # (B, P) each
        if algorithm.overlong_filter:
            truncated = torch.tensor([t.truncated for t in trajectories], dtype=torch.bool)  # (B,)
            self.mask = overlong_filter(self.mask, truncated)
        other_terms = (
            algorithm.uses_values
            or algorithm.entropy_coefficient > 0.0
            or (algorithm.kl == "loss" and algorithm.uses_reference)
        )
        has_gradient = self.mask & ((self.advantages != 0.0) | other_terms)  # (B, P)
        self.live = has_gradient.any(-1)  # (B,)
        if self.steps * algorithm.epochs > 1 and not algorithm.uses_values:
            self._score(self.live.nonzero()[:, 0].tolist())
        if not self._on_any_rank(self.live.any()):  # the drift is measured all the same
            self._score(everything[: math.ceil(_DRIFT_SAMPLE / learner.ranks.size)])

    def accumulate(self, rows: NDArray[np.intp], sums: Counter[str]) -> bool:
        """Add the gradient of a minibatch of rows; return whether any rank has one."""
        learner, algorithm = self.learner, self.algorithm
        mask = self.mask[rows]  # (len(rows), P)
        live = rows[self.live[rows].numpy()]
        tokens, sequences, live_rows = learner.ranks.sum(
            [float(mask.sum()), float(mask.any(-1).sum()), float(len(live))]
        )
        if not live_rows:
            return False
        weights = torch.zeros_like(self.rollout)  # (B, P)
        aggregation, horizon = algorithm.aggregation, algorithm.horizon
        weights[rows] = token_weights(
            mask, aggregation, tokens=tokens, sequences=sequences, horizon=horizon
        )

        def loss_fn(outputs: Outputs, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return self._loss(outputs, torch.from_numpy(live)[index.cpu()], weights)

        sums.update(learner.accumulate([self.trajectories[i] for i in live], loss_fn))
        return True

    def drift(self) -> dict[str, float]:
        """Return the distance between the learner's log-probabilities and the rollouts'."""
        scored = self.mask & ~self.old.isnan() & ~self.rollout.isnan()  # (B, P)
        gaps = (self.old - self.rollout)[scored].abs().double()  # (scored tokens,)
        total, count = self.learner.ranks.sum([float(gaps.sum()), float(len(gaps))])
        largest = max(self.learner.ranks.gather(float(gaps.max()) if len(gaps) else -1.0))
        return {
            "policy/drift_max": largest if count else math.nan,
            "policy/drift_mean": total / (count or math.nan),
        }

    def token_advantages(self) -> list[NDArray[np.float32]]:
        """Return advantages by token, float32 ``(T,)`` for each episode; see OnAdvantages."""
        masked = self.advantages.float().masked_fill(~self.mask, torch.nan).numpy()  # (B, P)
        by_token = []
        for trajectory, row in zip(self.trajectories, masked, strict=True):
            advantages = np.full(len(trajectory.tokens), np.nan, np.float32)
            advantages[trajectory.policy] = row[: trajectory.num_policy_tokens]
            by_token.append(advantages)
        return by_token

    def distance(self) -> float:
        """Return the mean k3 estimate of the KL divergence from the reference, over all tokens."""
        terms = 0.0
        if self.reference is not None:
            terms = float(kl(self._initial(), self.reference, self.mask, "k3").sum())
        total, count = self.learner.ranks.sum([terms, float(self.mask.sum())])
        return total / (count or math.nan)

    def _estimate(self) -> Estimate:
        algorithm, trajectories, penalties = self.algorithm, self.trajectories, None
        if algorithm.kl == "reward" and self.reference is not None:
            divergence = kl(self._initial(), self.reference, self.mask, "k1")  # (B, P)
            penalties = -algorithm.kl_coefficient * divergence
        names = sorted({name for t in trajectories for name in t.reward_parts})
        parts = [[t.reward_parts.get(name, 0.0) for name in names] for t in trajectories]
        return estimate(
            algorithm,
            torch.tensor([t.reward for t in trajectories], dtype=torch.float64),
            torch.tensor([t.group for t in trajectories], dtype=torch.int64),
            self.mask,
            values=self.values,
            penalties=penalties,
            components=torch.tensor(parts).view(len(trajectories), len(names)),
            reduce=self._sum_over_ranks,
        )

    def _initial(self) -> Tensor:
        """Return log-probabilities ``(B, P)`` before the first update: the learner's, if scored."""
        return torch.where(self.old.isnan(), self.rollout, self.old)

    def _loss(
        self, outputs: Outputs, rows: Tensor, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the rows ``(b,)`` of a micro-batch, and the sums to log."""
        algorithm, width, device = self.algorithm, outputs.mask.shape[1], outputs.mask.device

        def part(numbers: Tensor | None) -> Tensor | None:  # (B, P) to (b, p)
            return None if numbers is None else numbers[rows, :width].to(device)

        if self.old[rows].isnan().all():  # no update since the rollout: the ratio is 1
            self.old[rows, :width] = outputs.log_probs.detach().float().cpu()
        old, mask = self.old[rows, :width], self.mask[rows, :width]  # (b, p) each
        rollout = self.rollout[rows, :width]  # (b, p)
        if not algorithm.mask_retrieved:  # documents were not sampled: nothing to correct
            rollout = torch.where(rollout.isnan(), old, rollout)
        importance = importance_weights(  # (b, p)
            old, rollout, mask, algorithm.importance_correction, algorithm.importance_cap
        )
        return policy_loss(
            algorithm,
            log_probs=outputs.log_probs,
            old_log_probs=old.to(device),
            advantages=self.advantages[rows, :width].to(device),
            mask=mask.to(device),
            weights=weights[rows, :width].to(device),
            entropies=outputs.entropies if algorithm.entropy_coefficient else None,
            ref_log_probs=part(self.reference),
            importance=importance.to(device),
            values=outputs.values,
            old_values=part(self.values),
            returns=part(self.returns),
        )

    def _score(self, rows: list[int]) -> None:
        """Compute the learner's log-probabilities and values of rows before the first update.

        Every rank takes part, also without rows: their learners may share one model.
        """
        scores = self.learner.score([self.trajectories[i] for i in rows])
        width = scores.log_probs.shape[1]
        self.old[rows, :width] = scores.log_probs
        if self.values is not None and scores.values is not None:
            self.values[rows, :width] = scores.values

    def _on_any_rank(self, flag: Tensor) -> bool:
        return self.learner.ranks.sum([float(flag)])[0] > 0

    def _sum_over_ranks(self, sums: Tensor) -> Tensor:
        total = self.learner.ranks.sum(sums.double().flatten().tolist())
        return torch.tensor(total, dtype=torch.float64).view_as(sums)


class _Imitation:
    """Examples beside a rollout set, in a part for each optimizer step of an epoch."""

    def __init__(
        self,
        learner: Learner,
        examples: Sequence[Example],
        weight: float,
        steps: int,
        seed: int,
    ) -> None:
        # Order and parts leave the draws of minibatches as they are without examples.
        order = np.random.default_rng((seed, 1)).permutation(len(examples))
        self.parts = [[examples[i] for i in part] for part in np.array_split(order, steps)]
        self._learner, self._weight = learner, weight
        self._count = len(examples)
        self._tokens = self._loss = self._seconds = 0.0  # of all epochs

    def accumulate(self, part: Sequence[Example]) -> bool:
        """Add the weighted gradient of a part; return whether any rank has one."""
        if not self._weight:
            return False
        started = time.perf_counter()
        tokens = self._learner.ranks.sum([sum(float(e.weights[1:].sum()) for e in part)])[0]
        if not tokens:
            return False
        loss = self._learner.accumulate_examples(part, tokens / self._weight)
        self._loss += loss * tokens / self._weight  # this rank's sum over tokens
        self._tokens += tokens
        self._seconds += time.perf_counter() - started
        return True

    def metrics(self) -> dict[str, float]:
        """Return loss, in nats a token as each part had it before its step, and counts."""
        loss, count = self._learner.ranks.sum([self._loss, float(self._count)])
        return {
            "memory/loss": loss / (self._tokens or math.nan),
            "memory/examples": count,
            "time/memory_loss": self._seconds,
        }


def _unmasked(trajectory: Trajectory) -> Trajectory:
    """Return an episode with its document tokens marked as the policy's."""
    retrieved = trajectory.sources == Source.RETRIEVED
    sources = np.where(retrieved, np.int8(Source.POLICY), trajectory.sources)
    return replace(trajectory, sources=sources)


def _padded(rows: Sequence[NDArray[np.generic]], kind: type[np.generic]) -> Tensor:
    """Return rows of several lengths as one tensor ``(B, P)``, zeros on the right."""
    table = np.zeros((len(rows), max((len(row) for row in rows), default=0)), kind)  # (B, P)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(table)
