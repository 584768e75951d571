"""Tokens as categories, for networks that one-hot discrete spaces and scale boxes.

A plain network, such as Stable-Baselines3's ``MlpPolicy``, would read the ids of the environment's
box as magnitudes. As ``MultiDiscrete`` they become one-hot tokens. The sources are left out.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from search_env.errors import ConfigurationError
from search_env.validation import as_integer, check_choice
from search_env.wrappers.vector_base import AnyVectorWrapper

Tokens = NDArray[np.int64]

KEEP = ("first", "last")
"""Tokens that a window keeps where the episode has more tokens than places."""


class TokenWindow(gym.ObservationWrapper[Tokens, Any, Any], RecordConstructorArgs):
    """Observes a fixed number of tokens, as categories.

    The observation space is ``MultiDiscrete([n + 1] * size)``: unchanged ids, and ``n``, one more
    than any id, in empty places. ``keep="first"`` puts the episode's k-th token in the k-th place,
    empty places last; ``keep="last"`` puts the newest token in the last place, empty places first.

    Args:
        env: An environment with the observations of ``SearchQAEnv``, wrapped or not.
        size: Number of places; None: the whole context.
        keep: ``first`` or ``last``.

    Raises:
        ConfigurationError: An argument out of range, or an environment with other observations.

    Example:
        >>> import search_env
        >>> env = TokenWindow(gym.make("SearchQA-Toy-v0"), size=5)
        >>> observation, info = env.reset(seed=0)
        >>> observation  # 24 ids; three tokens in the prompt
        array([23, 13, 13, 24, 24])
        >>> env.observation_space
        MultiDiscrete([25 25 25 25 25])

    Change logs:
        * v0.1.0 - Added.
    """

    def __init__(
        self, env: gym.Env[Any, Any], size: int | None = None, *, keep: str = "first"
    ) -> None:
        RecordConstructorArgs.__init__(self, size=size, keep=keep)
        gym.ObservationWrapper.__init__(self, env)
        self._window = _Window(env.observation_space, size, keep)
        self.observation_space = self._window.space

    def observation(self, observation: dict[str, Any]) -> Tokens:
        """Return the window of an observation, int64 ``(size,)``."""
        return self._window.of_row(observation)


class VectorTokenWindow(AnyVectorWrapper):
    """:class:`TokenWindow` for vector environments: int64 ``(num_envs, size)``.

    Same arguments, in each autoreset mode; ``infos["final_obs"]`` holds windows too.

    Example:
        >>> import search_env
        >>> envs = VectorTokenWindow(gym.make_vec("SearchQA-Toy-v0", num_envs=2), 3, keep="last")
        >>> observations, infos = envs.reset(seed=0)
        >>> observations
        array([[23, 13, 13],
               [23, 10, 13]])

    Change logs:
        * v0.1.0 - Added.
    """

    def __init__(
        self, env: VectorEnv[Any, Any, Any], size: int | None = None, *, keep: str = "first"
    ) -> None:
        super().__init__(env)
        self._window = _Window(env.single_observation_space, size, keep)
        self.single_observation_space = self._window.space
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Tokens, dict[str, Any]]:
        """Begin episodes; see the environment."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._window(observations["tokens"], observations["length"]), infos

    def step(self, actions: Any) -> tuple[Tokens, Any, Any, Any, dict[str, Any]]:
        """Step all rows."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        if "final_obs" in infos:
            finals = np.full(self.num_envs, None, object)
            for row in np.flatnonzero(infos["_final_obs"]):
                finals[row] = self._window.of_row(infos["final_obs"][row])
            infos = {**infos, "final_obs": finals}
        windows = self._window(observations["tokens"], observations["length"])
        return windows, rewards, terminations, truncations, infos


class _Window:
    """Turns rows of tokens and their lengths into rows of ``size`` places."""

    def __init__(self, space: spaces.Space[Any], size: int | None, keep: str) -> None:
        tokens = space.spaces.get("tokens") if isinstance(space, spaces.Dict) else None
        if not isinstance(tokens, spaces.Box):
            raise ConfigurationError(
                f"Expected the observations of SearchQAEnv, with 'tokens', got {space}. Put the "
                "token window below the wrapper that changes them."
            )
        context = tokens.shape[0]
        try:
            places = as_integer(context if size is None else size)
        except TypeError:
            places = 0
        if isinstance(size, bool) or not 1 <= places <= context:
            raise ConfigurationError(
                f"Expected size to be an integer from 1 to {context}, the context, got {size!r}. "
                "Pass one of these, or None for all."
            )
        check_choice("keep", keep, KEEP)
        self._size, self._empty = places, int(tokens.high.max()) + 1
        self._last = keep == "last"
        self.space = spaces.MultiDiscrete(np.full(places, self._empty + 1))

    def of_row(self, observation: dict[str, Any]) -> Tokens:
        window: Tokens = self(observation["tokens"][None], [observation["length"]])[0]
        return window

    def __call__(self, tokens: NDArray[np.integer[Any]], lengths: Any) -> Tokens:
        """Return int64 ``(rows, size)`` for tokens ``(rows, context)`` and lengths ``(rows,)``."""
        lengths, places = np.reshape(lengths, (-1, 1)), np.arange(self._size)
        if not self._last:
            return np.where(places < lengths, tokens[:, : self._size], np.int64(self._empty))
        places = lengths - self._size + places
        kept = np.take_along_axis(tokens, np.maximum(places, 0), axis=1)
        return np.where(places >= 0, kept, np.int64(self._empty))
