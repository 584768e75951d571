"""Scripted episodes for the tests of phases: their texts, outcomes, and play in rows."""

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
PARTS = tuple(get_reward(name).parts for name in PHASES)  # distinct, so parts identify the phase

# Episodes by name: the policy's texts, and their outcomes.
TEXTS = {
    "searches": "<q>key0 key1 </q><a>value0 </a>",
    "answers": "<a>value0 </a>",
    "rambles": "value1 ",
    "searches badly": "<q>key0 key1 </q>",
    "fails": "<q>key7 </q>",  # the retriever raises at this query
}
OUTCOMES = {
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


class Outcome(NamedTuple):
    """Contents of the last info of an episode."""

    kind: str
    phase: int
    parts: tuple[str, ...]
    progress: tuple[int, float, float, bool]


Groups = list[list[Outcome]]  # the episodes that ended in the same step, in order of rows


def expected_history(groups: list[list[str]], rule: dict[str, Any], phases: int):
    """Compute the history independently, from complete lists and exact fractions."""
    thresholds = [rule["search_rate"], rule["format_rate"]]
    history, total, phase, counted = [], 0, 0, []
    for group in groups:
        paying = phase
        for outcome in (OUTCOMES[kind] for kind in group if OUTCOMES[kind].valid):
            total += 1
            if phase != paying:
                continue
            counted.append((outcome.num_searches > 0, outcome.well_formed))
            last = counted[-rule["window"] :]
            shares = [Fraction(sum(column), len(last)) for column in zip(*last, strict=True)]
            met = len(last) == rule["window"] and any(thresholds)
            met &= all(float(s) >= (t or 0) for s, t in zip(shares, thresholds, strict=True))
            spent = rule["after_episodes"] is not None and len(counted) >= rule["after_episodes"]
            if (met or spent) and phase + 1 < phases:
                phase, counted = phase + 1, []
                history.append(PhaseSwitch(phase, total, "metric" if met else "episodes"))
    return tuple(history)


def outcome_of(kind: str, final: dict[str, Any]) -> Outcome:
    progress = tuple(
        final[k] for k in ("phase_episodes", "search_rate", "format_rate", "phase_switched")
    )
    assert list(map(type, progress)) == [int, float, float, bool]
    return Outcome(kind, final["phase"], tuple(final.get("reward_parts", ())), progress)


def play_single(env: gym.Env, stream: list[str], seed: int | None = 0) -> Groups:
    groups = []
    for kind in stream:
        _, info = env.reset(seed=seed)
        seed = None
        for token in IDS[kind]:
            _, _, terminated, truncated, info = env.step(token)
        assert terminated or truncated
        groups.append([outcome_of(kind, info)])
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

    def receive(self, result: tuple, rows: range | list[int]) -> list[Outcome]:
        _, _, terminated, truncated, infos = result
        ended, group = terminated | truncated, []
        if self.mode is AutoresetMode.NEXT_STEP:
            for row in rows:
                self.resetting[row] = False
        for row in np.flatnonzero(ended).tolist():
            group.append(outcome_of(self.scripts[row].pop(0), self.row_info(infos, row)))
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
        """Play by send and recv; rows whose script is finished are not stepped."""
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
    """Compare a form's switches with the rule, given the same groups of episodes."""
    kinds = [[episode.kind for episode in group] for group in groups]
    assert history == expected_history(kinds, rule, phases)
    pure, state = PhaseRule(phases, **rule), PhaseState()
    for group in groups:
        paying = state.phase
        state, after = pure.observe(state, [OUTCOMES[episode.kind] for episode in group])
        assert [episode.progress for episode in group] == [tuple(progress) for progress in after]
        for episode in group:
            assert episode.phase == paying
            paid = PARTS[paying] if OUTCOMES[episode.kind].valid else ()
            assert episode.parts == paid
    assert state.history == history
