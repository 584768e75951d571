"""A short trial of a run: episodes by its engine, and a step by its learner.

The model in memory is changed by it; nothing is written.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from search_env.agents.doctor.findings import Finding, Section
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.sampling import Sampling
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.micro_batches import Outputs
from search_env.agents.rollouts.collect import Rollouts, collect
from search_env.agents.rollouts.lm_agent import spread
from search_env.agents.rollouts.metrics import rollout_metrics
from search_env.agents.training.collapse_monitors import DRIFT_LIMITS
from search_env.agents.training.config import TrainConfig
from search_env.agents.types import Trajectory
from search_env.envs.search_qa_vector import SearchQAVectorEnv

_ROLLOUT = Section("Rollout")
_LEARNER = Section("Learner")

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Measured:
    """Episodes of a trial, and what they cost.

    Attributes:
        rollouts: The episodes.
        rollout_seconds: Time to play them.
        score_seconds: Time of the learner's pass without gradients.
        learn_seconds: Time of its pass with gradients.
    """

    rollouts: Rollouts
    rollout_seconds: float
    score_seconds: float = 0.0
    learn_seconds: float = 0.0

    @property
    def episodes(self) -> int:
        """Number of episodes played."""
        return len(self.rollouts.trajectories)

    @property
    def tokens(self) -> int:
        """Number of their tokens, prompts and documents included."""
        return sum(len(trajectory.tokens) for trajectory in self.rollouts.trajectories)


def play(
    config: TrainConfig,
    envs: SearchQAVectorEnv,
    engine: Engine,
    episodes: int,
    progress: Progress | None,
) -> tuple[Rollouts, float]:
    """Return episodes sampled as the run would in its first phase, and their seconds."""
    size = min(config.algorithm.group_size, episodes)
    count = max(1, episodes // size)
    questions = spread(envs.questions, count)
    reward, group_reward = config.phases[0].rewards()
    envs.set_reward(reward)
    started = time.perf_counter()
    rollouts = collect(
        envs,
        engine,
        questions,
        group_size=size,
        group_reward=group_reward,
        seed=config.seed,
        progress=progress,
    )
    return rollouts, time.perf_counter() - started


def make_engine(config: TrainConfig, learner: Learner, envs: SearchQAVectorEnv) -> Engine:
    """Return the engine of a run, which refuses models that it computes differently."""
    algorithm = config.algorithm
    return Engine(
        learner.model,
        rows=envs.num_envs,
        max_tokens=envs.protocol.max_tokens,
        sampling=Sampling(algorithm.temperature, algorithm.top_p),
        value_head=learner.value_head,
        shares_weights=True,
    )


def examine_rollouts(config: TrainConfig, rollouts: Rollouts, seconds: float) -> Iterator[Finding]:
    """Yield what the episodes of a trial say of the run to come."""
    trajectories = rollouts.trajectories
    metrics = rollout_metrics(trajectories)
    yield _ROLLOUT.ok(
        f"{len(trajectories)} episodes of {np.mean([len(t.tokens) for t in trajectories]):,.0f} "
        f"tokens, {rollouts.policy_tokens / len(trajectories):,.0f} of them the policy's: "
        f"{rollouts.policy_tokens / seconds:,.0f} policy tokens a second"
    )
    if rollouts.num_invalid:
        yield _ROLLOUT.error(
            f"retrieval failed in {rollouts.num_invalid} episodes",
            "Check the retriever; failed episodes are never learnt from.",
        )
    yield _endings(trajectories)
    yield _behaviour(config, metrics)
    yield _signal(config, metrics)


def _endings(trajectories: list[Trajectory]) -> Finding:
    counts = Counter(t.stop_reason.value for t in trajectories if t.valid)
    ends = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    cut = sum(t.truncated for t in trajectories)
    return _ROLLOUT.checked(
        2 * cut <= len(trajectories),
        f"endings: {ends or 'none'}",
        "Over half were ended by a limit: raise --max-tokens or max_policy_tokens, or teach the "
        "model the format first (search-env sft).",
    )


def _behaviour(config: TrainConfig, metrics: dict[str, float]) -> Finding:
    rate, formed = metrics["search/rate"], metrics["format/well_formed"]
    return _ROLLOUT.checked(
        rate > 0 and formed > 0,
        f"{rate:.0%} of episodes search, {formed:.0%} are well-formed, "
        f"{metrics['answer/exact_match']:.0%} are answered exactly",
        "What never happens is never rewarded: begin with imitation (search-env sft), or with a "
        "model or prompt that uses the tags now and then.",
    )


def _signal(config: TrainConfig, metrics: dict[str, float]) -> Finding:
    """Return whether rewards differ within groups, without which nothing is learnt."""
    name, flat = config.phases[0].reward, metrics["groups/zero_variance"]
    mean = metrics["reward/mean"]
    return _ROLLOUT.checked(
        not flat >= 1.0,
        f"reward {name!r}: {mean:.2f} on average, {1 - flat:.0%} of groups have a spread",
        "Groups without a spread teach nothing in most algorithms. Play more episodes to be sure "
        "(--episodes), choose easier questions (search-env label), or begin with imitation.",
    )


def examine_learner(config: TrainConfig, learner: Learner, measured: Measured) -> Iterator[Finding]:
    """Yield whether learner and engine agree, and whether a gradient is finite; add the times."""
    trajectories = [t for t in measured.rollouts.trajectories if t.valid and t.num_policy_tokens]
    if not trajectories:
        yield _LEARNER.error("no valid episode to learn from", "See Rollout.")
        return
    started = time.perf_counter()
    outputs = learner.score(trajectories)
    measured.score_seconds = time.perf_counter() - started
    yield _drift(config, trajectories, outputs)
    started = time.perf_counter()
    learner.accumulate(trajectories, _mean_log_prob)
    measured.learn_seconds = time.perf_counter() - started
    norm = learner.step()  # with the optimizer's memory; it raises where the norm is not finite
    tokens = sum(len(t.tokens) for t in trajectories)
    yield (
        _LEARNER.ok(
            f"a step by the optimizer; the gradient's norm is {norm:.3g}; "
            f"{tokens / measured.learn_seconds:,.0f} tokens a second, forward and backward"
        )
        if norm > 0
        else _LEARNER.error(
            "the gradient is 0", "Check that the model's weights are trained ones and not frozen."
        )
    )


def _drift(config: TrainConfig, trajectories: list[Trajectory], outputs: Outputs) -> Finding:
    """Return how far the learner's log-probabilities are from those that were sampled from."""
    sampled = np.concatenate([t.log_probs[t.policy] for t in trajectories])
    scored = outputs.log_probs[outputs.mask].numpy()
    difference = np.abs(sampled - scored)
    limit = DRIFT_LIMITS["bf16" if config.dtype == "bf16" else "fp32"]
    text = (
        f"log-probabilities of engine and learner differ by {difference.mean():.2g} on average, "
        f"at most {difference.max():.2g} ({config.dtype}: up to {limit:g} is usual)"
    )
    if difference.max() <= limit:
        return _LEARNER.ok(text)
    return _LEARNER.warning(
        text,
        "Set importance_correction='tis' against the difference, or compute in --dtype fp32.",
    )


def _mean_log_prob(outputs: Outputs, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a loss whose gradient reaches every policy token."""
    return -outputs.log_probs.sum() / outputs.mask.sum(), {}
