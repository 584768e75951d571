"""Recording of finished episodes to a file; the format is :mod:`search_env.recording.files`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from search_env.envs.search_qa import bare_env
from search_env.recording.files import EpisodeWriter


class RecordEpisodes(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Appends each episode to an episode file when it ends.

    Recorded are the arguments, tokens and reward of the bare environment, whatever wrappers lie
    between. An episode that is abandoned by ``reset``, truncated by a time limit or interrupted by
    an exception has not ended by the environment's rules and is not written. The recorded seed is
    that of the last ``reset``, also after ``set_state``.

    Args:
        env: A :class:`~search_env.envs.search_qa.SearchQAEnv`, in any wrappers.
        path: A new file, or an episode file to append to.

    Raises:
        ConfigurationError: The environment cannot be rebuilt from its arguments; see
            :class:`~search_env.recording.files.EpisodeWriter`.
        EpisodeFileError: The path is a file of another kind.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from search_env.recording.files import read_episodes
        >>> path = Path(tempfile.mkdtemp()) / "episodes.jsonl"
        >>> env = RecordEpisodes(gym.make("SearchQA-Toy-v0"), path)
        >>> observation, info = env.reset(seed=0)
        >>> observation, *_ = env.step(0)  # end of sequence
        >>> [episode.actions.tolist() for episode in read_episodes(path)]
        [[0]]

    Change logs:
        * v0.1.0 - Added.
    """

    def __init__(self, env: gym.Env[Any, Any], path: str | Path) -> None:
        RecordConstructorArgs.__init__(self, path=str(path))
        gym.Wrapper.__init__(self, env)
        self._bare = bare_env(env)
        self._writer = EpisodeWriter(path, self._bare)
        self._seed: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; see the environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._seed = seed
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and write the episode if it has ended."""
        reward = self._bare.reward  # a wrapper below may change it once the episode has ended
        result = self.env.step(action)
        if result[2] or result[3]:  # terminated, truncated
            transcript = self._bare.transcript()
            if transcript.stop_reason is not None:
                self._writer.write(transcript, seed=self._seed, reward=reward)
        return result
