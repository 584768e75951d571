"""Rewards: what an episode is worth, read from its events. See :mod:`search_env.rewards.base`."""

from search_env.rewards.answers import COVER_EXACT_MATCH, EXACT_MATCH, F1
from search_env.rewards.base import (
    Reward,
    Score,
    get_reward,
    register_reward,
    reward_names,
)

__all__ = [
    "COVER_EXACT_MATCH",
    "EXACT_MATCH",
    "F1",
    "Reward",
    "Score",
    "get_reward",
    "register_reward",
    "reward_names",
]
