"""Rewards: what an episode is worth, read from its events. See :mod:`search_env.rewards.base`."""

from search_env.rewards.answers import COVER_EXACT_MATCH, EXACT_MATCH, F1
from search_env.rewards.base import (
    Reward,
    Score,
    get_reward,
    register_reward,
    reward_names,
)
from search_env.rewards.r1_searcher import (
    R1_SEARCHER_STAGE1,
    R1_SEARCHER_STAGE2,
    r1_searcher_stage1,
    r1_searcher_stage2,
)

__all__ = [
    "COVER_EXACT_MATCH",
    "EXACT_MATCH",
    "F1",
    "R1_SEARCHER_STAGE1",
    "R1_SEARCHER_STAGE2",
    "Reward",
    "Score",
    "get_reward",
    "r1_searcher_stage1",
    "r1_searcher_stage2",
    "register_reward",
    "reward_names",
]
