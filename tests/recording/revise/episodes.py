"""Episodes of the toy and of a small world, written by hand."""

from __future__ import annotations

import functools

import gymnasium as gym

import search_env  # noqa: F401 - registers the ids
from search_env.envs.search_qa import SearchQAEnv

TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy", "max_tokens": 40, "max_searches": 4}
ARTICLES = 150


def write(text, index=0, env=None, **arguments):
    """Return the toy's episode in which the policy writes this text."""
    env = SearchQAEnv(**{**TOY, **arguments}) if env is None else env
    env.reset(options={"index": index})
    for token in env.tokenizer.encode(text).tolist():
        env.step(token)
    return env.transcript()


@functools.lru_cache
def world(hops=(1, 2, 3), questions=18):
    """Return an environment of a small world."""
    options = {"articles": ARTICLES, "questions": questions, "hops": list(hops)}
    return gym.make("SearchQA-v0", max_tokens=4096, dataset_options=options).unwrapped
