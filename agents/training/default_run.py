"""The default run: the tiny base model learns to search, then to answer, on two CPU cores.

Its numbers are from no paper: a model of a million parameters needs higher learning rates than one
of a billion, and episodes are few. ``docs/learning.md`` has the measurements behind them.
"""

from __future__ import annotations

from types import MappingProxyType

import torch

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.training.config import Phase, TrainConfig
from search_env.validation import check_choice

# If most of a group search already, division by its standard deviation amplifies noise.
TINY = Algorithm(
    advantage="mean_only",
    surrogate="ppo",
    aggregation="token_mean",
    prompts=8,
    group_size=8,
    importance_correction="tis",  # bfloat16 rollouts and learner differ by tenths on rare tokens
    learning_rate=1.5e-4,
    top_p=0.95,  # a model this small puts much of its probability on nonsense, a little on each
)
"""GRPO without division by the standard deviation, with token-level loss; the preset ``tiny``."""

ENV_OPTIONS = MappingProxyType({"max_policy_tokens": 384})
"""Enough for four searches with thoughts; longer episodes are truncated."""

SEARCH = Phase(
    reward="r1-searcher-stage1",
    changes=MappingProxyType({"kl": "loss", "kl_estimator": "k3", "kl_coefficient": 0.02}),
)
ANSWER = Phase(reward="r1-searcher-stage2")
PHASES = MappingProxyType({"both": (SEARCH, ANSWER), "1": (SEARCH,), "2": (ANSWER,)})
"""Phases by the value of ``--phases``."""


def tiny_run(*, phases: str = "both", out: str = "runs/train") -> TrainConfig:
    """Return the settings that ``search-env train`` has by default.

    Two processes train where there are two cores and no GPU. ``phases`` is ``"both"``, ``"1"``
    (search) or ``"2"`` (answer).
    """
    check_choice("phases", phases, list(PHASES))
    return TrainConfig(
        model="tiny-base",
        algorithm=TINY,
        env_options=ENV_OPTIONS,
        max_tokens=3072,
        phases=PHASES[phases],
        phase_episodes=1280,
        phase_search_rate=0.85,
        phase_format_rate=0.85,
        phase_window=128,
        # Short episodes teach to search and to go on as well, in half the time.
        hops=((0, 2),),
        steps=18,
        num_envs=64,
        # As fast as 16,384 here, and two processes hold what they need.
        max_tokens_per_micro_batch=4096,
        eval_every=9,
        eval_questions=50,
        checkpoint_every=9,
        record_every=9,
        processes=1 if torch.cuda.is_available() else min(2, torch.get_num_threads()),
        out=out,
    )
