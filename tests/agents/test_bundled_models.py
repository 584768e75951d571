"""What the cards of the bundled models say, on a few questions of the test world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from search_env.agents.models import load_model
from search_env.agents.rollouts.collect import make_envs
from search_env.agents.rollouts.lm_agent import play_questions
from search_env.agents.rollouts.metrics import evaluation_metrics
from search_env.agents.training.default_run import ENV_OPTIONS

QUESTIONS = 24


def _scores(name):
    envs = make_envs(
        "SearchQA-v0",
        num_envs=QUESTIONS,
        vocabulary=1024,
        options={"split": "test", "max_tokens": 3072, **ENV_OPTIONS},
    )
    asked = np.linspace(0, len(envs.questions) - 1, QUESTIONS).round().astype(int).tolist()
    return evaluation_metrics(play_questions(load_model(name, dtype=torch.bfloat16), envs, asked))


def test_the_base_does_not_search():
    scores = _scores("tiny-base")
    assert scores["eval/search_rate"] <= 0.1
    assert scores["eval/exact_match"] <= 0.2
    assert scores["eval/well_formed"] >= 0.95


@pytest.mark.slow
def test_the_trained_one_searches_and_answers():
    scores = _scores("tiny-trained")
    assert scores["eval/search_rate"] >= 0.9
    assert scores["eval/exact_match"] >= 0.4
    assert scores["eval/well_formed"] >= 0.9
