"""Scores of any agent on any question set, and of outputs of other systems."""

from search_env.evaluation.agent import Agent
from search_env.evaluation.evaluate import (
    EpisodeMeasures,
    evaluate,
    measure_episode,
    on_shared_questions,
    summarise,
)
from search_env.evaluation.foreign_outputs import read_outputs

__all__ = [
    "Agent",
    "EpisodeMeasures",
    "evaluate",
    "measure_episode",
    "on_shared_questions",
    "read_outputs",
    "summarise",
]
