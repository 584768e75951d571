"""Answer scores and statistics of means: pure functions of texts and numbers."""

from search_env.metrics.answers import cover_exact_match, exact_match, token_f1
from search_env.metrics.statistics import bootstrap_mean, compare_paired, majority_vote, pass_at_k

__all__ = [
    "bootstrap_mean",
    "compare_paired",
    "cover_exact_match",
    "exact_match",
    "majority_vote",
    "pass_at_k",
    "token_f1",
]
