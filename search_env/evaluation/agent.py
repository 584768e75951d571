"""The interface of an agent that an evaluation can run."""

from __future__ import annotations

from typing import Protocol

from search_env.envs.search_qa import Observation, SearchQAEnv


class Agent(Protocol):
    """An agent that plays episodes one token at a time."""

    def begin(self, env: SearchQAEnv, observation: Observation) -> None:
        """Prepare for a new episode of a bare environment that was just reset.

        Agents may read its ``tokenizer``, ``protocol`` and ``transcript()``; only agents that
        declare it may read the gold answers.
        """
        ...

    def act(self, observation: Observation) -> int:
        """Return the next token id."""
        ...
