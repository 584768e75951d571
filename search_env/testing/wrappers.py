"""Check that a Gymnasium wrapper preserves the contract of this package's environments."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

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
    named,
    no_warnings,
    plain,
    require,
    require_repeatable_close,
    require_same,
)

Environment = gym.Env[Any, Any]
Make = Callable[[Environment], Environment]
Script = Callable[[Environment], Iterable[Any]]

_DIFFERS = "is different from the unwrapped version"  # check_env warns of any wrapper


class _Probe(gym.Wrapper[Any, Any, Any, Any]):
    """Counts the calls of ``close`` and keeps the frames that pass through."""

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


class _Result(NamedTuple):
    """Result of ``reset`` or ``step``, and a deep copy made at once."""

    live: tuple[Any, ...]
    copied: tuple[Any, ...]


def check_wrapper(
    make: Make,
    *,
    env_id: str = "SearchQA-Toy-v0",
    script: Script | None = None,
    steps: int = 120,
    seed: int = 0,
    picklable: bool = False,
) -> None:
    """Check that a wrapper keeps the environment's contract; it may change the spaces.

    Rules, by the name that an error begins with: ``wrapper``, ``spec`` (survives JSON and rebuilds
    the same stack), ``check-env`` (Gymnasium's checker, without a warning), ``attributes`` (inner
    ones reachable by ``get_wrapper_attr``), ``seed`` (passed on; unseeded resets continue the
    random sequence), ``options`` (passed on), ``deterministic`` (including infos), ``step`` (types
    of a step's results), ``info-types`` (the number type of a key never changes: arrays of vector
    environments take the first one), ``fresh`` (results do not change later), ``render``,
    ``close``, ``statistics`` (``RecordEpisodeStatistics`` works around it) and, on request,
    ``picklable``.

    Args:
        make: Takes an environment and returns it wrapped; called several times.
        env_id: Environment to wrap. Gymnasium's checker expects equal infos after equal seeds: for
            a wrapper that counts episodes choose one that a single random action does not end,
            such as ``"SearchQA-v0"``.
        script: Yields the actions of an episode for an environment just reset; used in every
            second episode, with random actions otherwise and after it. None: search and answer
            where actions are token ids, else random actions only.
        steps: Number of steps in each run.
        seed: Seed of the runs.
        picklable: Whether the wrapped environment must survive pickling and continue equally.

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


def _check_identity(make: Make, env_id: str) -> None:
    inner = gym.make(env_id)
    outer = make(inner)
    fits = isinstance(outer, gym.Env) and outer is not inner and outer.unwrapped is inner.unwrapped
    expected = "make(env) to return a gymnasium.Wrapper around env"
    advice = "Derive from gymnasium.Wrapper and call its __init__."
    require(fits, "wrapper", expected, f"{outer!r:.200}", advice)
    advice = "Do not override get_wrapper_attr or define the name."
    for name in ("questions", "tokenizer", "protocol", "retriever"):
        value = None
        with contextlib.suppress(AttributeError):
            value = outer.get_wrapper_attr(name)
        expected = f"get_wrapper_attr({name!r}) to return the environment's own"
        same = value is getattr(inner.unwrapped, name)
        require(same, "attributes", expected, f"{value!r:.80}", advice)


def _check_spec(env: Environment, seed: int) -> None:
    advice = (
        "Derive from gymnasium.utils.RecordConstructorArgs before gymnasium.Wrapper, call its "
        "__init__ first with the constructor's arguments, and take only JSON values."
    )
    try:
        spec = env.spec
        text = "" if spec is None else spec.to_json()
        again = gym.make(EnvSpec.from_json(text))
    except Exception as error:  # Gymnasium raises many types here
        raise broken("spec", "env.spec to survive JSON", repr(error), advice) from error
    rebuilt = "" if again.spec is None else again.spec.to_json()  # a tuple may become a list
    require(rebuilt == text, "spec", f"the same spec again, {text}", rebuilt, advice)
    stacks = [_stack(env), _stack(again)]
    require(stacks[0] == stacks[1], "spec", f"the stack {stacks[0]}", stacks[1], advice)
    expected = "the rebuilt environment to reset to the same"
    require_same(env.reset(seed=seed), again.reset(seed=seed), "spec", expected, advice)


def _stack(env: Environment) -> list[str]:
    """Return the class names from outside in, without the time limit, whose place may change."""
    names = [] if isinstance(env, TimeLimit) else [type(env).__name__]
    return names + _stack(env.env) if isinstance(env, gym.Wrapper) else names


def _check_gymnasium(env: Environment) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it also renders to the terminal
            check_env(env)
    except Exception as error:  # its assertions, and any error of the wrapper
        expected = "gymnasium.utils.env_checker.check_env to pass"
        got, advice = f"{type(error).__name__}: {error}", "Run it on the wrapped environment."
        raise broken("check-env", expected, got, advice) from error


def _check_reset(env: Environment, seed: int) -> None:
    advice = "Pass seed and options on to self.env.reset(seed=seed, options=options)."
    env.reset(seed=seed)
    number = env.unwrapped.np_random_seed
    require(number == seed, "seed", f"reset(seed={seed}) to seed the environment", number, advice)
    bare = bare_env(env)
    questions = {_question_after_reset(env) for _ in range(8)}
    got = f"{min(questions)!r} eight times"
    expected, remedy = "unseeded resets to continue drawing questions", "Do not default a seed."
    require(len(questions) > 1, "seed", expected, got, remedy)
    for index in (1, 0):
        got, expected = _question_after_reset(env, {"index": index}), bare.questions[index].id
        require(got == expected, "options", f"{expected!r} from {index=}", got, advice)


def _question_after_reset(env: Environment, options: dict[str, Any] | None = None) -> str:
    env.reset(options=options)
    return bare_env(env).transcript().question.id


def _check_runs(wrapped: Callable[..., Environment], play: Script, steps: int, seed: int) -> None:
    one, two = (list(_run(wrapped(), play, steps, seed)) for _ in "ab")
    if not any(len(r.copied) == 5 and (r.copied[2] or r.copied[3]) for r in one):
        raise ConfigurationError(
            f"Expected an episode to end within {steps} steps, got none. Pass more steps, or a "
            "script that answers."
        )
    kinds: dict[str, type] = {}
    for number, (a, b) in enumerate(zip(one, two, strict=True)):
        expected = f"two runs with seed {seed} and the same actions to agree"
        advice = "Draw from np_random only; keep wall-clock times out of infos."
        where = f"in call {number} "
        require_same(named(a.copied), named(b.copied), "deterministic", expected, advice, where)
        expected = f"the result of call {number} to stay unchanged"
        advice = "Return new arrays and dicts from every call."
        require_same(named(a.live), named(a.copied), "fresh", expected, advice, "later ")
        _check_types(a.copied, kinds)


def _check_types(result: tuple[Any, ...], kinds: dict[str, type]) -> None:
    if len(result) == 5:
        _, reward, terminated, truncated, _ = result
        number = isinstance(reward, int | float | np.number) and not isinstance(reward, bool)
        fits = number and type(terminated) is bool and type(truncated) is bool
        expected = "a number as reward and bool as terminated and truncated"
        got = [type(part).__name__ for part in result[1:4]]
        require(fits, "step", expected, got, "Convert with float() and bool().")
    for key, value in result[-1].items():
        kind = type(plain(value))
        if kind in (int, float, bool):
            first = kinds.setdefault(key, kind)
            expected = f"info[{key!r}] always to be {first.__name__}"
            advice = "Convert it every time: arrays of vector environments keep the first type."
            require(first is kind, "info-types", expected, f"{value!r}, a {kind.__name__}", advice)


def _run(env: Environment, play: Script, steps: int, seed: int) -> Iterator[_Result]:
    """Yield the results of ``steps`` steps and of the resets between their episodes."""
    env.action_space.seed(seed)
    yield _with_copy(env.reset(seed=seed))
    episodes, script = itertools.count(1), iter(play(env))
    for _ in range(steps):
        action = next(script, None)
        result = env.step(env.action_space.sample() if action is None else action)
        yield _with_copy(result)
        if result[2] or result[3]:
            yield _with_copy(env.reset())
            script = iter(() if next(episodes) % 2 else play(env))


def _with_copy(result: tuple[Any, ...]) -> _Result:
    return _Result(result, copy.deepcopy(result))


def _search_and_answer(env: Environment) -> Iterator[int]:
    """Search for each annotated hop and give the gold answer, where actions are token ids."""
    bare = bare_env(env)
    if env.action_space != bare.action_space:
        return
    question = bare.transcript().question
    for hop in question.hops:
        yield from bare.tokenizer.encode(query_text(bare.protocol, hop.query)).tolist()
    thoughts = open_thoughts(bare.transcript())
    answer = answer_text(bare.protocol, question.answers[0], thoughts=thoughts)
    yield from bare.tokenizer.encode(answer).tolist()


def _check_render_and_close(make: Make, env_id: str, seed: int) -> None:
    probe = _Probe(gym.make(env_id, render_mode="ansi"))
    env = make(probe)
    env.reset(seed=seed)
    frame = env.render()
    fits = env.render_mode == "ansi" and isinstance(frame, str) and len(probe.frames) == 1
    expected = "render() to render the environment once, in its render mode"
    got = f"mode {env.render_mode!r}, {len(probe.frames)} frames, {type(frame).__name__}"
    require(fits, "render", expected, got, "Return self.env.render(), changed or not.")
    require_repeatable_close(env.close)
    expected, advice = "the environment to be closed", "Call self.env.close()."
    require(probe.closed >= 1, "close", expected, "no call", advice)


def _check_statistics(env: Environment, play: Script, steps: int, seed: int) -> None:
    """Run inside Gymnasium's own statistics, which most trainers put around an environment."""
    try:
        list(_run(RecordEpisodeStatistics(env), play, steps, seed))
    except Exception as error:  # it asserts that its key is free, and sums rewards
        expected = "RecordEpisodeStatistics to work around the wrapper"
        advice = "Return a new info from every step, without the key 'episode'."
        raise broken("statistics", expected, repr(error), advice) from error


def _check_pickle(env: Environment, seed: int) -> None:
    env.reset(seed=seed)
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(40)]
    _continue(env, actions[:3])
    try:
        twin = pickle.loads(pickle.dumps(env))
    except Exception as error:  # pickle may raise anything
        raise broken("picklable", "pickling", repr(error), "Keep only picklable state.") from error
    results = [_continue(each, actions) for each in (twin, env)]
    expected = "a copy that continues equally"
    require_same(results[0], results[1], "picklable", expected, "Pickle the whole state.")


def _continue(env: Environment, actions: list[Any]) -> list[Any]:
    results: list[Any] = []
    for action in actions:
        results.append(env.step(action))
        if results[-1][2] or results[-1][3]:
            results.append(env.reset())
    return results
