"""What general RL libraries need around the unchanged environment: float boxes and masks.

:func:`torchrl_env` and :func:`rllib_env` are the same token-level environment; only its observation
is windowed, flattened and cast. Neither library is needed for :class:`FloatWindow`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

import search_env  # noqa: F401 - registers the ids
from search_env.envs.search_qa import bare_env
from search_env.errors import ConfigurationError
from search_env.wrappers.token_window import TokenWindow


class FloatWindow(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Observes a window of tokens, one-hot in one float32 vector, and on request the mask.

    Without a mask the space is ``Box(0, 1, (size * (n + 1),))``, for any network over numbers. With
    ``mask=True`` it is ``Dict(observations=Box, action_mask=Box(0, 1, (n,)))``, the names that
    RLlib's action-masking module reads. See
    :class:`~search_env.wrappers.token_window.TokenWindow` for ``size`` and ``keep``.

    Example:
        >>> env = FloatWindow(gym.make("SearchQA-Toy-v0"), 4, keep="last", mask=True)
        >>> observation, info = env.reset(seed=0)
        >>> observation["observations"].shape, observation["action_mask"].shape
        ((100,), (24,))
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        size: int | None = None,
        *,
        keep: str = "first",
        mask: bool = False,
    ) -> None:
        RecordConstructorArgs.__init__(self, size=size, keep=keep, mask=mask)
        window = TokenWindow(env, size, keep=keep)
        gym.ObservationWrapper.__init__(self, env)
        self._window, self._mask, self._bare = window, mask, bare_env(env)
        nvec = window.observation_space.nvec  # type: ignore[union-attr]
        self._categories = int(nvec[0])
        box = spaces.Box(0.0, 1.0, (len(nvec) * self._categories,), np.float32)
        if mask:
            legal = spaces.Box(0.0, 1.0, (self._bare.components.size,), np.float32)
            self.observation_space: spaces.Space[Any] = spaces.Dict(
                {"observations": box, "action_mask": legal}
            )
        else:
            self.observation_space = box

    def observation(self, observation: dict[str, Any]) -> Any:
        """Return the vector, or the vector and the mask."""
        tokens = self._window.observation(observation)
        vector: NDArray[np.float32] = np.zeros((len(tokens), self._categories), np.float32)
        vector[np.arange(len(tokens)), tokens] = 1.0
        if not self._mask:
            return vector.ravel()
        mask = self._bare.action_masks().astype(np.float32)
        if not mask.any():  # after the end, where no id is legal, libraries still normalise
            mask[:] = 1.0
        return {"observations": vector.ravel(), "action_mask": mask}


def torchrl_env(
    env_id: str = "SearchQA-Toy-v0",
    arguments: Mapping[str, Any] = MappingProxyType({}),
    *,
    mask: bool = True,
    device: str = "cpu",
) -> Any:
    """Return the environment as TorchRL's ``TransformedEnv``: ids, categorical actions, the mask.

    The tensordict has ``tokens``, ``length``, ``sources`` and, with ``mask``, ``action_mask``,
    which its action spec follows, so that random actions and ``MaskedCategorical`` are well formed.

    Raises:
        ConfigurationError: TorchRL is missing.
    """
    try:
        import torch
        from torchrl.envs import ActionMask, DTypeCastTransform, GymWrapper, TransformedEnv
    except ImportError as error:
        raise ConfigurationError(
            "Expected TorchRL, got none. Run `pip install search-env[torchrl]` in an environment "
            "of its own."
        ) from error
    options = {"stable_infos": True, **arguments}
    if mask:
        options["action_mask"] = "observation"
    env = TransformedEnv(
        GymWrapper(gym.make(env_id, **options), categorical_action_encoding=True, device=device)
    )
    if mask:
        env.append_transform(DTypeCastTransform(torch.int8, torch.bool, in_keys=["action_mask"]))
        env.append_transform(ActionMask())
    return env


def rllib_env(config: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Return the environment for ``tune.register_env("SearchQA", rllib_env)``.

    ``config`` may have ``env_id``, ``arguments``, and ``size``, ``keep``, ``mask`` of
    :class:`FloatWindow`; RLlib's own entries (``worker_index`` and others) are no keys of it.

    Raises:
        ConfigurationError: Another key.

    Example:
        >>> rllib_env({"env_id": "SearchQA-Toy-v0", "size": 4, "keep": "last"}).observation_space
        Box(0.0, 1.0, (100,), float32)
    """
    known = {"env_id", "arguments", "size", "keep", "mask"}
    unknown = set(config) - known
    if unknown:
        raise ConfigurationError(
            f"Expected keys among {', '.join(sorted(known))}, got {min(unknown)!r}. Put arguments "
            "of the environment under 'arguments'."
        )
    env = gym.make(config.get("env_id", "SearchQA-Toy-v0"), **config.get("arguments", {}))
    return FloatWindow(
        env,
        config.get("size"),
        keep=config.get("keep", "first"),
        mask=config.get("mask", False),
    )
