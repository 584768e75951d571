"""Conformance checks for retrievers, rewards, wrappers and vector environments; diagnoses.

Each check raises :class:`~search_env.errors.ConformanceError`, an ``AssertionError`` whose message
begins with the name of the broken rule and states the expectation, the result and a remedy.
"""

from search_env.errors import ConformanceError
from search_env.testing.diagnosis import DIAGNOSTICS, Diagnosis, Diagnostic, diagnose
from search_env.testing.episodes import failed_episode, sample_episodes
from search_env.testing.retrievers import RetrieverReport, check_retriever
from search_env.testing.rewards import check_group_reward, check_reward
from search_env.testing.vectors import check_vector_env
from search_env.testing.wrappers import check_wrapper

__all__ = [
    "DIAGNOSTICS",
    "ConformanceError",
    "Diagnosis",
    "Diagnostic",
    "RetrieverReport",
    "check_group_reward",
    "check_retriever",
    "check_reward",
    "check_vector_env",
    "check_wrapper",
    "diagnose",
    "failed_episode",
    "sample_episodes",
]
