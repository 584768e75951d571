"""check_vector_env: Gymnasium's and ours pass, and each rule fails for one that breaks it alone."""

from __future__ import annotations

import copy
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


def single(env_id: str):
    return lambda: gym.make(env_id)


def sync(env_id: str):
    def make(num_envs, autoreset_mode):
        arguments = {"autoreset_mode": autoreset_mode}
        return gym.make_vec(env_id, num_envs, vectorization_mode="sync", vector_kwargs=arguments)

    return make


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
        self.metadata["autoreset_mode"] = autoreset_mode
        self.made()

    def made(self):
        pass

    def step(self, actions):
        return self.changed(*super().step(actions))

    def changed(self, *result):
        return result


class GoodToy(Good):
    env_id = TOY


# Attributes.


class WrongCount(Good):
    def made(self):
        self.num_envs = 2


class SingleObservationSpace(Good):
    def made(self):
        self.observation_space = self.single_observation_space


class AnotherActionSpace(Good):
    def made(self):
        self.action_space = gym.spaces.MultiDiscrete([3] * self.num_envs)


class SpecIsText(Good):
    def made(self):
        self.spec = "CartPole-v1"


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


class ListOfRewards(Good):
    def changed(self, observations, rewards, *rest):
        return observations, rewards.tolist(), *rest


class IntegerRewards(Good):
    def changed(self, observations, rewards, *rest):
        return observations, rewards.astype(np.int64), *rest


class RewardsInAColumn(Good):
    def changed(self, observations, rewards, *rest):
        return observations, rewards[:, None], *rest


class IntegerFlags(Good):
    def changed(self, observations, rewards, terminations, *rest):
        return observations, rewards, terminations.astype(np.int8), *rest


class WideObservations(Good):
    def changed(self, observations, *rest):
        return observations.astype(np.float64), *rest


class OutsideTheSpace(Good):
    def changed(self, observations, *rest):
        return observations + np.float32(100), *rest


class LostKey(GoodToy):
    def changed(self, observations, *rest):
        return {key: observations[key] for key in ("length", "tokens")}, *rest


class InfosAsList(Good):
    def changed(self, *result):
        return *result[:-1], [{}] * self.num_envs


class WithInfo(Good):
    """Adds to the infos."""

    def __init__(self, num_envs, autoreset_mode):
        self.count = itertools.count()
        super().__init__(num_envs, autoreset_mode)

    def changed(self, *result):
        return *result[:-1], {**result[-1], **self.added(self.num_envs, next(self.count))}

    def added(self, n, count):
        return {}


class NoMask(WithInfo):
    def added(self, n, count):
        return {"speed": np.zeros(n)}


class MaskOnly(WithInfo):
    def added(self, n, count):
        return {"_speed": np.ones(n, np.bool_)}


class MaskIsList(WithInfo):
    def added(self, n, count):
        return {"speed": np.zeros(n), "_speed": [True] * n}


class MaskIsInteger(WithInfo):
    def added(self, n, count):
        return {"speed": np.zeros(n), "_speed": np.ones(n, np.int8)}


class ValuesAreList(WithInfo):
    def added(self, n, count):
        return {"speed": [0.0] * n, "_speed": np.ones(n, np.bool_)}


class NestedWithoutMask(WithInfo):
    def added(self, n, count):
        return {"inner": {"speed": np.zeros(n)}, "_inner": np.ones(n, np.bool_)}


class IntegerThenFloat(WithInfo):
    def added(self, n, count):
        kind = np.float64 if count % 2 else np.int64
        return {"speed": np.ones(n, kind), "_speed": np.ones(n, np.bool_)}


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


class PaysForTheReset(Good):
    def changed(self, observations, rewards, *rest):
        return observations, np.ones_like(rewards), *rest


class NoFinalInfo(GoodToy):
    def changed(self, *result):
        infos = {k: v for k, v in result[-1].items() if k not in ("final_info", "_final_info")}
        return *result[:-1], infos


class FinalObservationsForAll(Good):
    def changed(self, *result):
        infos = dict(result[-1])
        if "final_obs" in infos:
            infos["_final_obs"] = np.ones(self.num_envs, np.bool_)
        return *result[:-1], infos


class FinalObservationsAreNone(Good):
    def changed(self, *result):
        infos = dict(result[-1])
        if "final_obs" in infos:
            infos["final_obs"] = np.full(self.num_envs, None, object)
        return *result[:-1], infos


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


class OwnCounter(WithInfo):
    made_so_far = itertools.count()

    def made(self):
        self.number = next(self.made_so_far)

    def added(self, n, count):
        return {"number": np.full(n, self.number), "_number": np.ones(n, np.bool_)}


class UnseededNoise(Good):
    def changed(self, observations, rewards, *rest):
        return observations, rewards + np.random.default_rng().random(self.num_envs), *rest


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


class HalfTheReward(Good):
    def changed(self, observations, rewards, *rest):
        return observations, rewards / 2, *rest


class RowsMixed(Good):
    def step(self, actions):
        return super().step(actions[::-1])


class F1AsInteger(GoodToy):
    """0.5 would become 0 in an integer array; here 1.0 becomes 1."""

    def changed(self, *result):
        infos = copy.copy(result[-1])
        if "f1" in infos:
            infos["f1"] = infos["f1"].astype(np.int64)
        return *result[:-1], infos


class DropsAnInfo(GoodToy):
    def changed(self, *result):
        infos = {k: v for k, v in result[-1].items() if k not in ("valid", "_valid")}
        return *result[:-1], infos


BROKEN = [
    (WrongCount, NEXT, "attributes"),
    (SingleObservationSpace, NEXT, "attributes"),
    (AnotherActionSpace, NEXT, "attributes"),
    (SpecIsText, NEXT, "attributes"),
    (BornClosed, NEXT, "attributes"),
    (ModeIsText, NEXT, "metadata"),
    (NoMode, NEXT, "metadata"),
    (SharedMetadata, NEXT, "metadata"),
    (Warns, NEXT, "warnings"),
    (FourOfFive, NEXT, "arrays"),
    (ListOfRewards, NEXT, "arrays"),
    (IntegerRewards, NEXT, "arrays"),
    (RewardsInAColumn, NEXT, "arrays"),
    (IntegerFlags, NEXT, "arrays"),
    (WideObservations, NEXT, "arrays"),
    (OutsideTheSpace, NEXT, "arrays"),
    (LostKey, NEXT, "arrays"),
    (InfosAsList, NEXT, "infos"),
    (NoMask, NEXT, "infos"),
    (MaskOnly, NEXT, "infos"),
    (MaskIsList, NEXT, "infos"),
    (MaskIsInteger, NEXT, "infos"),
    (ValuesAreList, NEXT, "infos"),
    (NestedWithoutMask, NEXT, "infos"),
    (IntegerThenFloat, NEXT, "info-types"),
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
    (PaysForTheReset, NEXT, "next-step"),
    (SaysSameDoesNext, SAME, "same-step"),
    (NoFinalInfo, SAME, "same-step"),
    (FinalObservationsForAll, SAME, "same-step"),
    (FinalObservationsAreNone, SAME, "same-step"),
    (SaysNextDoesSame, DISABLED, "disabled"),
    (StepsOnAfterTheEnd, DISABLED, "disabled"),
    (ClipsActions, NEXT, "actions"),
    (RepeatsActions, NEXT, "actions"),
    (OwnCounter, NEXT, "deterministic"),
    (UnseededNoise, SAME, "deterministic"),
    (OwnBuffer, NEXT, "fresh"),
    (OneRewardArray, SAME, "fresh"),
    (ClosesOnce, NEXT, "close"),
    (NeverClosed, NEXT, "close"),
    (HalfTheReward, NEXT, "single"),
    (RowsMixed, SAME, "single"),
    (F1AsInteger, NEXT, "single"),
    (DropsAnInfo, DISABLED, "single"),
]


@pytest.mark.parametrize(
    ("kind", "mode", "rule"), BROKEN, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_each_rule_can_break(kind, mode, rule):
    with pytest.raises(ConformanceError, match=rf"^\[{rule}\] Expected (.|\n)+, got "):
        check_vector_env(kind, single=single(kind.env_id), modes=[mode])


def test_documented_views_pass():
    check_vector_env(OwnBuffer, single=single(CARTPOLE), copy=False)


def test_unusable_arguments_are_reported():
    with pytest.raises(ConfigurationError, match="Pass more steps"):
        check_vector_env(Good, steps=3)
    with pytest.raises(ConfigurationError, match="Pass 3"):
        check_vector_env(Good, num_envs=1)
