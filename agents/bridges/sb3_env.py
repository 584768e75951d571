"""The vector environment as a ``VecEnv`` of Stable-Baselines3.

The interfaces differ in their returns only: one ``dones`` for two kinds of end, infos as a list of
dictionaries, the next episode's observation in the place of the last one's. It works with any
policy and needs no language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from search_env.errors import ConfigurationError

__all__ = ["SearchQAVecEnv"]


class SearchQAVecEnv(VecEnv):
    """The vector environment with the interface of Stable-Baselines3.

    An episode's last observation is in ``infos[i]["terminal_observation"]``, whether it was cut
    short in ``infos[i]["TimeLimit.truncated"]``, the info of the first step of the next in
    ``reset_infos[i]``. Put Stable-Baselines3's ``VecMonitor`` around it for mean rewards in logs.

    Stable-Baselines3 adds the value of the last observation to what a truncated episode was paid.
    Running out of tokens is a rule of this task, though: with that value added, it costs nothing,
    and an undiscounted policy never learns to answer. So budgets count as ends by default. Episodes
    that ended because retrieval failed are always truncated.

    Args:
        envs: ``gym.make_vec(..., autoreset_mode="SameStep")``, in wrappers or not.
        budgets_end: Whether a spent budget is an end like an answer.

    Raises:
        ConfigurationError: Another autoreset mode.

    Example:
        >>> import search_env
        >>> envs = gym.make_vec("SearchQA-Toy-v0", num_envs=2, autoreset_mode="SameStep")
        >>> rows = SearchQAVecEnv(envs)
        >>> rows.seed(0)
        [0, 1]
        >>> rows.reset()["length"]
        array([3, 3])
        >>> _, rewards, dones, infos = rows.step(np.array([0, 5]))  # the first ends its sequence
        >>> dones, infos[0]["stop_reason"], infos[0]["terminal_observation"]["length"]
        (array([ True, False]), 'end_of_sequence', 4)
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], *, budgets_end: bool = True) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ConfigurationError(
                f"Expected a vector environment with autoreset_mode='SameStep', got {mode}. Pass "
                "that to gym.make_vec."
            )
        self.envs, self._budgets_end = envs, budgets_end
        self._actions: NDArray[Any] | None = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> VecEnvObs:
        """Begin episodes; seeds and options are those set before, once."""
        options = {key: [row[key] for row in self._options] for key in self._options[0]}
        # Rows of a group get one seed from a number, as they would not from a list.
        observations, infos = self.envs.reset(seed=self._seeds[0], options=options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [_of_row(infos, row) for row in range(self.num_envs)]
        first: VecEnvObs = _copied(observations)
        return first

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions ``(N,)``; the work is done in :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards float32 ``(N,)``, dones bool ``(N,)`` and infos."""
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        finals, ends = infos.pop("final_info", {}), infos.pop("final_obs", None)
        row_infos = [_of_row(infos, row) for row in range(self.num_envs)]
        dones = terminated | truncated
        for row in np.flatnonzero(dones).tolist():
            self.reset_infos[row], row_infos[row] = row_infos[row], _of_row(finals, row)
            row_infos[row]["terminal_observation"] = ends[row]
        for row, info in enumerate(row_infos):
            spent = self._budgets_end and info.get("valid", True)
            info["TimeLimit.truncated"] = bool(truncated[row]) and not spent
        return _copied(observations), rewards.astype(np.float32), dones, row_infos

    def close(self) -> None:
        """Release what the environment holds."""
        self.envs.close()

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Return the frame of each row."""
        frames: Any = self.envs.render()
        return list(frames or ())

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return the environment's attribute, once for each row asked for."""
        envs = self._holder(attr_name)
        return [getattr(envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the environment, that is of all rows; some only are refused."""
        self._check_all(attr_name, indices)
        setattr(self._holder(attr_name), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environment once; every row gets the result.

        Of ``action_masks``, which has one for each row, every row gets its own. Some rows only are
        refused.
        """
        self._check_all(method_name, indices)
        result = self.get_attr(method_name, 0)[0](*method_args, **method_kwargs)
        return list(result) if method_name == "action_masks" else [result] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """Return that no row is: wrappers of single environments are none of a vector's."""
        return [False for _ in self._get_indices(indices)]

    def _holder(self, name: str) -> Any:
        """Return the outermost environment with an attribute, else the innermost."""
        envs: Any = self.envs
        while not hasattr(envs, name) and hasattr(envs, "env"):
            envs = envs.env  # Gymnasium's vector wrappers do not hand attributes on
        return envs

    def _check_all(self, name: str, indices: Any) -> None:
        if indices is not None:
            raise ConfigurationError(
                f"Expected {name} for all rows, which are one environment, got {indices}. Leave "
                "indices out."
            )


def _copied(observations: Any) -> Any:
    """Return copies: Stable-Baselines3 stores observations after the next step."""
    if isinstance(observations, dict):
        return {key: np.array(array) for key, array in observations.items()}
    return np.array(observations)


def _of_row(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """Return one row's info."""
    info: dict[str, Any] = {}
    for key, values in infos.items():
        if key.startswith("_") or not infos["_" + key][row]:
            continue
        value = _of_row(values, row) if isinstance(values, dict) else values[row]
        info[key] = value.item() if isinstance(value, np.generic) else value
    return info
