"""Check of the contract of Gymnasium vector environments, which Gymnasium itself lacks."""

from __future__ import annotations

import contextlib
import copy as copying
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from search_env.errors import ConfigurationError
from search_env.testing.base import (
    broken,
    named,
    no_warnings,
    plain,
    require,
    require_repeatable_close,
    require_same,
)
from search_env.testing.runs import (
    AnyVectorEnv,
    Call,
    Choose,
    Row,
    make_calls,
    repeat_calls,
    row_of,
)

Make = Callable[..., AnyVectorEnv]

_ARRAYS = (("rewards", "f"), ("terminations", "b"), ("truncations", "b"))  # NumPy's kinds


def check_vector_env(
    make: Make,
    *,
    single: Callable[[], gym.Env[Any, Any]] | None = None,
    modes: Sequence[AutoresetMode] = tuple(AutoresetMode),
    num_envs: int = 3,
    steps: int = 100,
    seed: int = 0,
    choose: Choose | None = None,
    copy: bool = True,
    stable_infos: bool = False,
) -> None:
    """Check that a vector environment keeps Gymnasium's contract in each autoreset mode.

    Rules, by the name that an error begins with: ``warnings``, ``attributes`` (``autoreset_mode``
    too, as Gymnasium's have it), ``metadata`` (the mode, as an enum, not shared between instances),
    ``render`` (a frame of each row, if ``make`` chose a render mode), ``action-mask`` (of an
    observation space that has one), ``stable-infos`` (if asked for), ``arrays`` (shapes and types
    of all results, observations in their space), ``infos`` (each key with a bool mask ``_key``),
    ``info-types`` (the type of a key's array never changes), ``seed`` (row i of ``seed`` is row 0
    of ``seed + i``; lists), ``reset-mask``, ``next-step``, ``same-step``, ``disabled``,
    ``deterministic`` (including infos), ``single`` (each row equals the single environment),
    ``fresh`` (results do not change later), ``actions`` (invalid ones raise) and ``close``.

    Args:
        make: Called as ``make(num_envs=N, autoreset_mode=mode)`` several times per mode.
        single: Makes the single environment that row i must equal after a reset with ``seed + i``
            and equal actions. If None, the content of episodes is not checked.
        modes: Modes to check.
        num_envs: At least 2.
        steps: Number of steps in each run; episodes must end within them.
        seed: Seed of the runs.
        choose: ``(env, observations) -> actions``; None draws from the action space.
        copy: Whether observations and infos must stay unchanged. False for environments that are
            documented to return views.
        stable_infos: Whether the infos of all calls must have the same keys, apart from the
            ``final_obs`` and ``final_info`` of SAME_STEP.

    Raises:
        ConformanceError: A rule is broken.
        ConfigurationError: No episode ended within ``steps``, or ``num_envs`` is below 2.

    Example:
        >>> def make(num_envs, autoreset_mode):
        ...     return gym.make_vec("SearchQA-Toy-v0", num_envs, autoreset_mode=autoreset_mode)
        >>> check_vector_env(make, single=lambda: gym.make("SearchQA-Toy-v0"), steps=30)
    """
    if num_envs < 2:
        raise ConfigurationError(f"Expected num_envs of at least 2, got {num_envs}. Pass 3.")
    with no_warnings("warnings"):
        for mode in modes:
            check = _Check(make, mode, num_envs, seed)
            with check.environment() as env:
                check.attributes(env)
                check.seeds(env)
                check.reset_masks(env)
                check.render(env)
            check.bad_actions()
            with check.environment() as env:
                sample = choose or (lambda env, observations: env.action_space.sample())
                calls = make_calls(env, mode, seed, steps, sample)
                check.run(calls, copy)
                if stable_infos:
                    check.stable_infos(calls)
            with check.environment() as env:
                check.deterministic(repeat_calls(env, calls, seed), calls)
            if mode is AutoresetMode.DISABLED:
                check.no_step_after_the_end(calls)
            if single is not None:
                check.rows(single, calls)


class _Check:
    """The rules for one autoreset mode."""

    def __init__(self, make: Make, mode: AutoresetMode, num_envs: int, seed: int) -> None:
        self._make, self._mode, self._n, self._seed = make, mode, num_envs, seed

    @contextlib.contextmanager
    def environment(self) -> Iterator[AnyVectorEnv]:
        """Make an environment, and close it twice at the end of the block."""
        env = self._make(num_envs=self._n, autoreset_mode=self._mode)
        self._space, self._actions = env.observation_space, env.action_space
        self._single_space = env.single_observation_space
        yield env
        require_repeatable_close(env.close)
        require(env.closed, "close", "closed to be True after close()", env.closed, "Call super().")

    def attributes(self, env: AnyVectorEnv) -> None:
        advice = "Set it in __init__; batch_space() makes the batched spaces."
        require(env.num_envs == self._n, "attributes", f"num_envs {self._n}", env.num_envs, advice)
        expected = f"observation_space to be {self._n} of {env.single_observation_space}"
        batched = batch_space(env.single_observation_space, self._n)
        fits = is_space_dtype_shape_equiv(env.observation_space, batched)
        require(fits, "attributes", expected, env.observation_space, advice)
        expected = f"action_space to be {self._n} of {env.single_action_space}"
        fits = env.action_space == batch_space(env.single_action_space, self._n)
        require(fits, "attributes", expected, env.action_space, advice)
        kinds = {"spec": EnvSpec | None, "render_mode": str | None, "closed": bool}
        for name, kind in kinds.items():
            value = getattr(env, name, ...)
            require(isinstance(value, kind), "attributes", f"{name}: {kind}", value, advice)
        require(env.closed is False, "attributes", "closed to be False", True, advice)
        mode = getattr(env.unwrapped, "autoreset_mode", None)
        expected = f"autoreset_mode to be {self._mode}"
        require(mode is self._mode, "attributes", expected, repr(mode), advice)
        self._metadata(env)

    def _metadata(self, env: AnyVectorEnv) -> None:
        other = next(mode for mode in AutoresetMode if mode is not self._mode)
        mode = env.metadata.get("autoreset_mode")
        advice = "Write AutoresetMode(...) into a copy of the class's metadata, in __init__."
        require(mode is self._mode, "metadata", f"autoreset_mode {self._mode}", repr(mode), advice)
        with contextlib.suppress(ValueError, NotImplementedError):  # it may lack this mode
            self._make(num_envs=self._n, autoreset_mode=other).close()
        mode = env.metadata.get("autoreset_mode")
        expected = f"autoreset_mode to stay {self._mode} when another environment is made"
        require(mode is self._mode, "metadata", expected, repr(mode), advice)

    def seeds(self, env: AnyVectorEnv) -> None:
        seed, n = self._seed, self._n
        advice = "Row i of an int seed has seed + i; of a list, its i-th."
        rows = self._reset_rows(env, seed)
        listed = self._reset_rows(env, [seed + i for i in range(n)])
        self._require_rows(f"the rows of seed={seed} and of the list of its seeds", rows, listed)
        self._require_rows("the same rows again", rows, self._reset_rows(env, seed))
        later = self._reset_rows(env, seed + 1)
        self._require_rows("row i + 1 to equal row i of the next seed", rows[1:], later[:-1])
        equal = self._reset_rows(env, [seed] * n)
        self._require_rows("equal seeds to give equal rows", equal[1:], equal[:-1])
        self._require_rows(f"row 0 to have seed {seed}", rows[:1], equal[:1])
        self._reset_rows(env, [None] * n)
        too_few: Any = [seed]
        reset = functools.partial(env.reset, seed=too_few)
        self._require_error("seed", "a list of too few seeds", reset, advice)

    def _reset_rows(self, env: AnyVectorEnv, seed: Any) -> list[Any]:
        result = copying.deepcopy(env.reset(seed=seed))
        self._check_result(result, {})
        return [row_of(self._space, result, row) for row in range(self._n)]

    def _require_rows(self, expected: str, a: list[Any], b: list[Any], rule: str = "seed") -> None:
        require_same(a, b, rule, expected, "Seed row i with seed + i, or seed[i].")

    def _require_error(self, rule: str, what: str, call: Callable[[], Any], advice: str) -> None:
        try:
            call()
        except Exception:  # the contract names no type
            return
        raise broken(rule, f"{what} to raise", "no error", advice)

    def reset_masks(self, env: AnyVectorEnv) -> None:
        n, seed = self._n, self._seed
        before = [row_of(self._space, env.reset(seed=seed), row) for row in range(n)]
        mask = np.arange(n) == n - 1
        result = env.reset(seed=seed, options={"reset_mask": mask.copy()})
        self._check_partial_reset(before, result, mask)
        expected = f"row {n - 1} to be reset with seed + {n - 1}"
        last = row_of(self._space, result, n - 1)
        self._require_rows(expected, before[n - 1 :], [last], "reset-mask")
        invalid = {
            "a list as reset_mask": mask.tolist(),
            "an int array as reset_mask": mask.astype(np.int64),
            "a reset_mask of another length": np.ones(n + 1, np.bool_),
            "a reset_mask without a True": np.zeros(n, np.bool_),
        }
        advice = f"Accept bool arrays of shape ({n},) with a True only."
        for what, value in invalid.items():
            reset = functools.partial(env.reset, options={"reset_mask": value})
            self._require_error("reset-mask", what, reset, advice)

    def _check_partial_reset(
        self, before: list[Any], result: tuple[Any, ...], mask: NDArray[np.bool_]
    ) -> None:
        """Check that a partial reset leaves the other rows unchanged and without infos."""
        for row in np.flatnonzero(~mask).tolist():
            observation, info = row_of(self._space, result, row)
            expected = f"row {row} unchanged by a reset of {np.flatnonzero(mask).tolist()}"
            advice = "Reset masked rows only."
            require_same(before[row][0], observation, "reset-mask", expected, advice)
            expected = f"no info of row {row}, which was not reset"
            require(not info, "reset-mask", expected, info, "Leave its masks False.")

    def render(self, env: AnyVectorEnv) -> None:
        """Check the frames: one for each row, of that row."""
        if env.render_mode is None:
            return
        frames = self._frames(env, self._seed)
        if env.render_mode == "human" or frames is None:
            return
        kinds = {"ansi": str, "rgb_array": np.ndarray}
        kind = kinds.get(env.render_mode, object)
        wrong = [type(frame).__name__ for frame in frames if not isinstance(frame, kind)]
        expected = f"frames of {kind.__name__} in mode {env.render_mode!r}"
        require(not wrong, "render", expected, wrong, "Return the single environment's frames.")
        later = self._frames(env, self._seed + 1)
        expected = f"the frame of row i + 1 of seed {self._seed} to be that of row i of the next"
        advice = "Draw each row from its own state."
        require_same(frames[1:], later[:-1], "render", expected, advice)

    def _frames(self, env: AnyVectorEnv, seed: int) -> Any:
        env.reset(seed=seed)
        frames = env.render()
        if env.render_mode == "human":
            is_shown = frames is None or all(frame is None for frame in frames)
            advice = "Draw on the screen."
            require(is_shown, "render", "no frames in mode 'human'", f"{frames!r:.80}", advice)
            return None
        fits = isinstance(frames, tuple) and len(frames) == self._n
        got = f"{len(frames)} in {type(frames)}" if isinstance(frames, Sequence) else repr(frames)
        advice = "As SyncVectorEnv does; RecordVideo needs them all."
        require(fits, "render", f"a tuple of {self._n} frames from render()", got, advice)
        return frames

    def stable_infos(self, calls: list[Call]) -> None:
        """Check that the infos of all calls have the same keys."""
        first = _keys(calls[0].copied[-1])
        for number, call in enumerate(calls):
            keys = _keys(call.copied[-1])
            expected = f"the infos of call {number} to have the keys of the first"
            got = f"{sorted(keys - first)} more and {sorted(first - keys)} less"
            advice = "Add every key to every info, with a neutral value where there is none."
            require(keys == first, "stable-infos", expected, got, advice)

    def bad_actions(self) -> None:
        """Check that invalid actions raise, each in a new environment, which may not survive."""
        with self.environment() as env:
            actions, space = env.action_space.sample(), env.single_action_space
        bad: dict[str, Any] = {}
        if isinstance(actions, np.ndarray):
            bad = {"too few actions": actions[:-1], "too many": np.concatenate([actions] * 2)}
        if isinstance(space, gym.spaces.Discrete):
            beyond = actions.copy()
            beyond[0] = space.start + space.n
            bad["an action out of range"] = beyond
        for what, value in bad.items():
            env = self._make(num_envs=self._n, autoreset_mode=self._mode)
            env.reset(seed=self._seed)
            advice = f"Accept only elements of {self._actions}."
            self._require_last_error(env, "actions", what, value, advice)

    def _require_last_error(
        self, env: AnyVectorEnv, rule: str, what: str, actions: Any, advice: str
    ) -> None:
        """Check that a step raises, and close the environment: worker processes may be gone."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._require_error(rule, what, lambda: env.step(actions), advice)
            finally:
                with contextlib.suppress(Exception):
                    env.close()

    def run(self, calls: list[Call], copy: bool) -> None:
        """Check each call of a run, and its consistency with the call before."""
        if not any(call.is_step and call.over.any() for call in calls):
            raise ConfigurationError(
                f"Expected an episode to end within the steps of a run in mode {self._mode.value}, "
                "got none. Pass more steps, or choose= actions that end one."
            )
        dtypes: dict[str, Any] = {}
        previous = [calls[0], *calls[:-1]]  # the first call is a full reset
        for number, (last, call) in enumerate(zip(previous, calls, strict=True)):
            self._check_result(call.copied, dtypes)
            if call.is_step:
                self._check_autoreset(call, last)
            elif call.mask is not None:
                rows = [row_of(self._space, last.copied, row) for row in range(self._n)]
                self._check_partial_reset(rows, call.copied, call.mask)
            if copy:
                expected = f"the result of call {number} to stay unchanged"
                advice = "Return copies, or check with copy=False."
                a, b = named(call.live), named(call.copied)
                require_same(a, b, "fresh", expected, advice, "later ")

    def _check_result(self, result: tuple[Any, ...], dtypes: dict[str, Any]) -> None:
        fits = isinstance(result, tuple) and len(result) in (2, 5)
        expected = "(observations, infos), or five values from step"
        require(fits, "arrays", expected, f"{result!r:.80}", "Return a tuple.")
        self._check_observations(self._space, result[0], "observations")
        for (name, kind), values in zip(_ARRAYS, result[1:-1], strict=False):
            fits = isinstance(values, np.ndarray) and values.shape == (self._n,)
            fits = fits and values.dtype.kind == kind
            expected = f"{name} as array of shape ({self._n},) and kind {kind!r}"
            advice = "Build it with np.zeros(num_envs, dtype)."
            require(fits, "arrays", expected, f"{values!r:.80}", advice)
        self._check_infos(result[-1], dtypes, "")

    def _check_observations(self, space: gym.Space[Any], values: Any, where: str) -> None:
        if isinstance(space, gym.spaces.Dict) and isinstance(values, Mapping):
            for key, part in space.spaces.items():
                self._check_observations(part, values.get(key), f"{where}[{key!r}]")
        elif isinstance(space, gym.spaces.Tuple) and isinstance(values, tuple):
            for i, (part, value) in enumerate(zip(space.spaces, values, strict=False)):
                self._check_observations(part, value, f"{where}[{i}]")
        elif isinstance(values, np.ndarray) and values.dtype != space.dtype:
            raise broken("arrays", f"{where} of {space.dtype}", values.dtype, "Use the space's.")
        advice = "Correct the observations or the space."
        if where == "observations['action_mask']" and isinstance(values, np.ndarray):
            self._check_action_mask(values)
        require(values in space, "arrays", f"{where} in {space}", f"{values!r:.200}", advice)

    def _check_action_mask(self, masks: NDArray[Any]) -> None:
        """Check the masks in observations by the form that Discrete.sample takes."""
        advice = "Use int8, 1 for the actions that are allowed, at least one."
        size = getattr(self._actions, "nvec", np.zeros(self._n))[0]
        fits = masks.dtype == np.int8 and masks.shape == (self._n, size)
        expected = f"action_mask as int8 ({self._n}, {size})"
        require(fits, "action-mask", expected, f"{masks.dtype}{masks.shape}", advice)
        fits = bool(np.isin(masks, (0, 1)).all() and masks.any(axis=1).all())
        require(fits, "action-mask", "a mask of 0 and 1 that allows something", masks, advice)

    def _check_infos(self, infos: Any, dtypes: dict[str, Any], where: str) -> None:
        expected, advice = f"infos{where} to be a dict", "Use VectorEnv._add_info."
        require(isinstance(infos, dict), "infos", expected, type(infos), advice)
        for key, values in infos.items():
            at = f"{where}[{key!r}]"
            if key.startswith("_"):
                expected = f"a value beside the mask infos{at}"
                require(key[1:] in infos, "infos", expected, list(infos), "Add both or none.")
                continue
            mask = infos.get(f"_{key}")
            fits = isinstance(mask, np.ndarray) and mask.shape == (self._n,) and mask.dtype == bool
            expected = f"infos{where}['_{key}'] as bool array of shape ({self._n},)"
            require(fits, "infos", expected, f"{mask!r:.80}", advice)
            if isinstance(values, dict):
                self._check_infos(values, dtypes, at)
                continue
            fits = isinstance(values, np.ndarray) and values.shape[:1] == (self._n,)
            expected = f"infos{at} as array of {self._n} rows"
            require(fits, "infos", expected, f"{values!r:.80}", "Use object arrays where ragged.")
            kind = (values.dtype, values.shape)
            first = dtypes.setdefault(at, kind)
            expected = f"infos{at} always of type and shape {first}"
            constant = "Always write numbers of one type: an array takes the type of its first row."
            require(first == kind, "info-types", expected, kind, constant)

    def _check_autoreset(self, call: Call, last: Call) -> None:
        """Check a step against the autoreset mode, given the call before it."""
        infos, over = call.copied[-1], call.over
        final = {"final_obs", "final_info"} & infos.keys()
        if self._mode is AutoresetMode.SAME_STEP:
            self._check_final(infos, over)
            return
        rule = "next-step" if self._mode is AutoresetMode.NEXT_STEP else "disabled"
        require(not final, rule, "no final_obs or final_info", final, "Only SAME_STEP has them.")
        if self._mode is AutoresetMode.NEXT_STEP and last.is_step:
            rewards, ended = call.copied[1][last.over], over[last.over]
            rows = np.flatnonzero(last.over).tolist()
            expected = f"reward 0 and no end in rows {rows}, which only reset"
            advice = "Ignore the action of a row whose episode has ended, and reset it."
            got = f"rewards {rewards}, ended {ended}"
            require(not rewards.any() and not ended.any(), rule, expected, got, advice)

    def _check_final(self, infos: dict[str, Any], over: NDArray[np.bool_]) -> None:
        rows = np.flatnonzero(over).tolist()
        advice = "Add it for each row whose episode has ended, before the row is reset."
        for key in ("final_obs", "final_info"):
            mask = infos.get(f"_{key}", np.zeros(self._n, np.bool_))
            expected, got = f"infos['{key}'] for rows {rows}, which ended", np.flatnonzero(mask)
            require(np.array_equal(mask, over), "same-step", expected, got.tolist(), advice)
        advice = "Store the single observation in an object array."
        for row in rows:
            observation = infos["final_obs"][row]
            expected = f"final_obs[{row}] in {self._single_space}"
            fits = observation in self._single_space
            require(fits, "same-step", expected, f"{observation!r:.200}", advice)

    def deterministic(self, results: list[tuple[Any, ...]], calls: list[Call]) -> None:
        expected = f"two runs with seed {self._seed} and the same actions to agree"
        advice = "Draw from seeded generators only; keep wall-clock times out of infos."
        for number, (result, call) in enumerate(zip(results, calls, strict=True)):
            a, b, where = named(call.copied), named(result), f"in call {number} "
            require_same(a, b, "deterministic", expected, advice, where)

    def no_step_after_the_end(self, calls: list[Call]) -> None:
        """Check that a step of a row whose episode has ended raises."""
        last = next(i for i, call in enumerate(calls) if call.is_step and call.over.any())
        env = self._make(num_envs=self._n, autoreset_mode=self._mode)
        repeat_calls(env, calls[: last + 1], self._seed)
        advice = "Raise until the rows that have ended are reset by reset_mask."
        actions = calls[last].actions
        self._require_last_error(env, "disabled", "a step after the end", actions, advice)

    def rows(self, single: Callable[[], gym.Env[Any, Any]], calls: list[Call]) -> None:
        advice = "Let both use the same rules; row i is reset with seed + i."
        for row in range(self._n):
            env = single()
            reference = Row(env, self._mode)
            for number, call in enumerate(calls):
                if (result := self._single_result(reference, call, row)) is None:
                    continue
                a, b = plain(named(result)), named(row_of(self._space, call.copied, row))
                expected = f"row {row} in mode {self._mode.value} to equal the single environment"
                where = f"in call {number} (single and row) "
                require_same(a, b, "single", expected, advice, where)
            env.close()

    def _single_result(self, reference: Row, call: Call, row: int) -> tuple[Any, ...] | None:
        """Repeat a call in the single environment of a row; None where the call skips the row."""
        if call.is_step:
            return reference.step(list(iterate(self._actions, call.actions))[row])
        if call.mask is None:
            return reference.reset(seed=self._seed + row)
        return reference.reset() if call.mask[row] else None


def _keys(infos: Mapping[str, Any], where: str = "") -> set[str]:
    """Return the keys of infos, nested ones too, without those of SAME_STEP's ends."""
    keys = set()
    for key, values in infos.items():
        if key.removeprefix("_") not in ("final_obs", "final_info"):
            keys.add(where + key)
            if isinstance(values, Mapping):
                keys |= _keys(values, f"{where}{key}.")
    return keys
