"""Costs to add to a reward: of searches, and of overlong episodes. They are never positive."""

from __future__ import annotations

from dataclasses import dataclass

from search_env.errors import ConfigurationError
from search_env.rewards.base import Reward, register_reward
from search_env.types import Transcript
from search_env.validation import check_amount, check_count


def search_cost(per_search: float = 0.1, free: int = 0) -> Reward:
    """Return the cost of searches: ``-per_search * max(0, searches - free)``.

    Source: arXiv 2505.11821 (MT-PPO), lambda_s = 0.1 without free searches.

    Args:
        per_search: Cost of each query that was run.
        free: Number of searches without a cost.

    Raises:
        ConfigurationError: An impossible number.

    Example:
        >>> search_cost(0.1, free=1).parts
        ('search_cost',)
    """
    function = _SearchCost(check_amount("per_search", per_search), check_count("free", free))
    return Reward("search-cost", ("search_cost",), function)


def soft_overlong(max_tokens: int = 20480, cache: int = 4096) -> Reward:
    """Return DAPO's soft punishment of overlong episodes, in [-1, 0].

    It is 0 up to ``max_tokens - cache`` policy tokens, falls linearly to -1 at ``max_tokens``, and
    stays there. Inserted tokens do not count.

    Source: arXiv 2503.14476 (DAPO), overlong reward shaping.

    Args:
        max_tokens: Number of policy tokens at which -1 is reached.
        cache: Number of tokens over which it falls.

    Raises:
        ConfigurationError: Not ``1 <= cache <= max_tokens``.

    Example:
        >>> soft_overlong(max_tokens=512, cache=128).parts
        ('soft_overlong',)
    """
    check_count("max_tokens", max_tokens, least=1)
    if check_count("cache", cache, least=1) > max_tokens:
        raise ConfigurationError(
            f"Expected cache to be at most max_tokens={max_tokens}, got {cache}. Pass the "
            "number of these tokens over which the punishment grows."
        )
    return Reward("soft-overlong", ("soft_overlong",), _SoftOverlong(max_tokens, cache))


@dataclass(frozen=True, slots=True)
class _SearchCost:
    per_search: float
    free: int

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        charged = max(0, len(transcript.searches) - self.free)
        return {"search_cost": -self.per_search * charged}


@dataclass(frozen=True, slots=True)
class _SoftOverlong:
    max_tokens: int
    cache: int

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        excess = transcript.num_policy_tokens - (self.max_tokens - self.cache)
        return {"soft_overlong": -min(1.0, max(0, excess) / self.cache)}


SEARCH_COST = register_reward(search_cost())
"""-0.1 for each search."""

SOFT_OVERLONG = register_reward(soft_overlong())
"""DAPO's numbers: 0 up to 16,384 policy tokens, -1 from 20,480 on."""
