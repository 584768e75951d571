"""States of an episode at any of its positions, for roll-outs to go on from.

The policy's tokens are written again by the rules of the environment; documents are those that the
episode has, so nothing is retrieved. What a roll-out then retrieves is retrieved for real.
"""

from __future__ import annotations

import numpy as np

from search_env.envs.config import EnvComponents
from search_env.envs.search_qa import EnvState, SearchQAEnv
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.types import Source, Transcript


class Playback:
    """Plays episodes of an environment up to a position."""

    def __init__(self, env: SearchQAEnv | SearchQAVectorEnv) -> None:
        self._components: EnvComponents = env.components
        self._dynamics = env.components.dynamics(1)
        self._reward = env.reward
        self._random = dict(np.random.PCG64(0).state)  # no question will be drawn

    def state(self, episode: Transcript, position: int) -> EnvState:
        """Return the state in which the first ``position`` tokens of an episode are written.

        The position is in front of a token of the policy, or behind the last one: tokens that the
        environment inserts follow the policy's by themselves.

        Raises:
            ConfigurationError: The episode's prompt does not fit.
        """
        dynamics = self._dynamics
        dynamics.begin(0, episode.question)
        documents = {search.position: search.documents for search in episode.searches}
        policy = np.flatnonzero(episode.sources[:position] == Source.POLICY)
        for place in policy.tolist():
            dynamics.append(slice(None), episode.tokens[[place]].astype(np.int64))
            if dynamics.pending(0) is not None:
                dynamics.insert_documents(0, documents[place])
        snapshot = dynamics.save(0)
        assert np.array_equal(snapshot.tokens, episode.tokens[:position]), "it was replayed before"
        origin = self._components.origin
        return EnvState(
            snapshot, self._random, snapshot.episode.stop_reason is None, self._reward, origin
        )
