"""check_vector_env: Gymnasium's and ours pass, and each rule fails for one that breaks it alone."""

from __future__ import annotations

import functools
import itertools
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import search_env  # noqa: F401 - registers the ids
from search_env.errors import ConfigurationError, ConformanceError
from search_env.testing import check_vector_env

CARTPOLE, TOY = "CartPole-v1", "SearchQA-Toy-v0"
NEXT, SAME, DISABLED = AutoresetMode
N = 3  # rows of the broken environments
ALL = np.ones(N, np.bool_)


def single(env_id: str):
    return lambda: gym.make(env_id)


def sync(env_id: str):
    def make(num_envs, autoreset_mode):
        arguments = {"autoreset_mode": autoreset_mode}
        env = gym.make_vec(env_id, num_envs, vectorization_mode="sync", vector_kwargs=arguments)
        return unshared(env)

    return make


def unshared(env):
    """Give an environment metadata of its own: Gymnasium's share theirs before 1.4."""
    env.metadata = dict(env.metadata)
    return env


def ours(**arguments):
    def make(num_envs, autoreset_mode):
        return gym.make_vec(TOY, num_envs, autoreset_mode=autoreset_mode, **arguments)

    return make


def mostly_right(env, observations):
    """Search for the two keys and answer with the value; one action in five is random."""
    length, tokens = observations["length"], observations["tokens"]
    actions = env.action_space.sample()
    stray = actions % 5 == 0
    rows = [_next_token(t[:n].tolist()) for t, n in zip(tokens, length, strict=True)]
    return np.where(stray, actions, rows)


def _next_token(tokens: list[int]) -> int:
    """Ids as in search_env.tokens.tokenizer.TOY_SYMBOLS: 1 <q>, 2 </q>, 3 <a>, 4 </a>, 6 </d>."""
    written = tokens[3:]
    if 6 in written:
        after = len(written) - written.index(6) - 1
        return [3, written[written.index(6) - 1], 4, 0][min(after, 3)]
    return [1, *tokens[1:3], 2, 0][min(len(written), 4)]


def test_gymnasiums_over_cartpole():
    check_vector_env(sync(CARTPOLE), single=single(CARTPOLE))


@pytest.mark.parametrize("choose", [None, mostly_right])
def test_gymnasiums_over_ours(choose):
    check_vector_env(sync(TOY), single=single(TOY), choose=choose)


@pytest.mark.parametrize("choose", [None, mostly_right])
def test_ours(choose):
    check_vector_env(ours(), single=single(TOY), choose=choose, num_envs=4)


def test_ours_with_views_and_with_masks():
    arguments = {"modes": [SAME], "choose": mostly_right}
    check_vector_env(ours(copy=False), single=single(TOY), copy=False, **arguments)
    masked = {"single": lambda: gym.make(TOY, action_mask=True), **arguments}
    check_vector_env(ours(action_mask=True), **masked)


STABLE = {"action_mask": "observation", "box_length": True, "stable_infos": True}


@pytest.mark.parametrize("mode", AutoresetMode)
def test_c9_ours_with_frames_masks_boxes_and_stable_infos(mode):
    arguments = {"modes": [mode], "choose": with_boxes, "stable_infos": True, "steps": 60}
    for make in (ours(render_mode="ansi", **STABLE), sync_of_ours):
        check_vector_env(make, single=lambda: gym.make(TOY, **STABLE), **arguments)


def with_boxes(env, observations):
    return mostly_right(env, {**observations, "length": observations["length"][:, 0]})


def sync_of_ours(num_envs, autoreset_mode):
    make = functools.partial(gym.make, TOY, render_mode="rgb_array", **STABLE)
    return unshared(SyncVectorEnv([make] * num_envs, autoreset_mode=autoreset_mode))


@pytest.mark.parametrize("mode", ["ansi", "rgb_array", "human"])
def test_c9_frames_of_ours(mode, capsys):
    check_vector_env(ours(render_mode=mode), modes=[SAME], steps=30)


def test_the_scripted_actions_do_search_and_are_paid():
    env = ours()(num_envs=4, autoreset_mode=SAME)
    env.action_space.seed(0)
    observations, _ = env.reset(seed=0)
    paid, searched = 0.0, False
    for _ in range(60):
        observations, rewards, *_, infos = env.step(mostly_right(env, observations))
        paid += rewards.sum()
        searched |= "query" in infos
    assert searched
    assert paid >= 4


class Good(SyncVectorEnv):
    """Gymnasium's; each broken one changes one thing."""

    env_id = CARTPOLE
    inner_mode: AutoresetMode | None = None
    arguments: dict = {}  # noqa: RUF012

    def __init__(self, num_envs, autoreset_mode):
        mode = self.inner_mode or autoreset_mode
        super().__init__([single(self.env_id)] * num_envs, autoreset_mode=mode, **self.arguments)
        unshared(self).metadata["autoreset_mode"] = self.autoreset_mode = autoreset_mode
        self.made()

    def made(self):
        pass

    def step(self, actions):
        said = self.autoreset_mode
        self.autoreset_mode = self.inner_mode or said
        try:
            result = super().step(actions)
        finally:
            self.autoreset_mode = said
        return self.changed(*result)

    def changed(self, *result):
        return result


class GoodToy(Good):
    env_id = TOY


PARTS = ("observations", "rewards", "terminations", "truncations", "infos")


def changing(part, change, base=Good):
    """Return an environment whose steps change one part of their result."""
    index = PARTS.index(part)

    def changed(self, *result):
        return *result[:index], change(result[index]), *result[index + 1 :]

    return type(f"Changed{part}", (base,), {"changed": changed})


def adding(**infos):
    """Return an environment whose steps add infos."""
    return changing("infos", lambda own: {**own, **infos})


def without(*keys):
    """Return an environment whose steps lack infos."""
    return changing("infos", lambda own: {k: v for k, v in own.items() if k not in keys}, GoodToy)


def replacing(key, replace, base=GoodToy):
    """Return an environment whose steps replace an info where there is one."""
    return changing(
        "infos", lambda own: {**own, key: replace(own[key])} if key in own else own, base
    )


def with_attribute(name, value):
    """Return an environment with another value of an attribute."""
    return type(f"Other_{name}", (Good,), {"made": lambda self: setattr(self, name, value)})


# Attributes.


class SingleObservationSpace(Good):
    def made(self):
        self.observation_space = self.single_observation_space


class BornClosed(Good):
    def made(self):
        self.closed = True

    def close(self, **kwargs):
        pass


class ModeIsText(Good):
    def made(self):
        self.metadata["autoreset_mode"] = self.autoreset_mode.value


class NoMode(Good):
    def made(self):
        del self.metadata["autoreset_mode"]


class SharedMetadata(Good):
    shared: dict = {"render_modes": []}  # noqa: RUF012

    def made(self):
        self.shared["autoreset_mode"] = self.autoreset_mode
        self.metadata = self.shared


class Warns(Good):
    def changed(self, *result):
        warnings.warn("old step", DeprecationWarning, stacklevel=1)
        return result


# Results.


class FourOfFive(Good):
    def changed(self, observations, rewards, terminations, truncations, infos):
        return observations, rewards, terminations | truncations, infos

    def reset(self, **arguments):
        return (*super().reset(**arguments), "three")


# Seeds and resets.


class OneSeedForAll(Good):
    def reset(self, *, seed=None, options=None):
        seed = [seed] * self.num_envs if isinstance(seed, int) else seed
        return super().reset(seed=seed, options=options)


class SeedsTimesTwo(Good):
    def reset(self, *, seed=None, options=None):
        seed = [seed + 2 * i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        return super().reset(seed=seed, options=options)


class ListIgnored(Good):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed[0] if isinstance(seed, list) else seed, options=options)


class ListOfAnyLength(Good):
    def reset(self, *, seed=None, options=None):
        if isinstance(seed, list):
            seed = [*seed, *[None] * self.num_envs][: self.num_envs]
        return super().reset(seed=seed, options=options)


class SeedIgnored(Good):
    def reset(self, *, seed=None, options=None):
        short = isinstance(seed, list) and len(seed) != self.num_envs
        return super().reset(seed=seed if short else None, options=options)


class MaskIgnored(Good):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class MaskedRowsFromTheFirstSeed(Good):
    def reset(self, *, seed=None, options=None):
        if options and isinstance(seed, int):
            seed = [seed] * self.num_envs
        return super().reset(seed=seed, options=options)


class AnyMask(Good):
    def reset(self, *, seed=None, options=None):
        mask = np.array((options or {}).get("reset_mask", []))
        if mask.shape == (self.num_envs,) and mask.any():
            options = {"reset_mask": mask.astype(np.bool_)}
        return super().reset(seed=seed, options=options)


class TalksOfRowsNotReset(GoodToy):
    def reset(self, *, seed=None, options=None):
        observations, infos = super().reset(seed=seed, options=options)
        return observations, {
            key: np.ones_like(value) if key == "_num_searches" else value
            for key, value in infos.items()
        }


# Autoreset, actions, time.


class SaysNextDoesSame(Good):
    inner_mode = SAME


class SaysSameDoesNext(Good):
    inner_mode = NEXT


class StepsOnAfterTheEnd(Good):
    def changed(self, *result):
        self._autoreset_envs[:] = False
        return result


class ClipsActions(Good):
    def step(self, actions):
        return super().step(np.clip(actions, 0, 1))


class RepeatsActions(Good):
    def step(self, actions):
        return super().step(np.resize(actions, self.num_envs))


class OwnBuffer(Good):
    arguments = {"copy": False}  # noqa: RUF012


class OneRewardArray(Good):
    def changed(self, observations, rewards, *rest):
        self._kept = getattr(self, "_kept", rewards)
        self._kept[:] = rewards
        self._kept += np.arange(self.num_envs) * observations[:, 0]
        return observations, self._kept, *rest


class ClosesOnce(Good):
    def close(self, **kwargs):
        if self.closed:
            raise RuntimeError("closed")
        super().close(**kwargs)


class NeverClosed(Good):
    def close(self, **kwargs):
        pass


# Against the single environment.


class OwnNumber(Good):
    made_so_far = itertools.count()

    def made(self):
        self.number = next(self.made_so_far)

    def changed(self, *result):
        return *result[:-1], {**result[-1], "number": np.full(N, self.number), "_number": ALL}


class IntegerThenFloat(Good):
    def made(self):
        self.kinds = itertools.cycle([np.int64, np.float64])

    def changed(self, *result):
        speed = np.ones(N, next(self.kinds))
        return *result[:-1], {**result[-1], "speed": speed, "_speed": ALL}


class RowsMixed(Good):
    def step(self, actions):
        return super().step(actions[::-1])


class Rendering(Good):
    """With frames; the broken ones draw too few, or the wrong ones."""

    arguments = {}  # noqa: RUF012

    def __init__(self, num_envs, autoreset_mode):
        makes = [lambda: gym.make(TOY, render_mode="ansi")] * num_envs
        SyncVectorEnv.__init__(self, makes, autoreset_mode=autoreset_mode)
        unshared(self)

    def render(self):
        return self.drawn(super().render())

    def drawn(self, frames):
        return frames


def drawing(change):
    """Return an environment that draws other frames."""
    return type("Drawing", (Rendering,), {"drawn": lambda self, frames: change(frames)})


class ShowsFrames(Rendering):
    """Returns frames in mode human."""

    def made(self):
        pass

    def __init__(self, num_envs, autoreset_mode):
        super().__init__(num_envs, autoreset_mode)
        self.render_mode = "human"


class Masked(Good):
    """With a mask in its observations."""

    env_id = TOY

    def __init__(self, num_envs, autoreset_mode):
        makes = [lambda: gym.make(TOY, action_mask="observation")] * num_envs
        SyncVectorEnv.__init__(self, makes, autoreset_mode=autoreset_mode)
        unshared(self)

    def step(self, actions):
        observations, *rest = super().step(actions)
        return {**observations, "action_mask": self.mask(observations["action_mask"])}, *rest

    def mask(self, masks):
        return masks


def masking(change):
    return type("Masking", (Masked,), {"mask": lambda self, masks: change(masks)})


BROKEN = [
    (with_attribute("autoreset_mode", None), NEXT, "attributes"),
    (with_attribute("autoreset_mode", AutoresetMode.DISABLED), NEXT, "attributes"),
    (with_attribute("autoreset_mode", "NextStep"), NEXT, "attributes"),
    (drawing(lambda frames: frames[:1]), NEXT, "render"),
    (drawing(lambda frames: frames[0]), NEXT, "render"),
    (drawing(lambda frames: None), NEXT, "render"),
    (drawing(list), NEXT, "render"),
    (drawing(lambda frames: (frames[0],) * N), SAME, "render"),
    (drawing(lambda frames: frames[::-1]), DISABLED, "render"),
    (drawing(lambda frames: tuple(np.zeros((2, 2, 3), np.uint8) for _ in frames)), NEXT, "render"),
    (ShowsFrames, NEXT, "render"),
    (masking(np.zeros_like), NEXT, "action-mask"),
    (masking(lambda masks: masks * np.int8(2)), NEXT, "action-mask"),
    (masking(lambda masks: masks[:, 1:]), NEXT, "action-mask"),
    (with_attribute("num_envs", 2), NEXT, "attributes"),
    (with_attribute("action_space", gym.spaces.MultiDiscrete([3] * N)), NEXT, "attributes"),
    (with_attribute("spec", "CartPole-v1"), NEXT, "attributes"),
    (changing("rewards", lambda rewards: rewards.tolist()), NEXT, "arrays"),
    (changing("rewards", lambda rewards: rewards.astype(np.int64)), NEXT, "arrays"),
    (changing("rewards", lambda rewards: rewards[:, None]), NEXT, "arrays"),
    (changing("terminations", lambda flags: flags.astype(np.int8)), NEXT, "arrays"),
    (changing("observations", lambda array: array.astype(np.float64)), NEXT, "arrays"),
    (changing("observations", lambda array: array + np.float32(100)), NEXT, "arrays"),
    (
        changing("observations", lambda own: {k: own[k] for k in ("length", "tokens")}, GoodToy),
        NEXT,
        "arrays",
    ),
    (changing("infos", lambda infos: [infos] * N), NEXT, "infos"),
    (adding(speed=np.zeros(N)), NEXT, "infos"),
    (adding(_speed=ALL), NEXT, "infos"),
    (adding(speed=np.zeros(N), _speed=[True] * N), NEXT, "infos"),
    (adding(speed=np.zeros(N), _speed=np.ones(N, np.int8)), NEXT, "infos"),
    (adding(speed=[0.0] * N, _speed=ALL), NEXT, "infos"),
    (adding(inner={"speed": np.zeros(N)}, _inner=ALL), NEXT, "infos"),
    (IntegerThenFloat, NEXT, "info-types"),
    (changing("rewards", np.ones_like), NEXT, "next-step"),
    (without("final_info", "_final_info"), SAME, "same-step"),
    (replacing("_final_obs", np.ones_like, Good), SAME, "same-step"),
    (replacing("final_obs", lambda own: np.full(N, None, object), Good), SAME, "same-step"),
    (OwnNumber, NEXT, "deterministic"),
    (
        changing("rewards", lambda rewards: rewards + np.random.default_rng().random(N)),
        SAME,
        "deterministic",
    ),
    (changing("rewards", lambda rewards: rewards / 2), NEXT, "single"),
    (replacing("f1", lambda f1: f1.astype(np.int64)), NEXT, "single"),  # 0.5 would become 0
    (without("valid", "_valid"), DISABLED, "single"),
    (SingleObservationSpace, NEXT, "attributes"),
    (BornClosed, NEXT, "attributes"),
    (ModeIsText, NEXT, "metadata"),
    (NoMode, NEXT, "metadata"),
    (SharedMetadata, NEXT, "metadata"),
    (Warns, NEXT, "warnings"),
    (FourOfFive, NEXT, "arrays"),
    (OneSeedForAll, NEXT, "seed"),
    (SeedsTimesTwo, NEXT, "seed"),
    (ListIgnored, NEXT, "seed"),
    (ListOfAnyLength, NEXT, "seed"),
    (SeedIgnored, NEXT, "seed"),
    (MaskIgnored, DISABLED, "reset-mask"),
    (MaskedRowsFromTheFirstSeed, DISABLED, "reset-mask"),
    (AnyMask, DISABLED, "reset-mask"),
    (TalksOfRowsNotReset, DISABLED, "reset-mask"),
    (SaysNextDoesSame, NEXT, "next-step"),
    (SaysSameDoesNext, SAME, "same-step"),
    (SaysNextDoesSame, DISABLED, "disabled"),
    (StepsOnAfterTheEnd, DISABLED, "disabled"),
    (ClipsActions, NEXT, "actions"),
    (RepeatsActions, NEXT, "actions"),
    (OwnBuffer, NEXT, "fresh"),
    (OneRewardArray, SAME, "fresh"),
    (ClosesOnce, NEXT, "close"),
    (NeverClosed, NEXT, "close"),
    (RowsMixed, SAME, "single"),
]


@pytest.mark.parametrize(
    ("kind", "mode", "rule"), BROKEN, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_each_rule_can_break(kind, mode, rule):
    with pytest.raises(ConformanceError, match=rf"^\[{rule}\] Expected (.|\n)+, got "):
        check_vector_env(kind, single=single(kind.env_id), modes=[mode], num_envs=N)


def test_c9_unbroken_ones_pass():
    for kind in (Rendering, Masked):
        check_vector_env(kind, modes=[NEXT], num_envs=N)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_c9_infos_that_come_and_go_are_not_stable(mode):
    check_vector_env(sync(TOY), modes=[mode])
    with pytest.raises(ConformanceError, match=r"^\[stable-infos\] Expected"):
        check_vector_env(sync(TOY), modes=[mode], stable_infos=True)


def test_documented_views_pass():
    check_vector_env(OwnBuffer, single=single(CARTPOLE), copy=False)


def test_unusable_arguments_are_reported():
    with pytest.raises(ConfigurationError, match="Pass more steps"):
        check_vector_env(Good, steps=3)
    with pytest.raises(ConfigurationError, match="Pass 3"):
        check_vector_env(Good, num_envs=1)
