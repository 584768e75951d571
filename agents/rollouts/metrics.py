"""Metrics of a policy's episodes, by name.

Pure functions of trajectories, no torch. Names are ``group/name``; shares lie between 0 and 1.
Episodes in which retrieval failed are counted and otherwise left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from search_env.agents.types import Trajectory, by_group
from search_env.types import StopReason

SCORES = ("exact_match", "f1", "cover_exact_match")


def rollout_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return the metrics of sampled episodes in groups.

    ``policy/entropy`` is the mean of ``-log p`` over the tokens that were sampled: an unbiased
    estimate that costs nothing. ``policy/right_log_prob`` is the mean log-probability of tokens in
    episodes with a right answer (its fall announces the collapse described in arXiv 2512.04220).
    """
    valid = [trajectory for trajectory in trajectories if trajectory.valid]
    groups = list(by_group(valid).values())
    rewards = [[member.reward for member in members] for members in groups]
    right = [t for t in valid if t.scores["exact_match"] == 1.0]
    parts = sorted({name for trajectory in valid for name in trajectory.reward_parts})
    return {
        "reward/mean": _mean(valid, lambda t: t.reward),
        **{f"reward/{name}": _mean(valid, _part(name)) for name in parts},
        "reward/group_std": _average(float(np.std(group)) for group in rewards),
        "groups/zero_variance": _average(len(set(group)) == 1 for group in rewards),
        "policy/entropy": -_mean_log_prob(valid),
        "policy/right_log_prob": _mean_log_prob(right),
        **_behaviour(valid),
        **{f"answer/{name}": _mean(valid, _score(name)) for name in SCORES},
        "tokens/policy": float(sum(t.num_policy_tokens for t in trajectories)),
        "tokens/total": float(sum(len(t.tokens) for t in trajectories)),
        "episodes/valid": float(len(valid)),
        "episodes/invalid": float(len(trajectories) - len(valid)),
    }


def evaluation_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return the metrics of episodes on held-out questions; names begin with ``eval/``."""
    valid = [trajectory for trajectory in trajectories if trajectory.valid]
    metrics = {
        **{name: _mean(valid, _score(name)) for name in SCORES},
        "reward": _mean(valid, lambda t: t.reward),
        "search_rate": _mean(valid, lambda t: t.num_searches > 0),
        "searches": _mean(valid, lambda t: t.num_searches),
        "well_formed": _mean(valid, lambda t: t.well_formed),
        "truncated": _mean(valid, lambda t: t.truncated),
        "answer_words": _mean(_answered(valid), _words),
        "policy_tokens": _mean(valid, lambda t: t.num_policy_tokens),
        "invalid": float(len(trajectories) - len(valid)),
    }
    for hops in sorted({t.hops for t in valid if t.hops}):
        members = [t for t in valid if t.hops == hops]
        metrics[f"exact_match_{hops}_hops"] = _mean(members, _score("exact_match"))
    return {f"eval/{name}": value for name, value in metrics.items()}


def _behaviour(valid: Sequence[Trajectory]) -> dict[str, float]:
    """Return how the policy searched, kept the format, stopped and answered."""
    return {
        "search/rate": _mean(valid, lambda t: t.num_searches > 0),
        "search/mean": _mean(valid, lambda t: t.num_searches),
        "format/well_formed": _mean(valid, lambda t: t.well_formed),
        **{
            f"stop/{reason.value}": _mean(valid, lambda t, r=reason: t.stop_reason is r)  # type: ignore[misc]
            for reason in StopReason
            if reason.valid
        },
        "stop/truncated": _mean(valid, lambda t: t.truncated),
        "answer/words": _mean(_answered(valid), _words),
    }


def _answered(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    return [trajectory for trajectory in trajectories if trajectory.answer is not None]


def _words(trajectory: Trajectory) -> float:
    return len((trajectory.answer or "").split())


def _score(name: str) -> Callable[[Trajectory], float]:
    return lambda trajectory: trajectory.scores[name]


def _part(name: str) -> Callable[[Trajectory], float]:
    return lambda trajectory: trajectory.reward_parts.get(name, 0.0)


def _mean(trajectories: Iterable[Trajectory], number: Callable[[Trajectory], float]) -> float:
    return _average(number(trajectory) for trajectory in trajectories)


def _mean_log_prob(trajectories: Iterable[Trajectory]) -> float:
    """Return the mean log-probability of the tokens that the policy wrote."""
    written = [trajectory.log_probs[trajectory.policy] for trajectory in trajectories]
    return _average(np.concatenate(written)) if written else float("nan")


def _average(numbers: Iterable[float]) -> float:
    """Return the mean; NaN without numbers."""
    values = np.fromiter(numbers, np.float64)
    return float(values.mean()) if len(values) else float("nan")
