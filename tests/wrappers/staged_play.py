"""Scripted episodes for the tests of phases: what they write, leave, and how rows play them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import strategies as st

from search_env.envs.registration import register_environments
from search_env.errors import RetrievalError
from search_env.retrieval.base import FakeRetriever
from search_env.rewards import get_reward
from search_env.rewards.phases import EpisodeOutcome, PhaseRule, PhaseState, PhaseSwitch
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Document
from search_env.wrappers.staged_reward import VectorStagedReward

MODES = list(AutoresetMode)
PHASES = ("f1", "exact-match", "cover-exact-match")
PARTS = tuple(get_reward(name).parts for name in PHASES)  # each its own: they tell who paid

# Episodes by name: what the policy writes, and the facts that it leaves.
TEXTS = {
    "searches": "<q>key0 key1 </q><a>value0 </a>",
    "answers": "<a>value0 </a>",
    "rambles": "value1 ",
    "searches badly": "<q>key0 key1 </q>",
    "fails": "<q>key7 </q>",  # the retriever does, at this query
}
FACTS = {
    "searches": EpisodeOutcome(1, True, True),
    "answers": EpisodeOutcome(0, True, True),
    "rambles": EpisodeOutcome(0, False, True),
    "searches badly": EpisodeOutcome(1, False, True),
    "fails": EpisodeOutcome(0, False, False),
}
_TOY = load_tokenizer("toy")
(END,) = _TOY.eos_ids
IDS = {name: [*map(int, _TOY.encode(text)), END] for name, text in TEXTS.items()}
for _name in ("searches", "answers", "fails"):
    IDS[_name].pop()  # these end by themselves
FILLER = IDS["rambles"][0]

episodes = st.sampled_from(list(TEXTS))
rules = st.fixed_dictionaries(
    {
        "after_episodes": st.none() | st.integers(4, 9),
        "search_rate": st.none() | st.sampled_from([0.25, 0.5, 2 / 3, 1]),
        "format_rate": st.none() | st.sampled_from([0.25, 0.5, 2 / 3, 1]),
        "window": st.integers(1, 4),
    }
)


class Flaky(FakeRetriever):
    """Fails at one query, so that an episode becomes invalid."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        if any(query.strip() == "key7" for query in queries):
            raise RetrievalError("Expected documents, got none. Wait.")
        return super().search(queries, k)


def make(**arguments: Any) -> gym.Env:
    register_environments()
    options = {"retriever": Flaky({}), "on_retrieval_error": "truncate", "max_tokens": 256}
    return gym.make("SearchQA-Toy-v0", **{**options, **arguments})


def make_own(num_envs: int, mode: AutoresetMode) -> gym.vector.VectorEnv:
    options = {"retriever": Flaky({}), "on_retrieval_error": "truncate", "max_tokens": 256}
    return gym.make_vec("SearchQA-Toy-v0", num_envs=num_envs, autoreset_mode=mode, **options)


def make_sync(num_envs: int, mode: AutoresetMode) -> gym.vector.VectorEnv:
    return SyncVectorEnv([make] * num_envs, autoreset_mode=mode)


class Told(NamedTuple):
    """What the last info said of an episode."""

    kind: str
    phase: int
    parts: tuple[str, ...]
    progress: tuple[int, float, float, bool]


Groups = list[list[Told]]  # the episodes that ended in the same step, in order of rows


def expected_history(groups: list[list[str]], rule: dict[str, Any], phases: int):
    """The rule once more, from whole lists and exact fractions."""
    asked = [rule["search_rate"], rule["format_rate"]]
    history, total, phase, mine = [], 0, 0, []
    for group in groups:
        now = phase
        for facts in (FACTS[kind] for kind in group if FACTS[kind].valid):
            total += 1
            if phase != now:
                continue
            mine.append((facts.num_searches > 0, facts.well_formed))
            last = mine[-rule["window"] :]
            shares = [Fraction(sum(column), len(last)) for column in zip(*last, strict=True)]
            met = len(last) == rule["window"] and any(asked)
            met &= all(float(share) >= (ask or 0) for share, ask in zip(shares, asked, strict=True))
            spent = rule["after_episodes"] is not None and len(mine) >= rule["after_episodes"]
            if (met or spent) and phase + 1 < phases:
                phase, mine = phase + 1, []
                history.append(PhaseSwitch(phase, total, "metric" if met else "episodes"))
    return tuple(history)


def told(kind: str, final: dict[str, Any]) -> Told:
    progress = tuple(
        final[k] for k in ("phase_episodes", "search_rate", "format_rate", "phase_switched")
    )
    assert list(map(type, progress)) == [int, float, float, bool]
    return Told(kind, final["phase"], tuple(final.get("reward_parts", ())), progress)


def play_single(env: gym.Env, stream: list[str], seed: int | None = 0) -> Groups:
    groups = []
    for kind in stream:
        _, info = env.reset(seed=seed)
        seed = None
        for token in IDS[kind]:
            _, _, terminated, truncated, info = env.step(token)
        assert terminated or truncated
        groups.append([told(kind, info)])
    return groups


class Player:
    """Plays scripts in the rows of a vector environment, in any autoreset mode."""

    def __init__(self, envs: VectorStagedReward, scripts: list[list[str]]) -> None:
        self.envs, self.mode = envs, envs.metadata["autoreset_mode"]
        self.scripts = [list(script) for script in scripts]
        self.tokens: list[list[int]] = [[] for _ in scripts]
        self.resetting = np.zeros(len(scripts), bool)
        for row in range(len(scripts)):
            self.begin(row)

    def begin(self, row: int) -> None:
        self.tokens[row] = list(IDS[self.scripts[row][0]]) if self.scripts[row] else []

    def action(self, row: int) -> int:
        if self.resetting[row] or not self.tokens[row]:
            return FILLER
        return self.tokens[row].pop(0)

    def row_info(self, infos: dict[str, Any], row: int) -> dict[str, Any]:
        final = infos.get("final_info", infos)
        parts = final.get("reward_parts", {})
        paid = [part for part in parts if part[0] != "_" and parts[f"_{part}"][row]]
        keys = ("phase", "phase_episodes", "search_rate", "format_rate", "phase_switched")
        assert all(final[f"_{key}"][row] for key in keys)
        return {"reward_parts": paid, **{key: final[key][row].item() for key in keys}}

    def receive(self, result: tuple, rows: range | list[int]) -> list[Told]:
        _, _, terminated, truncated, infos = result
        ended, group = terminated | truncated, []
        if self.mode is AutoresetMode.NEXT_STEP:
            for row in rows:
                self.resetting[row] = False
        for row in np.flatnonzero(ended).tolist():
            group.append(told(self.scripts[row].pop(0), self.row_info(infos, row)))
            self.begin(row)
            self.resetting[row] = self.mode is AutoresetMode.NEXT_STEP
        assert len(set(infos["phase"].tolist())) == 1
        assert infos["_phase"].all()
        if self.mode is AutoresetMode.DISABLED and ended.any():
            self.envs.reset(options={"reset_mask": ended})
        return group

    def play(self) -> Groups:
        groups, rows = [], range(len(self.scripts))
        while any(self.scripts):
            actions = np.array([self.action(row) for row in rows])
            groups.append(self.receive(self.envs.step(actions), rows))
        return [group for group in groups if group]

    def play_async(self, min_ready: int) -> Groups:
        """The same by send and recv; a row without a script stays behind."""
        groups, ready = [], list(range(len(self.scripts)))
        while any(self.scripts):
            rows = [row for row in ready if self.scripts[row]]
            if rows:
                self.envs.send(np.array([self.action(row) for row in rows]), rows)
            result = self.envs.recv(min_ready)
            ready = np.flatnonzero(result[-1]["ready"]).tolist()
            groups.append(self.receive(result, ready))
        return [group for group in groups if group]


def check(groups: Groups, history, rule: dict[str, Any], phases: int = 3) -> None:
    """Compare what a form did with the rule, fed with the same groups of episodes."""
    kinds = [[episode.kind for episode in group] for group in groups]
    assert history == expected_history(kinds, rule, phases)
    pure, state = PhaseRule(phases, **rule), PhaseState()
    for group in groups:
        paying = state.phase
        state, seen = pure.observe(state, [FACTS[episode.kind] for episode in group])
        assert [episode.progress for episode in group] == [tuple(progress) for progress in seen]
        for episode in group:
            assert episode.phase == paying
            paid = PARTS[paying] if FACTS[episode.kind].valid else ()
            assert episode.parts == paid
    assert state.history == history
