"""Rewards: scores of episodes, computed from transcripts. See :mod:`search_env.rewards.base`."""

import search_env.rewards.r1_searcher_plus_plus
import search_env.rewards.r1_searcher_released  # noqa: F401 - these register their rewards
from search_env.rewards.answer import F1
from search_env.rewards.base import Reward, Score, get_reward, register_reward, reward_names
from search_env.rewards.evidence import answer_found, evidence_recall
from search_env.rewards.group import (
    GroupReward,
    get_group_reward,
    group_reward_names,
    group_scores,
    register_group_reward,
)
from search_env.rewards.r1_searcher import r1_searcher_stage1, r1_searcher_stage2
from search_env.rewards.search_r1 import SEARCH_R1_EM, search_r1_format
from search_env.rewards.shaping import search_cost, soft_overlong

__all__ = [
    "F1",
    "SEARCH_R1_EM",
    "GroupReward",
    "Reward",
    "Score",
    "answer_found",
    "evidence_recall",
    "get_group_reward",
    "get_reward",
    "group_reward_names",
    "group_scores",
    "r1_searcher_stage1",
    "r1_searcher_stage2",
    "register_group_reward",
    "register_reward",
    "reward_names",
    "search_cost",
    "search_r1_format",
    "soft_overlong",
]
