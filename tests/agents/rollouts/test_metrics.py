from __future__ import annotations

import math

import numpy as np
import pytest

from search_env.agents.rollouts.metrics import evaluation_metrics, rollout_metrics
from search_env.agents.types import Trajectory
from search_env.types import Source, StopReason


def _episode(
    group, reward, *, exact=0.0, searches=0, valid=True, answer="x y", log_prob=-1.0, **more
):
    settings = {
        "question_id": "q",
        "group": group,
        "tokens": np.arange(4, dtype=np.int32),
        "sources": np.array(
            [Source.PROMPT, Source.POLICY, Source.RETRIEVED, Source.POLICY], np.int8
        ),
        "log_probs": np.array([np.nan, log_prob, np.nan, log_prob], np.float32),
        "values": None,
        "reward": reward,
        "reward_parts": {"answer": reward} if valid else {},
        "stop_reason": StopReason.ANSWERED if valid else StopReason.RETRIEVAL_ERROR,
        "valid": valid,
        "well_formed": valid,
        "answer": answer,
        "scores": {"exact_match": exact, "f1": exact, "cover_exact_match": exact},
        "num_searches": searches,
        "hops": 1 + group,
        "kind": "",
    }
    return Trajectory(**{**settings, **more})


EPISODES = [
    _episode(0, 1.0, exact=1.0, searches=2, log_prob=-0.5),
    _episode(0, 0.0, searches=1, stop_reason=StopReason.MAX_TOKENS, answer=None, well_formed=False),
    _episode(1, 0.5, log_prob=-2.0),
    _episode(1, 0.5, answer="x"),
    _episode(1, 9.0, valid=False, searches=7),
]


def test_a_rollout_set_by_hand():
    found = rollout_metrics(EPISODES)
    assert found["reward/mean"] == found["reward/answer"] == 0.5
    assert found["reward/group_std"] == 0.25  # of 0.5 and 0
    assert found["groups/zero_variance"] == 0.5
    assert found["policy/entropy"] == pytest.approx((0.5 + 1 + 2 + 1) / 4)
    assert found["policy/right_log_prob"] == -0.5
    assert found["search/rate"] == 0.5
    assert found["search/mean"] == 0.75
    assert found["format/well_formed"] == 0.75
    assert found["stop/answered"] == 0.75
    assert found["stop/max_tokens"] == found["stop/truncated"] == 0.25
    assert found["answer/exact_match"] == 0.25
    assert found["answer/words"] == pytest.approx(5 / 3)
    assert found["tokens/policy"] == 10.0
    assert found["tokens/total"] == 20.0
    assert (found["episodes/valid"], found["episodes/invalid"]) == (4.0, 1.0)


def test_an_evaluation_by_hand_and_by_hops():
    found = evaluation_metrics(EPISODES)
    assert found["eval/exact_match"] == 0.25
    assert found["eval/exact_match_1_hops"] == 0.5
    assert found["eval/exact_match_2_hops"] == 0.0
    assert found["eval/search_rate"] == 0.5
    assert found["eval/invalid"] == 1.0


def test_nothing_measured_is_nan():
    found = rollout_metrics([EPISODES[-1]])
    assert math.isnan(found["reward/mean"])
    assert math.isnan(found["policy/entropy"])
    assert found["episodes/invalid"] == 1.0
    assert math.isnan(evaluation_metrics([])["eval/f1"])
