"""Metrics of a policy's episodes, by name.

Pure functions of trajectories, no torch. Names are ``group/name``; shares lie between 0 and 1.
Episodes in which retrieval failed are counted and otherwise left out. Of questions from several
sets, ``exact_match_on_NAME`` and ``f1_on_NAME`` are the scores for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    rewards = [[member.reward for member in members] for members in by_group(valid).values()]
    right = [t for t in valid if t.scores["exact_match"] == 1.0]
    parts = sorted({name for trajectory in valid for name in trajectory.reward_parts})
    reasons = [reason for reason in StopReason if reason.valid]
    return {
        "reward/mean": _average(t.reward for t in valid),
        **{f"reward/{n}": _average(t.reward_parts.get(n, 0.0) for t in valid) for n in parts},
        "reward/group_std": _average(float(np.std(group)) for group in rewards),
        "groups/zero_variance": _average(len(set(group)) == 1 for group in rewards),
        "policy/entropy": -_mean_log_prob(valid),
        "policy/right_log_prob": _mean_log_prob(right),
        "search/rate": _average(t.num_searches > 0 for t in valid),
        "search/mean": _average(t.num_searches for t in valid),
        "format/well_formed": _average(t.well_formed for t in valid),
        **{f"stop/{r.value}": _average(t.stop_reason is r for t in valid) for r in reasons},
        "stop/truncated": _average(t.truncated for t in valid),
        "answer/words": _answer_words(valid),
        **{f"answer/{name}": _average(t.scores[name] for t in valid) for name in SCORES},
        **{f"answer/{name}": value for name, value in _by_dataset(valid).items()},
        "tokens/policy": float(sum(t.num_policy_tokens for t in trajectories)),
        "tokens/total": float(sum(len(t.tokens) for t in trajectories)),
        "episodes/valid": float(len(valid)),
        "episodes/invalid": float(len(trajectories) - len(valid)),
    }


def evaluation_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return the metrics of episodes on held-out questions; names begin with ``eval/``."""
    valid = [trajectory for trajectory in trajectories if trajectory.valid]
    metrics = {
        **{name: _average(t.scores[name] for t in valid) for name in SCORES},
        "reward": _average(t.reward for t in valid),
        "search_rate": _average(t.num_searches > 0 for t in valid),
        "searches": _average(t.num_searches for t in valid),
        "well_formed": _average(t.well_formed for t in valid),
        "truncated": _average(t.truncated for t in valid),
        "answer_words": _answer_words(valid),
        "policy_tokens": _average(t.num_policy_tokens for t in valid),
        "invalid": float(len(trajectories) - len(valid)),
    }
    for hops in sorted({t.hops for t in valid if t.hops}):
        members = [t for t in valid if t.hops == hops]
        metrics[f"exact_match_{hops}_hops"] = _average(t.scores["exact_match"] for t in members)
    metrics |= _by_dataset(valid)
    return {f"eval/{name}": value for name, value in metrics.items()}


def _by_dataset(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return scores for each set of questions, where there are several."""
    names = sorted({trajectory.dataset for trajectory in trajectories})
    if len(names) < 2:
        return {}
    return {
        f"{score}_on_{name or 'others'}": _average(
            t.scores[score] for t in trajectories if t.dataset == name
        )
        for name in names
        for score in ("exact_match", "f1")
    }


def _answer_words(trajectories: Iterable[Trajectory]) -> float:
    return _average(len(t.answer.split()) for t in trajectories if t.answer is not None)


def _mean_log_prob(trajectories: Iterable[Trajectory]) -> float:
    """Return the mean log-probability of the tokens that the policy wrote."""
    written = [trajectory.log_probs[trajectory.policy] for trajectory in trajectories]
    return _average(np.concatenate(written)) if written else float("nan")


def _average(numbers: Iterable[float]) -> float:
    """Return the mean; NaN without numbers."""
    values = np.fromiter(numbers, np.float64)
    return float(values.mean()) if len(values) else float("nan")
