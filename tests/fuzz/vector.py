"""The vector environment against single ones, row by row."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from search_env.envs.search_qa import SearchQAEnv
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import EpisodeOverError, InvalidActionError
from search_env.rewards import GroupReward, get_reward
from search_env.testing.runs import Row, row_of
from search_env.types import Transcript
from search_env.wrappers import VectorStagedReward, VectorTokenWindow
from tests.fuzz.checks import Budget, caught, close_twice, copied, require_same, without_messages
from tests.fuzz.draw import TAME, Drawn
from tests.fuzz.policy import Writer

_GROUP_KEYS = ("group", "complete_group", "group_reward", "group_reward_parts")


def shortest(group: Sequence[Transcript]) -> list[dict[str, float]]:
    """Pay the members with the fewest tokens."""
    least = min(len(member.tokens) for member in group)
    return [{"shortest": float(len(member.tokens) == least)} for member in group]


SHORTEST = GroupReward("fuzz-shortest", ("shortest",), shortest)


class _Rows:
    """A vector environment, and a single one for each row."""

    def __init__(
        self,
        rng: random.Random,
        drawn: Drawn,
        budget: Budget,
        *,
        group_size: int = 1,
        tame: bool = False,
        **arguments: Any,
    ) -> None:
        self.rng, self.drawn, self.budget, self.group_size = rng, drawn, budget, group_size
        self.count = group_size * rng.randint(1, 6 // group_size)
        self.mode = rng.choice(list(AutoresetMode))
        self.arguments = {**drawn.arguments, **arguments}
        self.vector_arguments = {
            "num_envs": self.count,
            "autoreset_mode": rng.choice((self.mode, self.mode.value)),
            "group_size": group_size,
            "copy": rng.random() < 0.7,
            **self.arguments,
        }
        self.vector = SearchQAVectorEnv(**self.vector_arguments)
        single = {k: v for k, v in drawn.arguments.items() if k in _SINGLE}
        if tame and drawn.retriever is not None:
            single["retriever"] = TAME
        self.singles = [SearchQAEnv(**single) for _ in range(self.count)]
        self.rows = [Row(env, self.mode) for env in self.singles]
        self.writers = [Writer(rng, env.protocol, env.tokenizer) for env in self.singles]
        self.over = np.zeros(self.count, np.bool_)

    def reset(self, env: Any = None) -> None:
        """Reset everything with a new seed."""
        seed = self.rng.randrange(2**31)
        result = (env or self.vector).reset(seed=seed)
        for row in range(self.count):
            self.writers[row].begin()
            expected = self.rows[row].reset(seed=seed + row // self.group_size)
            self._require_row(result, row, expected, "reset")
        self.over[:] = False

    def reset_some(self, mask: NDArray[np.bool_]) -> None:
        """Reset the rows of a mask, with a seed or without."""
        seed = self.rng.choice((None, self.rng.randrange(2**31)))
        if self.group_size > 1:
            seed = None
        result = self.vector.reset(seed=seed, options={"reset_mask": mask.copy()})
        for row in np.flatnonzero(mask).tolist():
            self.writers[row].begin()
            own = None if seed is None else seed + row // self.group_size
            self._require_row(result, row, self.rows[row].reset(seed=own), "partial reset")
        self.over &= ~mask

    def tokens(self) -> NDArray[np.int64]:
        """Return the next token of each row."""
        questions = [env.transcript().question for env in self.singles]
        ids = [w.next(q) for w, q in zip(self.writers, questions, strict=True)]
        return np.array(ids, self.rng.choice((np.int64, np.int32)))

    def step_rows(self, rows: Sequence[int], tokens: Any) -> tuple[dict[int, Any], list[Any]]:
        """Step some single environments; return results by row, and errors."""
        results: dict[int, Any] = {}
        errors = []
        for row, token in zip(rows, np.asarray(tokens).tolist(), strict=True):
            result, error = caught(lambda row=row, token=token: self.rows[row].step(token))
            if error is None:
                results[row] = result
                self.over[row] = bool(result[2] or result[3])
                if self.over[row]:
                    self.writers[row].begin()
            else:
                errors.append(error)
        return results, errors

    def require(self, result: tuple[Any, ...], expected: dict[int, Any], what: str) -> None:
        """Compare some rows of a vector environment's result with those of single ones."""
        for row, single in expected.items():
            self._require_row(result, row, single, what)
        observations = result[0]
        if isinstance(observations, dict):
            assert observations in self.vector.observation_space

    def _require_row(self, result: tuple[Any, ...], row: int, single: Any, what: str) -> None:
        mine = row_of(self.vector.observation_space, result, row)
        info = {k: v for k, v in mine[-1].items() if k not in (*_GROUP_KEYS, "ready")}
        if "final_info" in info:
            final = info["final_info"]
            info["final_info"] = {k: v for k, v in final.items() if k not in _GROUP_KEYS}
        mine = (*mine[:-1], without_messages(info))
        theirs = (*single[:-1], without_messages(single[-1]))
        where = f"{what}, row {row} of {self.count} in mode {self.mode.value} (vector and single)"
        require_same(mine, theirs, where)

    def saw_endings(self) -> None:
        """Count the episodes that ended in the last step, and recompute their rewards."""
        for transcript in self.vector.transcripts.values():
            self.budget.saw(transcript)

    def blocked(self, error: BaseException, errors: list[Any]) -> None:
        """Check an error that interrupted the vector environment; it asks for a reset."""
        self.budget.counts[f"error {type(error).__name__}"] += 1
        assert any(type(error) is type(other) for other in errors), (error, errors)
        with pytest.raises(EpisodeOverError):
            self.vector.step(np.zeros(self.count, np.int64))
        if self.count > 1:
            mask = np.zeros(self.count, np.bool_)
            mask[0] = True
            with pytest.raises(EpisodeOverError):
                self.vector.reset(options={"reset_mask": mask})


_SINGLE = SearchQAEnv.__init__.__kwdefaults__.keys()


def play_lockstep(rng: random.Random, drawn: Drawn, budget: Budget) -> None:
    """Step all rows together, with resets, saved states, and a vector environment that changes."""
    rows = _Rows(rng, drawn, budget)
    if rng.random() < 0.1:
        with pytest.raises(EpisodeOverError):
            rows.vector.step(np.zeros(rows.count, np.int64))
    rows.reset()
    saved: tuple[Any, list[Any]] | None = None
    while budget.left > 0:
        if rng.random() < 0.01:
            _send_bad_actions(rows)
        saved = _save_or_restore(rows, saved)
        if rows.over.any() and rows.mode is AutoresetMode.DISABLED:
            with pytest.raises(EpisodeOverError):
                rows.vector.step(np.zeros(rows.count, np.int64))
            rows.reset_some(rows.over.copy())
            saved = None
        elif rng.random() < 0.02:
            rows.reset_some(_some(rng, rows.count))
            saved = None
        tokens = rows.tokens()
        result, error = caught(lambda tokens=tokens: rows.vector.step(tokens))
        expected, errors = rows.step_rows(range(rows.count), tokens)
        budget.spend(rows.count)
        if error is not None or errors:
            assert error is not None, f"only the single environments raised: {errors}"
            rows.blocked(error, errors)
            rows.reset()
            saved = None
            continue
        rows.require(result, expected, "step")
        rows.saw_endings()
        if saved is not None:
            saved[1].append((tokens, copied(result)))
    close_twice(rows.vector)


def _save_or_restore(rows: _Rows, saved: Any) -> Any:
    """Now and then save a state, and some steps later play them again from it."""
    rng = rows.rng
    if saved is None:
        return (rows.vector.get_state(), []) if rng.random() < 0.1 else None
    state, steps = saved
    if len(steps) < 5:
        return saved
    rows.budget.counts["restores"] += 1
    if rng.random() < 0.5:
        state = pickle.loads(pickle.dumps(state))
    if rng.random() < 0.5:
        rows.vector.close()
        rows.vector = SearchQAVectorEnv(**rows.vector_arguments)
    rows.vector.set_state(state)
    for tokens, expected in steps:
        require_same(copied(rows.vector.step(tokens)), expected, "after set_state (now and then)")
    return None


def _some(rng: random.Random, count: int) -> NDArray[np.bool_]:
    mask = np.array([rng.random() < 0.5 for _ in range(count)])
    mask[rng.randrange(count)] = True
    return mask


def _send_bad_actions(rows: _Rows) -> None:
    """Check that bad actions are refused and change nothing."""
    count, size = rows.count, rows.vector.single_action_space.n
    beyond = np.zeros(count, np.int64)
    beyond[-1] = rows.rng.choice((size, -1, 2**40))
    bad: Any = rows.rng.choice(
        (beyond, np.zeros(count + 1, np.int64), np.zeros(count), ["x"] * count, None)
    )
    with pytest.raises(InvalidActionError):
        rows.vector.step(bad)
    rows.budget.counts["error InvalidActionError"] += 1


# Groups, and wrappers of vector environments.


def play_groups(rng: random.Random, drawn: Drawn, budget: Budget) -> None:
    """Play groups with a group reward, in a staged reward or a token window or bare."""
    arguments = {**drawn.arguments, "reward": "f1"}
    size = rng.choice((1, 2, 3))
    drawn = Drawn(arguments, drawn.protocol, drawn.retriever)
    rows = _Rows(rng, drawn, budget, group_size=size, group_reward=SHORTEST)
    ledger = _Ledger(rows)
    env: Any = rows.vector
    wrapper = rng.choice(("", "staged", "window"))
    if wrapper == "staged":
        after = rng.choice((2, None))
        phases = ["f1", "exact-match"]
        env = VectorStagedReward(env, phases, after_episodes=after, search_rate=0.5, window=2)
    elif wrapper == "window":
        env = VectorTokenWindow(env, rng.randint(1, rows.vector.protocol.max_tokens))
    while budget.left > 0:
        ledger.begin()
        env.reset(seed=rng.randrange(2**31))
        for writer in rows.writers:
            writer.begin()
        while budget.left > 0:
            questions = [rows.vector.transcript(row).question for row in range(rows.count)]
            tokens = [w.next(q) for w, q in zip(rows.writers, questions, strict=True)]
            reward = rows.vector.reward_name
            result, error = caught(lambda tokens=tokens: env.step(np.array(tokens)))
            budget.spend(rows.count)
            if error is not None:
                budget.counts[f"error {type(error).__name__}"] += 1
                break
            assert result[0] in env.observation_space
            rows.saw_endings()
            ledger.read(result, reward)
            over = result[2] | result[3]
            if over.any() and rows.mode is AutoresetMode.DISABLED:
                env.reset(options={"reset_mask": over})
    close_twice(env)


class _Ledger:
    """Which group rewards are due."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows
        self.begin()

    def begin(self) -> None:
        """Forget all groups."""
        self._groups: dict[int, dict[int, Transcript]] = {}

    def read(self, result: tuple[Any, ...], reward: str) -> None:
        """Check the rewards of a step, and the group rewards that it reports."""
        infos, size = result[-1], self._rows.group_size
        for row, transcript in self._rows.vector.transcripts.items():
            stop = transcript.stop_reason
            assert stop is not None
            paid = get_reward(reward)(transcript).total if stop.valid else 0.0
            assert result[1][row] == paid
            final = infos
            if "final_info" in infos and infos["_final_info"][row]:
                final = infos["final_info"]
            assert final["_group"][row]
            self._groups.setdefault(int(final["group"][row]), {})[row] = transcript
        due = {number: g for number, g in self._groups.items() if len(g) == size}
        told = infos.get("_complete_group", np.zeros(self._rows.count, np.bool_))
        assert told.sum() == size * len(due)
        for number, group in due.items():
            members = sorted(group)
            assert len({group[row].question.id for row in members}) == 1
            scores = SHORTEST([group[row] for row in members])
            for row, score in zip(members, scores, strict=True):
                assert infos["complete_group"][row] == number
                assert infos["group_reward"][row] == score.total
            del self._groups[number]
            self._rows.budget.counts["groups"] += 1


# Searches in the background.


def play_background(rng: random.Random, drawn: Drawn, budget: Budget) -> None:
    """Send and receive some rows at a time; the order of answers must not matter."""
    threads = rng.randint(1, 3)
    rows = _Rows(rng, drawn, budget, tame=True, retrieval_threads=threads)
    rows.reset()
    sent: dict[int, int] = {}  # tokens under way, by row
    while budget.left > 0:
        free = [row for row in range(rows.count) if row not in sent]
        if rows.mode is AutoresetMode.DISABLED and rows.over[free].any():
            mask = rows.over.copy()
            mask[list(sent)] = False
            rows.reset_some(mask)
        elif rng.random() < 0.02:
            mask = _some(rng, rows.count)
            for row in np.flatnonzero(mask & rows.over).tolist():
                if row in sent and rows.mode is AutoresetMode.NEXT_STEP:
                    rows.rows[row].step(0)  # sending has begun the row's next episode
            rows.reset_some(mask)  # what is under way in these rows is dropped
            sent = {row: token for row, token in sent.items() if not mask[row]}
        elif rng.random() < 0.03:
            _restore_under_way(rows)
        chosen = [row for row in free if rng.random() < 0.7]
        if chosen:
            tokens = rows.tokens()[chosen]
            rows.vector.send(tokens, chosen)
            sent.update(zip(chosen, tokens.tolist(), strict=True))
        if not sent:
            with pytest.raises(EpisodeOverError):
                rows.vector.recv()
            continue
        if rng.random() < 0.2:
            with pytest.raises(EpisodeOverError):
                rows.vector.send(np.zeros(1, np.int64), [rng.choice(list(sent))])
        if rng.random() < 0.7 and not _receive(rows, sent):
            rows.reset()
            sent = {}
    close_twice(rows.vector)


def _receive(rows: _Rows, sent: dict[int, int]) -> bool:
    """Receive some rows and compare them; return whether none raised."""
    least = rows.rng.randint(1, rows.count)
    result, error = caught(lambda: rows.vector.recv(least))
    if error is not None:
        _, errors = rows.step_rows(list(sent), list(sent.values()))
        rows.blocked(error, errors)
        rows.budget.spend(len(sent))
        return False
    ready = np.flatnonzero(result[-1]["ready"]).tolist()
    assert len(ready) >= min(least, len(sent))
    assert set(ready) <= sent.keys()
    rows.budget.spend(len(ready))
    expected, errors = rows.step_rows(ready, [sent.pop(row) for row in ready])
    assert not errors, f"only the single environments raised: {errors}"
    rows.require(result, expected, "recv")
    assert not result[1][[row for row in range(rows.count) if row not in ready]].any()
    rows.saw_endings()
    return True


def _restore_under_way(rows: _Rows) -> None:
    """Go on in another environment, where the searches under way are run again."""
    state = rows.vector.get_state()
    if rows.rng.random() < 0.5:
        state = pickle.loads(pickle.dumps(state))
        close_twice(rows.vector)
        rows.vector = SearchQAVectorEnv(**rows.vector_arguments)
    rows.vector.set_state(state)
    rows.budget.counts["restores"] += 1
