"""check_wrapper: valid wrappers pass, and each rule fails for one that breaks it alone."""

from __future__ import annotations

import itertools
import threading
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import (
    ClipReward,
    FlattenObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformReward,
)

from search_env.errors import ConfigurationError, ConformanceError
from search_env.testing import check_wrapper

# All at module level: a spec refers to a wrapper by its module and name.


class Plain(gym.Wrapper, RecordConstructorArgs):
    """Changes nothing; each broken one changes one thing."""

    def __init__(self, env):
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        self.steps += 1
        return self.changed(*self.env.step(action))

    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("make", "picklable"),
    [
        (Plain, True),
        (NormalizeReward, True),
        (lambda env: TimeLimit(env, 9), True),
        (lambda env: TimeLimit(Plain(env), 9), True),
        (FlattenObservation, False),  # these two of Gymnasium's hold lambdas
        (lambda env: ClipReward(env, 0, 0.5), False),
    ],
)
def test_valid_ones_pass(make, picklable):
    check_wrapper(make, picklable=picklable)


def test_tuples_may_become_lists():
    check_wrapper(TakesNames)


def test_other_environments_and_scripts():
    def script(env):
        yield from env.unwrapped.tokenizer.encode("<q>key1 </q><a>value2 </a>").tolist()

    check_wrapper(Plain, env_id="SearchQA-MustNotSearch-v0", script=script)


def test_wall_clock_time_in_infos_is_noticed():
    """``info["episode"]["t"]`` is wall-clock time, so an environment must not carry it inside."""
    with pytest.raises(ConformanceError, match=r"^\[(check-env|deterministic)\]"):
        check_wrapper(RecordEpisodeStatistics)


class ShadowsQuestions(Plain):
    questions = ()


class HidesTheRest(Plain):
    def get_wrapper_attr(self, name):
        raise AttributeError(name)


class NotRecorded(gym.Wrapper):
    def __init__(self, env, weight):
        super().__init__(env)


class RecordsAnotherArgument(Plain):
    """Rebuilt, it has the weight of its default."""

    def __init__(self, env, weight=0):
        super().__init__(env)
        self.weight = weight

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "weight": self.weight}


class RecordsACount(Plain):
    """Records another argument each time it is made."""

    made = itertools.count()

    def __init__(self, env, number=None):
        RecordConstructorArgs.__init__(self, number=next(self.made))
        gym.Wrapper.__init__(self, env)
        self.steps = 0


class TakesNames(Plain):
    """A tuple comes back from JSON as a list, which is valid."""

    def __init__(self, env, names=("a", "b")):
        RecordConstructorArgs.__init__(self, names=names)
        gym.Wrapper.__init__(self, env)
        self.steps = 0


class HalfTheTokens(gym.ObservationWrapper, RecordConstructorArgs):
    """Does not declare the space that it changes."""

    def __init__(self, env):
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)

    def observation(self, observation):
        return {**observation, "tokens": observation["tokens"][:8]}


class OneBuffer(Plain):
    """Returns the same array each time."""

    def __init__(self, env):
        super().__init__(env)
        self.buffer = np.zeros(16, np.int32)

    def changed(self, observation, *rest):
        self.buffer[:] = observation["tokens"]
        return {**observation, "tokens": self.buffer}, *rest


class OldStyleSeed(Plain):
    def seed(self, seed=None):
        return None


class SwallowsTheSeed(Plain):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(options=options)


class AnotherSeed(Plain):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=None if seed is None else seed + 1, options=options)


class DefaultSeed(Plain):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=5 if seed is None else seed, options=options)


class SwallowsOptions(Plain):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed)


class NumpyFlags(Plain):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, np.bool_(terminated), truncated, info


class HalfAtTheEnd(Plain):
    def changed(self, observation, reward, terminated, truncated, info):
        info = {**info, "bonus": 0.5 if terminated else 0}
        return observation, reward, terminated, truncated, info


class CountsForEver(Plain):
    """Distinguishes two environments after more steps than check_env takes."""

    made = itertools.count()

    def __init__(self, env):
        super().__init__(env)
        self.number = next(self.made)

    def changed(self, observation, reward, terminated, truncated, info):
        if self.steps > 4:
            info = {**info, "number": self.number}
        return observation, reward, terminated, truncated, info


class TwoBuffers(Plain):
    """A ring with more buffers than check_env takes steps."""

    def __init__(self, env):
        super().__init__(env)
        self.ring = itertools.cycle([np.zeros(16, np.int32) for _ in range(9)])

    def changed(self, observation, *rest):
        buffer = next(self.ring)
        buffer[:] = observation["tokens"]
        return {**observation, "tokens": buffer}, *rest


class InfoGrowsLater(Plain):
    """Changes an info after it was returned."""

    last: dict | None = None

    def changed(self, observation, reward, terminated, truncated, info):
        if self.last is not None and self.steps > 4:
            self.last["next_reward"] = reward
        self.last = info
        return observation, reward, terminated, truncated, info


class RendersNothing(Plain):
    def render(self):
        return None


class RendersTwice(Plain):
    def render(self):
        self.env.render()
        return self.env.render()


class ClosesOnce(Plain):
    closed = False

    def close(self):
        if self.closed:
            raise RuntimeError("closed")
        self.closed = True
        self.env.close()


class NeverCloses(Plain):
    def close(self):
        pass


class TakesTheKey(Plain):
    def changed(self, observation, reward, terminated, truncated, info):
        if terminated or truncated:
            info = {**info, "episode": {"r": reward}}
        return observation, reward, terminated, truncated, info


class Locked(Plain):
    def __init__(self, env):
        super().__init__(env)
        self.lock = threading.Lock()


class ForgetsItsSteps(Plain):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated, truncated, {**info, "steps": self.steps}

    def __getstate__(self):
        return {**self.__dict__, "steps": 0}


class Warns(Plain):
    def changed(self, *result):
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        return result


BROKEN = [
    (lambda env: env, "wrapper"),
    (lambda env: gym.make("SearchQA-Toy-v0"), "wrapper"),
    (ShadowsQuestions, "attributes"),
    (HidesTheRest, "attributes"),
    (lambda env: NotRecorded(env, 2), "spec"),
    (lambda env: TransformReward(env, lambda reward: reward), "spec"),
    (lambda env: RecordsAnotherArgument(env, weight=3), "spec"),
    (RecordsACount, "spec"),
    (HalfTheTokens, "check-env"),
    (OneBuffer, "fresh"),
    (OldStyleSeed, "check-env"),
    (SwallowsTheSeed, "seed"),
    (Warns, "check-env"),
    (AnotherSeed, "seed"),
    (DefaultSeed, "seed"),
    (SwallowsOptions, "options"),
    (NumpyFlags, "step"),
    (HalfAtTheEnd, "info-types"),
    (CountsForEver, "deterministic"),
    (TwoBuffers, "fresh"),
    (InfoGrowsLater, "fresh"),
    (RendersNothing, "render"),
    (RendersTwice, "render"),
    (ClosesOnce, "close"),
    (NeverCloses, "close"),
    (TakesTheKey, "statistics"),
    (Locked, "picklable"),
    (ForgetsItsSteps, "picklable"),
]


@pytest.mark.parametrize(("make", "rule"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_each_rule_can_break(make, rule):
    with pytest.raises(ConformanceError, match=rf"^\[{rule}\] Expected (.|\n)+, got "):
        check_wrapper(make, picklable=rule == "picklable")


def test_a_run_without_a_finished_episode_is_refused():
    with pytest.raises(ConfigurationError, match="Pass more steps"):
        check_wrapper(Plain, steps=3)
