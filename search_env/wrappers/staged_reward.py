"""Training in phases: wrappers that switch the reward of a single or vector environment.

The wrappers count episodes as they end, apply the rule of :mod:`search_env.rewards.phases` to
decide whether the phase is over, and set the environment's next reward. They compute no reward and
change no observation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from search_env.envs.config import Info
from search_env.errors import ConfigurationError
from search_env.rewards import Reward, get_reward
from search_env.rewards.phases import EpisodeOutcome, PhaseRule, PhaseState, PhaseSwitch, Progress
from search_env.wrappers.vector_base import AnyVectorWrapper

_StepResult = tuple[Any, Any, Any, Any, Info]  # of a vector environment
_PROGRESS = ("phase_episodes", "search_rate", "format_rate", "phase_switched")  # as in Progress

R1_SEARCHER_PHASES = ("r1-searcher-stage1", "r1-searcher-stage2")
"""Learning to search, then to answer (arXiv 2503.05592 v2)."""

R1_SEARCHER_EPISODES = 350 * 16
"""Length of R1-Searcher's first phase: 350 questions once (the paper), 16 rollouts of each
(RUCAIBox/R1-Searcher@631167c: llama_reinforce_plus_train_stage1.sh)."""


@dataclass(frozen=True, slots=True)
class StagedState:
    """State of a wrapped environment: the environment's own and that of the phases."""

    env: Any
    phases: PhaseState


class _Staged:
    """Base of both wrappers: the phases, their rule and its state."""

    def _init_phases(
        self,
        phases: Sequence[str | Reward],
        phase: int,
        after_episodes: int | None,
        search_rate: float | None,
        format_rate: float | None,
        window: int,
    ) -> None:
        if isinstance(phases, str | Reward) or not isinstance(phases, Sequence):
            raise ConfigurationError(
                f"Expected phases to be a sequence of rewards, got {phases!r}. Pass a list."
            )
        self.phases: tuple[str | Reward, ...] = tuple(phases)
        self._names = tuple(get_reward(reward).name for reward in self.phases)
        self._rule = PhaseRule(len(self.phases), after_episodes, search_rate, format_rate, window)
        start = self._rule.start(phase)
        for reward in self.phases:
            self._set_reward(reward)  # the environment refuses what cannot read its protocol
        self.set_phase_state(start)

    @property
    def phase(self) -> int:
        """Index of the phase in force from now on."""
        return self._state.phase

    @property
    def phase_name(self) -> str:
        """Name of the reward of the phase in force."""
        return self._names[self._state.phase]

    @property
    def phase_history(self) -> tuple[PhaseSwitch, ...]:
        """Every switch: the new phase, the number of valid episodes before it, and the reason."""
        return self._state.history

    def set_phase(self, phase: int) -> None:
        """Begin a phase with no progress; no effect if it is the phase in force.

        Unfinished episodes are rewarded under the new phase and count for it.

        Raises:
            ConfigurationError: There is no such phase.
        """
        self.set_phase_state(self._rule.switch(self._state, phase))

    def get_phase_state(self) -> PhaseState:
        """Return phase, progress and history, for resuming a training run."""
        return self._state

    def set_phase_state(self, state: PhaseState) -> None:
        """Continue from a saved phase, and set the environment's reward accordingly.

        Raises:
            ConfigurationError: There is no such phase.
        """
        self._set_reward(self.phases[self._rule.checked(state.phase)])
        self._state = state

    def get_state(self) -> StagedState:
        """Return the state of the environment, which must have ``get_state``, and of the phases."""
        return StagedState(self._method("get_state")(), self._state)

    def set_state(self, state: StagedState) -> None:
        """Continue from a saved state exactly as the environment that saved it would have."""
        self._method("set_state")(state.env)
        self.set_phase_state(state.phases)

    def set_reward(self, reward: str | Reward) -> NoReturn:
        """Refuse with a ConfigurationError, because the phase determines the reward."""
        raise ConfigurationError(
            f"Expected set_phase(), got set_reward({reward!r}): the phase determines the reward. "
            "Add the reward to phases=, and keep one staged wrapper, the outermost."
        )

    def _count(self, episodes: Sequence[EpisodeOutcome]) -> list[Progress]:
        """Count episodes that ended together; return the progress after each."""
        state, progress = self._rule.observe(self._state, episodes)
        if state.phase != self._state.phase:
            self.set_phase_state(state)  # if the environment refuses, nothing was counted
        self._state = state
        return progress

    def _set_reward(self, reward: str | Reward) -> None:
        raise NotImplementedError

    def _method(self, name: str) -> Callable[..., Any]:
        """Return the nearest method of that name below this wrapper."""
        raise NotImplementedError


class StagedReward(_Staged, gym.utils.RecordConstructorArgs, gym.Wrapper[Any, Any, Any, Any]):
    """Sets the reward of a phase and switches phases; R1-Searcher's two by default.

    A phase ends once ``search_rate`` and ``format_rate`` (unless None) are reached over the last
    ``window`` episodes of the phase, or after ``after_episodes`` of them, whichever comes first.
    If all three are None, only :meth:`set_phase` switches. The episode that meets the condition is
    rewarded under the old phase, the next one under the new. Episodes with ``info["valid"]`` False
    are not counted.

    ``info`` always has ``phase`` (int: the phase in force during this step) and ``phase_name``; on
    the step that ends an episode also ``phase_episodes`` (int), ``search_rate`` and
    ``format_rate`` (float) of that phase, and ``phase_switched`` (bool).

    The phase is part of the state and of copies and pickles; ``env.spec`` holds the arguments.

    **Not inside a vector environment.** There each row counts its own episodes, so ``N`` rows need
    ``N * after_episodes`` of them and switch one by one (see ``infos["phase"]``). Put
    :class:`VectorStagedReward` around the vector environment instead. Where that is impossible,
    pass ``after_episodes=None`` and switch all rows at once: ``envs.call("set_phase", 1)``, or
    ``env_method`` in Stable-Baselines3.

    Args:
        env: An environment with ``set_reward``, such as ``SearchQAEnv``, wrapped or not. Episodes
            must end by its own rules: ``max_policy_tokens``, not ``max_episode_steps``.
        phases: A reward per phase: names, or :class:`~search_env.rewards.Reward` objects, with
            which ``EnvSpec`` cannot become JSON.
        after_episodes: Maximum number of valid episodes in a phase; None for no maximum.
        search_rate: Required share of episodes with a search, in (0, 1]; None for none.
        format_rate: Required share of well-formed episodes, in (0, 1]; None for none.
        window: Number of latest episodes over which the shares are computed, once there are so
            many.
        phase: Index of the first phase.

    Raises:
        ConfigurationError: An unknown reward or phase, a reward that cannot read the environment's
            protocol, a value out of range, or an environment without ``set_reward``.

    Example:
        >>> import gymnasium as gym
        >>> from search_env.wrappers.staged_reward import StagedReward
        >>> env = StagedReward(gym.make("SearchQA-Toy-v0"), after_episodes=1)
        >>> _, info = env.reset(seed=0)
        >>> info["phase_name"]
        'r1-searcher-stage1'
        >>> _, _, terminated, _, info = env.step(0)  # the end of sequence
        >>> info["phase"], info["phase_switched"], env.phase
        (0, True, 1)

    Change logs:
        * v0.1.0 - Added.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        phases: Sequence[str | Reward] = R1_SEARCHER_PHASES,
        *,
        after_episodes: int | None = R1_SEARCHER_EPISODES,
        search_rate: float | None = None,
        format_rate: float | None = None,
        window: int = 256,
        phase: int = 0,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self,
            phases=phases,
            after_episodes=after_episodes,
            search_rate=search_rate,
            format_rate=format_rate,
            window=window,
            phase=phase,
        )
        gym.Wrapper.__init__(self, env)
        self._init_phases(phases, phase, after_episodes, search_rate, format_rate, window)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Info]:
        """Begin an episode under the phase in force."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "phase": self.phase, "phase_name": self.phase_name}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Info]:
        """Step; if the episode ends, count it and switch if the phase is over."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = {**info, "phase": self.phase, "phase_name": self.phase_name}
        if terminated or truncated:
            if "valid" not in info or info.get("stop_reason") == "":
                raise _truncated_by_wrapper()
            outcome = EpisodeOutcome(info["num_searches"], info["well_formed"], info["valid"])
            info.update(zip(_PROGRESS, self._count([outcome])[0], strict=True))
        return observation, reward, terminated, truncated, info

    def clone(self) -> StagedReward:
        """Return an independent copy in the same state, including the wrappers below."""
        return copy.deepcopy(self)

    def _set_reward(self, reward: str | Reward) -> None:
        self._method("set_reward")(reward)

    def _method(self, name: str) -> Callable[..., Any]:
        if not self.env.has_wrapper_attr(name):
            raise _missing_method(self.env, name)
        method: Callable[..., Any] = self.env.get_wrapper_attr(name)
        return method


class VectorStagedReward(_Staged, AnyVectorWrapper):
    """Sets the reward of a phase in all rows and switches phases; R1-Searcher's two by default.

    :class:`StagedReward` for vector environments: ``SearchQAVectorEnv``, Gymnasium's
    ``SyncVectorEnv`` and ``AsyncVectorEnv``, in each autoreset mode, with ``send`` and ``recv``
    where the environment has them. Same arguments, same rule.

    All rows share one phase. Episodes that end in the same step are rewarded under the same phase
    and then counted in the order of their rows. The switch is recorded at the episode that met the
    condition, and is in force from the next step (or ``recv``) on in every row, also for
    unfinished episodes. Episodes that end in the same step in a later row do not count for the new
    phase.

    ``infos`` has ``phase`` and ``phase_name`` for every row, in read-only arrays; for rows whose
    episode ended also ``phase_episodes``, ``search_rate``, ``format_rate`` and
    ``phase_switched`` (True only in the row of the switch). In mode ``SameStep`` these, with
    ``phase`` and ``phase_name``, are in ``infos["final_info"]``.

    Vector environments do not record wrappers in their ``spec``: keep the arguments yourself.

    Example:
        >>> import gymnasium as gym
        >>> from search_env.wrappers.staged_reward import VectorStagedReward
        >>> envs = gym.make_vec("SearchQA-Toy-v0", num_envs=3, vectorization_mode="sync")
        >>> envs = VectorStagedReward(envs, after_episodes=2)
        >>> _, infos = envs.reset(seed=0)
        >>> infos["phase"].tolist()
        [0, 0, 0]
        >>> _, _, _, _, infos = envs.step([0, 0, 0])  # each row's end of sequence
        >>> infos["phase_switched"].tolist(), envs.phase
        ([False, True, False], 1)

    Change logs:
        * v0.1.0 - Added.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        phases: Sequence[str | Reward] = R1_SEARCHER_PHASES,
        *,
        after_episodes: int | None = R1_SEARCHER_EPISODES,
        search_rate: float | None = None,
        format_rate: float | None = None,
        window: int = 256,
        phase: int = 0,
    ) -> None:
        AnyVectorWrapper.__init__(self, env)
        self._init_phases(phases, phase, after_episodes, search_rate, format_rate, window)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, Info]:
        """Begin episodes under the phase in force; arguments are the environment's own."""
        mask = (options or {}).get("reset_mask")  # which Gymnasium takes out of the dictionary
        observations, infos = self.env.reset(seed=seed, options=options)
        if mask is None or mask.all():
            return observations, {**infos, **self._phase_infos}
        names = np.empty(self.num_envs, object)
        names[mask] = self.phase_name
        phase = np.where(mask, self.phase, 0)
        phase_infos = {"phase": phase, "_phase": mask, "phase_name": names, "_phase_name": mask}
        return observations, {**infos, **phase_infos}

    def step(self, actions: Any) -> _StepResult:
        """Step all rows; count the episodes that ended and switch if the phase is over."""
        return self._add_phase(self.env.step(actions))

    def send(self, actions: Any, rows: Sequence[int] | None = None) -> None:
        """Step some rows without waiting; see ``SearchQAVectorEnv.send``."""
        _method_of(self.env, "send")(actions, rows)

    def recv(self, min_ready: int = 1) -> _StepResult:
        """Return the rows that are ready, with their episodes counted as in :meth:`step`."""
        return self._add_phase(_method_of(self.env, "recv")(min_ready))

    def set_phase_state(self, state: PhaseState) -> None:
        """Continue from a saved phase, and set the reward of every row accordingly."""
        super().set_phase_state(state)
        names = np.full(self.num_envs, self.phase_name, object)
        phase, mask = np.full(self.num_envs, self.phase, np.int64), np.ones(self.num_envs, np.bool_)
        for array in (names, phase, mask):
            array.setflags(write=False)  # the infos of all steps of the phase share the arrays
        self._phase_infos: dict[str, NDArray[Any]] = {
            **{"phase": phase, "_phase": mask},
            **{"phase_name": names, "_phase_name": mask},
        }

    def _add_phase(self, result: _StepResult) -> _StepResult:
        """Add the phase to the infos, and the progress in rows whose episodes ended."""
        observations, rewards, terminations, truncations, infos = result
        infos = {**infos, **self._phase_infos}
        ended = terminations | truncations
        if ended.any():
            self._add_progress(ended, infos)
        return observations, rewards, terminations, truncations, infos

    def _add_progress(self, ended: NDArray[np.bool_], infos: Info) -> None:
        """Count the episodes that ended in some rows, and add the progress to the infos."""
        final: Info = infos.get("final_info", infos)
        has_outcome = final.get("_valid", np.zeros(self.num_envs, np.bool_)).copy()
        if "stop_reason" in final:  # every info has 'valid' if its structure is stable
            has_outcome &= final["stop_reason"] != ""
        if not has_outcome[ended].all():
            raise _truncated_by_wrapper()
        if final is not infos:
            for key in ("phase", "phase_name"):
                final[key], final[f"_{key}"] = self._phase_infos[key], ended
        columns = (final[key][ended].tolist() for key in EpisodeOutcome._fields)
        progress = self._count([EpisodeOutcome(*row) for row in zip(*columns, strict=True)])
        for key, values in zip(_PROGRESS, map(np.array, zip(*progress, strict=True)), strict=True):
            final[key] = np.zeros(self.num_envs, values.dtype)
            final[key][ended] = values
            final[f"_{key}"] = ended.copy()

    def _set_reward(self, reward: str | Reward) -> None:
        if hasattr(_nearest(self.env, "set_reward"), "set_reward"):
            self._method("set_reward")(reward)
            return
        call = self._method("call")
        try:
            call("set_reward", reward)
        except AttributeError as error:
            raise _missing_method(self.env, "set_reward") from error

    def _method(self, name: str) -> Callable[..., Any]:
        return _method_of(_nearest(self.env, name), name)


def _nearest(env: VectorEnv[Any, Any, Any], name: str) -> VectorEnv[Any, Any, Any]:
    """Return the outermost environment with an attribute, else the innermost.

    Vector wrappers, unlike single ones, do not look attributes up below themselves. ``send`` and
    ``recv`` are not looked up in this way: a wrapper between must not be bypassed.
    """
    while isinstance(env, VectorWrapper) and not hasattr(env, name):
        env = env.env
    return env


def _method_of(env: VectorEnv[Any, Any, Any], name: str) -> Callable[..., Any]:
    if not hasattr(env, name):
        raise _missing_method(env, name)
    method: Callable[..., Any] = getattr(env, name)
    return method


def _truncated_by_wrapper() -> ConfigurationError:
    return ConfigurationError(
        "Expected the last info of an episode to hold 'valid', got none: a wrapper such as "
        "TimeLimit truncated the episode before it was rewarded. Pass max_policy_tokens instead "
        "of max_episode_steps."
    )


def _missing_method(env: object, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"Expected an environment with {name}(), got {env}. Wrap SearchQAEnv, SearchQAVectorEnv "
        "or another environment with the method."
    )
