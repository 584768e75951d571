"""What a Gymnasium wrapper must leave intact, checked around an environment of this package."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

from search_env.envs.search_qa import bare_env
from search_env.errors import ConfigurationError
from search_env.protocols.grammar import open_thoughts
from search_env.protocols.tagged_text import answer_text, query_text
from search_env.testing.base import (
    broken,
    first_difference,
    named,
    no_warnings,
    plain,
    require,
)

Environment = gym.Env[Any, Any]
Script = Callable[[Environment], Iterable[Any]]

_INNER = ("questions", "tokenizer", "protocol", "retriever")
_DIFFERS = "is different from the unwrapped version"  # check_env warns of any wrapper


class _Probe(gym.Wrapper[Any, Any, Any, Any]):
    """Stands between wrapper and environment and remembers what came through."""

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        self.closed = 0
        self.frames: list[Any] = []

    def close(self) -> None:
        self.closed += 1
        super().close()

    def render(self) -> Any:
        self.frames.append(super().render())
        return self.frames[-1]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What came back from one call: ``(observation, info)`` or a step's five; and a copy."""

    live: tuple[Any, ...]
    kept: tuple[Any, ...]


def check_wrapper(
    make: Callable[[Environment], Environment],
    *,
    env_id: str = "SearchQA-Toy-v0",
    script: Script | None = None,
    steps: int = 120,
    seed: int = 0,
    picklable: bool = False,
) -> None:
    """Check that a wrapper leaves the environment's contract intact; spaces it may change.

    Rules, by the name that an error begins with: ``wrapper``, ``spec`` (survives JSON and rebuilds
    the same stack), ``check-env`` (Gymnasium's checker, without a warning), ``attributes`` (inner
    ones reachable by ``get_wrapper_attr``), ``seed`` (passed on; unseeded resets go on),
    ``options`` (passed on), ``deterministic`` (infos included), ``step`` (types of what a step
    returns), ``info-types`` (a key's number type never changes: arrays of vector environments take
    the first one), ``fresh`` (nothing returned is changed later), ``render``, ``close``,
    ``statistics`` (``RecordEpisodeStatistics`` works around it) and, on request, ``picklable``.

    Args:
        make: Takes an environment and returns it wrapped; called several times.
        env_id: Which environment to wrap. Gymnasium's checker expects equal infos after equal
            seeds, so for a wrapper that counts episodes take one that a single random action does
            not end, such as ``"SearchQA-v0"``.
        script: Yields an episode's actions for an environment just reset; played in every second
            episode, random actions otherwise and after it. None: search and answer where actions
            are token ids, else random actions only.
        steps: Steps of each run.
        seed: Seeds the runs.
        picklable: Whether the wrapped environment must survive pickling and go on the same.

    Raises:
        ConformanceError: A rule is broken.
        ConfigurationError: No episode ended within ``steps``.

    Example:
        >>> from gymnasium.wrappers import TimeLimit
        >>> check_wrapper(lambda env: TimeLimit(env, 50))
    """
    play = script or _search_and_answer

    def wrapped(**arguments: Any) -> Environment:
        return make(gym.make(env_id, **arguments))

    with no_warnings("check-env", except_for=_DIFFERS):
        _check_identity(make, env_id)
        _check_reset(wrapped(), seed)
        _check_spec(wrapped(), seed)
        _check_gymnasium(wrapped())
        _check_runs(wrapped, play, steps, seed)
        _check_render_and_close(make, env_id, seed)
        _check_statistics(wrapped(), play, steps, seed)
        if picklable:
            _check_pickle(wrapped(), seed)


def _check_identity(make: Callable[[Environment], Environment], env_id: str) -> None:
    inner = gym.make(env_id)
    outer = make(inner)
    require(
        isinstance(outer, gym.Env) and outer is not inner and outer.unwrapped is inner.unwrapped,
        "wrapper",
        "make(env) to return a gymnasium.Wrapper around env",
        f"{outer!r:.200}",
        "Derive from gymnasium.Wrapper and call its __init__.",
    )
    for name in _INNER:
        try:
            found = outer.get_wrapper_attr(name)
        except AttributeError:
            found = None
        require(
            found is getattr(inner.unwrapped, name),
            "attributes",
            f"get_wrapper_attr({name!r}) to give the environment's own",
            f"{found!r:.80}",
            "Leave get_wrapper_attr alone and the name free.",
        )


def _check_spec(env: Environment, seed: int) -> None:
    advice = (
        "Derive from gymnasium.utils.RecordConstructorArgs before gymnasium.Wrapper, call its "
        "__init__ first with the constructor's arguments, and take only JSON values."
    )
    try:
        spec = env.spec
        text = "" if spec is None else spec.to_json()
        again = gym.make(EnvSpec.from_json(text))
    except Exception as error:  # Gymnasium raises many kinds here
        raise broken("spec", "env.spec to survive JSON", repr(error), advice) from error
    told = "" if again.spec is None else again.spec.to_json()  # a tuple may come back as a list
    require(told == text, "spec", f"the same spec again, {text}", told, advice)
    stacks = [_stack(env), _stack(again)]
    require(stacks[0] == stacks[1], "spec", f"the stack {stacks[0]}", stacks[1], advice)
    difference = first_difference(env.reset(seed=seed), again.reset(seed=seed))
    require(not difference, "spec", "the rebuilt environment to reset alike", difference, advice)


def _stack(env: Environment) -> list[str]:
    """Return the names from outside in; a time limit has its own place in a rebuilt stack."""
    names = [type(env).__name__]
    while isinstance(env, gym.Wrapper):
        env = env.env
        names.append(type(env).__name__)
    return [name for name in names if name != TimeLimit.__name__]


def _check_gymnasium(env: Environment) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it also renders for people
            check_env(env)
    except Exception as error:  # its assertions, and what the wrapper raises under it
        raise broken(
            "check-env",
            "gymnasium.utils.env_checker.check_env to pass",
            f"{type(error).__name__}: {error}",
            "Run it on the wrapped environment.",
        ) from error


def _check_reset(env: Environment, seed: int) -> None:
    advice = "Pass seed and options on to self.env.reset(seed=seed, options=options)."
    env.reset(seed=seed)
    got = env.unwrapped.np_random_seed
    require(got == seed, "seed", f"reset(seed={seed}) to seed the environment", got, advice)
    bare = bare_env(env)
    questions = {_asked_after_reset(env) for _ in range(8)}
    require(
        len(questions) > 1,
        "seed",
        "unseeded resets to go on drawing questions",
        f"{questions.pop()!r} eight times",
        "Do not default a seed.",
    )
    for index in (1, 0):
        env.reset(options={"index": index})
        asked, wanted = bare.transcript().question.id, bare.questions[index].id
        require(asked == wanted, "options", f"{wanted!r} from index={index}", asked, advice)


def _asked_after_reset(env: Environment) -> str:
    env.reset()
    return bare_env(env).transcript().question.id


def _check_runs(wrapped: Callable[..., Environment], play: Script, steps: int, seed: int) -> None:
    one, two = (list(_run(wrapped(), play, steps, seed)) for _ in "ab")
    if not any(len(seen.kept) == 5 and (seen.kept[2] or seen.kept[3]) for seen in one):
        raise ConfigurationError(
            f"Expected an episode to end within {steps} steps, got none. Pass more steps, or a "
            "script that answers."
        )
    kinds: dict[str, type] = {}
    for number, (a, b) in enumerate(zip(one, two, strict=True)):
        difference = first_difference(named(a.kept), named(b.kept))
        require(
            not difference,
            "deterministic",
            f"two runs with seed {seed} and the same actions to agree",
            f"in call {number} {difference}",
            "Draw from np_random only; keep clocks out of infos.",
        )
        difference = first_difference(named(a.live), named(a.kept))
        require(
            not difference,
            "fresh",
            f"what call {number} returned to stay as it was",
            f"later {difference}",
            "Return new arrays and dicts from every call.",
        )
        _check_types(a.kept, kinds)


def _check_types(seen: tuple[Any, ...], kinds: dict[str, type]) -> None:
    if len(seen) == 5:
        _, reward, terminated, truncated, _ = seen
        number = isinstance(reward, int | float | np.number) and not isinstance(reward, bool)
        require(
            number and type(terminated) is bool and type(truncated) is bool,
            "step",
            "a number as reward and bool as terminated and truncated",
            [type(part).__name__ for part in seen[1:4]],
            "Convert with float() and bool().",
        )
    for key, value in seen[-1].items():
        kind = type(plain(value))
        if kind in (int, float, bool):
            require(
                kinds.setdefault(key, kind) is kind,
                "info-types",
                f"info[{key!r}] always to be {kinds[key].__name__}",
                f"{value!r}, a {kind.__name__}",
                "Convert it always: arrays of vector environments keep the first type.",
            )


def _run(env: Environment, play: Script, steps: int, seed: int) -> Iterator[_Seen]:
    """Yield what ``steps`` steps and the resets between their episodes return."""
    env.action_space.seed(seed)
    yield _seen(env.reset(seed=seed))
    episodes = itertools.count(1)
    script = iter(play(env))
    for _ in range(steps):
        action = next(script, None)
        result = env.step(env.action_space.sample() if action is None else action)
        yield _seen(result)
        if result[2] or result[3]:
            yield _seen(env.reset())
            script = iter(() if next(episodes) % 2 else play(env))


def _seen(result: tuple[Any, ...]) -> _Seen:
    return _Seen(result, copy.deepcopy(result))


def _search_and_answer(env: Environment) -> Iterator[int]:
    """Search for each known hop and give the gold answer, where actions are token ids."""
    bare = bare_env(env)
    if env.action_space != bare.action_space:
        return
    question = bare.transcript().question
    for hop in question.hops:
        yield from bare.tokenizer.encode(query_text(bare.protocol, hop.query)).tolist()
    thoughts = open_thoughts(bare.transcript())
    answer = answer_text(bare.protocol, question.answers[0], thoughts=thoughts)
    yield from bare.tokenizer.encode(answer).tolist()


def _check_render_and_close(
    make: Callable[[Environment], Environment], env_id: str, seed: int
) -> None:
    probe = _Probe(gym.make(env_id, render_mode="ansi"))
    env = make(probe)
    env.reset(seed=seed)
    frame = env.render()
    require(
        env.render_mode == "ansi" and isinstance(frame, str) and len(probe.frames) == 1,
        "render",
        "render() to draw the environment once, in its render mode",
        f"mode {env.render_mode!r}, {len(probe.frames)} frames, {type(frame).__name__}",
        "Return self.env.render(), changed or not.",
    )
    try:
        env.close()
        env.close()
    except Exception as error:  # whatever the wrapper raises
        raise broken("close", "close() twice", repr(error), "Let close() be repeated.") from error
    require(
        probe.closed >= 1,
        "close",
        "the environment to be closed",
        "no call",
        "Call self.env.close().",
    )


def _check_statistics(env: Environment, play: Script, steps: int, seed: int) -> None:
    """Play inside Gymnasium's own statistics, which every trainer puts around an environment."""
    try:
        for _ in _run(RecordEpisodeStatistics(env), play, steps, seed):
            pass
    except Exception as error:  # it asserts that its key is free, and adds rewards up
        raise broken(
            "statistics",
            "RecordEpisodeStatistics to work around the wrapper",
            repr(error),
            "Return a new info from every step, without the key 'episode'.",
        ) from error


def _check_pickle(env: Environment, seed: int) -> None:
    env.reset(seed=seed)
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(40)]
    _go_on(env, actions[:3])
    try:
        twin = pickle.loads(pickle.dumps(env))
    except Exception as error:  # pickle promises no type of error
        raise broken("picklable", "pickling", repr(error), "Keep only picklable state.") from error
    difference = first_difference(_go_on(twin, actions), _go_on(env, actions))
    require(not difference, "picklable", "a copy that goes on alike", difference, "Keep all state.")


def _go_on(env: Environment, actions: list[Any]) -> list[Any]:
    results: list[Any] = []
    for action in actions:
        results.append(env.step(action))
        if results[-1][2] or results[-1][3]:
            results.append(env.reset())
    return results
