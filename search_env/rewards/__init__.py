"""Rewards: scores of episodes, computed from transcripts. See :mod:`search_env.rewards.base`."""

from search_env.rewards.answer import COVER_EXACT_MATCH, EXACT_MATCH, F1
from search_env.rewards.base import (
    Reward,
    Score,
    get_reward,
    register_reward,
    reward_names,
)
from search_env.rewards.evidence import (
    ANSWER_FOUND,
    EVIDENCE_RECALL,
    answer_found,
    evidence_recall,
)
from search_env.rewards.group import (
    GroupReward,
    get_group_reward,
    group_reward_names,
    group_scores,
    register_group_reward,
)
from search_env.rewards.r1_searcher import (
    R1_SEARCHER_STAGE1,
    R1_SEARCHER_STAGE2,
    r1_searcher_stage1,
    r1_searcher_stage2,
)
from search_env.rewards.r1_searcher_released import (
    R1_SEARCHER_TEXT_QWEN_ZERO,
    R1_SEARCHER_TEXT_STAGE1_PAPER,
    R1_SEARCHER_TEXT_STAGE1_RELEASED,
    R1_SEARCHER_TEXT_STAGE2_LLAMA,
    R1_SEARCHER_TEXT_STAGE2_PAPER,
)
from search_env.rewards.search_r1 import (
    SEARCH_R1_EM,
    SEARCH_R1_FORMAT,
    search_r1_format,
)
from search_env.rewards.shaping import (
    SEARCH_COST,
    SOFT_OVERLONG,
    search_cost,
    soft_overlong,
)

__all__ = [
    "ANSWER_FOUND",
    "COVER_EXACT_MATCH",
    "EVIDENCE_RECALL",
    "EXACT_MATCH",
    "F1",
    "R1_SEARCHER_STAGE1",
    "R1_SEARCHER_STAGE2",
    "R1_SEARCHER_TEXT_QWEN_ZERO",
    "R1_SEARCHER_TEXT_STAGE1_PAPER",
    "R1_SEARCHER_TEXT_STAGE1_RELEASED",
    "R1_SEARCHER_TEXT_STAGE2_LLAMA",
    "R1_SEARCHER_TEXT_STAGE2_PAPER",
    "SEARCH_COST",
    "SEARCH_R1_EM",
    "SEARCH_R1_FORMAT",
    "SOFT_OVERLONG",
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
