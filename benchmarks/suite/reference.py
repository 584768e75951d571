"""The reference algorithms: published presets over a small policy, and two broken ones.

Estimators and losses are those of :mod:`search_env.agents.algorithms`, on which the trainer of
language models stands too; this file is the rest of a trainer, to be read from top to bottom. Each
preset keeps its estimator, clipping, KL term and number of updates of a rollout set; the number of
episodes is the experiment's, and the learning rate was chosen on other seeds (``docs/suite.md``).

Shapes: B episodes, T tokens of the longest one less the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from search_env.agents.algorithms.advantages import Estimate, estimate
from search_env.agents.algorithms.config import Algorithm
from search_env.agents.algorithms.losses import (
    keep_group,
    kl,
    overlong_filter,
    policy_loss,
    token_weights,
)
from search_env.agents.algorithms.presets import get_preset
from search_env.benchmarks.suite.policy import Decoder, Policy, clone, frozen
from search_env.benchmarks.suite.task import Act, BudgetSpentError, Task
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.types import Source

Mask = Callable[[Tensor, Tensor], Tensor]
GROUP = 8
CLIP_NORM = 1.0


class Rollouts(NamedTuple):
    """A rollout set; ``(B, T)`` are of the tokens after the first."""

    tokens: Tensor  # int64 (B, T + 1)
    written: Tensor  # bool (B, T): tokens of the policy
    after_prompt: Tensor  # bool (B, T): tokens of the policy and of documents
    rewards: Tensor  # float32 (B,)
    truncated: Tensor  # bool (B,)
    groups: Tensor  # int64 (B,)


class LogProbs(NamedTuple):
    """What the policy says of the tokens that were written."""

    log_probs: Tensor  # (B, T)
    entropies: Tensor  # (B, T)
    values: Tensor  # (B, T): before each token


def policy_tokens(written: Tensor, after_prompt: Tensor) -> Tensor:
    """Return the mask that is right."""
    return written


def every_token(written: Tensor, after_prompt: Tensor) -> Tensor:
    """Return a mask with the documents, as if the policy had written them."""
    return after_prompt


def one_token_late(written: Tensor, after_prompt: Tensor) -> Tensor:
    """Return the mask one token late, a mistake of indexing."""
    return torch.roll(written, 1, dims=1) & after_prompt


@dataclass(frozen=True, slots=True)
class Reference:
    """An algorithm over the suite's policy.

    Attributes:
        preset: Name of a published preset.
        learning_rate: Of Adam; a value head learns ten times as fast.
        mask: Which tokens the loss is of.
    """

    preset: str
    learning_rate: float
    mask: Mask = policy_tokens

    def __call__(self, task: Task) -> Act:
        """Train until the budget is spent; return the greedy policy."""
        algorithm = self.settings(task.experiment.batch)
        policy = clone(task)
        trainer = Trainer(algorithm, policy, self.mask)
        envs = task.make_vec(algorithm.sequences, group_size=algorithm.group_size)
        random = torch.Generator().manual_seed(task.seed)
        try:
            for number in range(1_000_000):
                sets = rollout_sets(envs, policy, random, 1_000_000 * task.seed + 1000 * number)
                trainer.update(enough(algorithm, sets), random)
        except BudgetSpentError:
            return policy.greedy()
        raise AssertionError("a budget is never spent")

    def settings(self, episodes: int) -> Algorithm:
        """Return the preset for so many episodes of an update."""
        preset = get_preset(self.preset)
        group = 1 if preset.group_size == 1 else GROUP
        return replace(
            preset,
            prompts=episodes // group,
            group_size=group,
            minibatch=max(2, episodes // preset.updates),
            learning_rate=self.learning_rate,
            value_learning_rate=10 * self.learning_rate if preset.uses_values else None,
            warmup_steps=0,
        )


REFERENCES: Mapping[str, Reference] = MappingProxyType(
    {
        "reinforce++": Reference("reinforce++", 1e-3),
        "grpo": Reference("grpo", 3e-4),
        "rloo": Reference("rloo", 1e-3),
        "ppo": Reference("ppo", 3e-4),
        "dapo": Reference("dapo", 3e-4),
        "gspo": Reference("gspo", 1e-3),
        "broken-no-mask": Reference("grpo", 3e-4, every_token),
        "broken-late-mask": Reference("grpo", 3e-4, one_token_late),
    }
)
"""The algorithms that come with the suite, by name."""


class Trainer:
    """Updates a policy from rollout sets."""

    def __init__(self, algorithm: Algorithm, policy: Policy, mask: Mask) -> None:
        self._algorithm, self._policy, self._mask = algorithm, policy, mask
        self._reference = frozen(policy) if algorithm.uses_reference else None
        critic = set(policy.critic.parameters())
        rest = [p for p in policy.parameters() if p not in critic]
        rate = algorithm.learning_rate
        self._optimizer = torch.optim.Adam(
            [
                {"params": rest, "lr": rate},
                {"params": list(critic), "lr": algorithm.value_learning_rate or rate},
            ],
        )

    def update(self, rollouts: Rollouts, random: torch.Generator) -> None:
        """Learn from a rollout set."""
        algorithm = self._algorithm
        mask = self._mask(rollouts.written, rollouts.after_prompt)  # (B, T)
        with torch.no_grad():
            old = say(self._policy, rollouts.tokens)
            reference = say(self._reference, rollouts.tokens).log_probs if self._reference else None
        estimated = self._estimate(rollouts, mask, old, reference)
        if algorithm.overlong_filter:
            mask = overlong_filter(mask, rollouts.truncated)
        for _ in range(algorithm.epochs):
            order = torch.randperm(len(mask), generator=random)
            for rows in torch.split(order, algorithm.minibatch or len(mask)):
                self._step(rollouts.tokens[rows], mask[rows], rows, old, reference, estimated)

    def _estimate(
        self, rollouts: Rollouts, mask: Tensor, old: LogProbs, reference: Tensor | None
    ) -> Estimate:
        algorithm, penalties = self._algorithm, None
        if algorithm.kl == "reward" and reference is not None:
            penalties = -algorithm.kl_coefficient * kl(old.log_probs, reference, mask, "k1")
        return estimate(
            algorithm,
            rollouts.rewards,
            rollouts.groups,
            mask,
            values=old.values if algorithm.uses_values else None,
            penalties=penalties,
        )

    def _step(
        self,
        tokens: Tensor,
        mask: Tensor,
        rows: Tensor,
        old: LogProbs,
        reference: Tensor | None,
        estimated: Estimate,
    ) -> None:
        """Take an optimizer step on some rows, of which ``tokens`` and ``mask`` are."""
        algorithm, now = self._algorithm, say(self._policy, tokens)
        weights = token_weights(mask, algorithm.aggregation, horizon=algorithm.horizon)
        critic = {}
        if algorithm.uses_values and estimated.returns is not None:
            critic = {
                "values": now.values,
                "old_values": old.values[rows],
                "returns": estimated.returns[rows],
            }
        loss, _ = policy_loss(
            algorithm,
            log_probs=now.log_probs,
            old_log_probs=old.log_probs[rows],
            advantages=estimated.advantages[rows],
            mask=mask,
            weights=weights,
            entropies=now.entropies,
            ref_log_probs=None if reference is None else reference[rows],
            **critic,
        )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._policy.parameters(), CLIP_NORM)
        self._optimizer.step()


def say(policy: Policy, tokens: Tensor) -> LogProbs:
    """Return what a policy says of tokens ``(B, T + 1)`` after the first."""
    output = policy(tokens[:, :-1])
    log_probs = output.logits.log_softmax(-1)  # (B, T, V)
    entropies = -(log_probs.exp() * log_probs).sum(-1)
    chosen = log_probs.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return LogProbs(chosen, entropies, output.values)


def rollout_sets(
    envs: SearchQAVectorEnv, policy: Policy, random: torch.Generator, seed: int
) -> Iterator[Rollouts]:
    """Yield rollout sets of one policy, each with questions of its own."""
    while True:
        yield collect(envs, policy, random, seed)
        seed += envs.num_envs


def enough(algorithm: Algorithm, sets: Iterator[Rollouts]) -> Rollouts:
    """Return a rollout set, with dynamic sampling one of groups that differ in their rewards."""
    if not algorithm.dynamic_sampling:
        return next(sets)
    kept: list[Rollouts] = []
    for _ in range(algorithm.max_batches):
        batch = next(sets)
        rewards = batch.rewards.reshape(-1, algorithm.group_size)
        signal = [keep_group(group, -np.inf, np.inf) for group in rewards.tolist()]
        rows = torch.tensor(signal).repeat_interleave(algorithm.group_size)
        offset = algorithm.prompts * len(kept)
        kept.append(
            Rollouts(*(part[rows] for part in batch))._replace(groups=batch.groups[rows] + offset)
        )
        if sum(len(part.rewards) for part in kept) >= algorithm.sequences:
            break
    return Rollouts(*(join(parts)[: algorithm.sequences] for parts in zip(*kept, strict=True)))


def join(parts: tuple[Tensor, ...]) -> Tensor:
    """Return tensors in one, padded to the widest."""
    if parts[0].dim() == 1:
        return torch.cat(parts)
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


def collect(
    envs: SearchQAVectorEnv, policy: Policy, random: torch.Generator, seed: int
) -> Rollouts:
    """Play an episode in every row."""
    observation, _ = envs.reset(seed=seed)
    rows, rewards = np.arange(envs.num_envs), np.zeros(envs.num_envs)
    truncated = np.zeros(envs.num_envs, bool)
    decoder = Decoder(policy, envs.num_envs)
    while len(rows):
        probs = decoder(observation, rows).softmax(-1)
        actions = torch.multinomial(probs, 1, generator=random).squeeze(1).numpy()
        envs.send(actions, rows)
        observation, paid, over, cut, _ = envs.recv(min_ready=len(rows))
        rewards += paid
        truncated |= cut
        rows = rows[~(over | cut)[rows]]
    width = int(np.ravel(observation["length"]).max())
    sources = torch.as_tensor(observation["sources"][:, 1:width].copy())
    return Rollouts(
        torch.as_tensor(observation["tokens"][:, :width].astype(np.int64)),
        sources == Source.POLICY,
        sources >= Source.POLICY,
        torch.as_tensor(rewards, dtype=torch.float32),
        torch.as_tensor(truncated),
        torch.arange(envs.num_envs) // envs.group_size,
    )
