"""Environments with tokens as actions for the tests of action granularity."""

from __future__ import annotations

import functools

import gymnasium as gym

from search_env.envs.search_qa import SearchQAEnv

_TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy"}
_BYTE = {"dataset": "toy", "protocol": "r1-searcher", "tokenizer": "byte"}
_NOTICES = {"dataset": "toy", "protocol": "search-r1", "tokenizer": "byte"}
SETTINGS = {
    "toy": {**_TOY, "max_tokens": 16},
    "toy-long": {**_TOY, "max_tokens": 64, "max_searches": 3},
    "byte": {**_BYTE, "max_policy_tokens": 150},
    "byte-notices": {**_NOTICES, "max_tokens": 3000},
    "world": {"dataset": "toy", "protocol": "search-r1", "tokenizer": "world-1k"},
}


class Paying(gym.Wrapper):
    """Adds a different reward to each token, in eighths so that sums are exact."""

    count = 0

    def reset(self, **arguments):
        self.count = 0
        return self.env.reset(**arguments)

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.count += 1
        return observation, reward + self.count % 5 / 8, terminated, truncated, info


@functools.cache
def bare(setting: str) -> SearchQAEnv:
    return SearchQAEnv(**SETTINGS[setting])
