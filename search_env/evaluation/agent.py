"""What an evaluation asks of whoever plays."""

from __future__ import annotations

from typing import Protocol

from search_env.envs.search_qa import Observation, SearchQAEnv


class Agent(Protocol):
    """Whatever plays an episode: two methods."""

    def begin(self, env: SearchQAEnv, observation: Observation) -> None:
        """Prepare for a new episode.

        Args:
            env: The bare environment, just reset. Agents may read its ``tokenizer``, ``protocol``
                and ``transcript()``; only those that say so may read the gold answers there.
            observation: What ``reset`` returned.
        """
        ...

    def act(self, observation: Observation) -> int:
        """Return the next token id."""
        ...
