"""Runs of the study of phases on the toy: a cloned base, and PPO under one or two phases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from search_env.benchmarks.studies.toy_learning import BudgetEnds
from search_env.rewards.phases import EpisodeOutcome, PhaseRule
from search_env.wrappers.staged_reward import R1_SEARCHER_PHASES, StagedReward
from search_env.wrappers.token_window import TokenWindow, VectorTokenWindow

STEPS = 150_000
NUM_ENVS, ROLLOUT = 64, 64
WINDOW = 4  # enough to write the query, to read and to answer
SEARCH_RATE = 0.26  # of the base
TEST_SEEDS = range(16)  # tables of 64 questions that nobody trained on
SWITCH: dict[str, Any] = {"search_rate": 0.9, "format_rate": 0.9, "window": 1024}
CLONING: dict[str, Any] = {
    "episodes": 40,
    "epochs": 30,
    "learning_rate": 1e-3,
}  # episodes of each table
SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-4,
    "n_steps": ROLLOUT,
    "batch_size": 1024,
    "n_epochs": 4,
    "gamma": 1.0,
    "ent_coef": 0.01,
}
ARMS = {
    "phase 1 alone": R1_SEARCHER_PHASES[:1],
    "phase 2 alone": R1_SEARCHER_PHASES[1:],
    "both phases": R1_SEARCHER_PHASES,
}
COMMON = {"searching does not pay yet": 0.35, "searching pays from the start": 0.0}
"""Shares of questions with the common answer, which is what a guess is worth: c = .43 and .13."""

Bits = NDArray[np.bool_]


class Job(NamedTuple):
    """One run: share of the common answer, arm or "base", seed."""

    common: float
    arm: str
    seed: int


class Result(NamedTuple):
    """What a run came to."""

    curve: list[tuple[int, float, float, int]]  # steps, search rate and F1 of episodes, phase
    right: Bits  # (questions,), of the greedy policy
    searched: Bits

    def to_json(self) -> dict[str, Any]:
        """Return JSON, with bits as hexadecimal digits."""
        bits = {name: np.packbits(getattr(self, name)).tobytes().hex() for name in self._fields[1:]}
        curve = [
            (steps, round(rate, 4), round(f1, 4), phase) for steps, rate, f1, phase in self.curve
        ]
        return {"curve": curve, **bits}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Result:
        """Read what :meth:`to_json` wrote."""
        right, searched = (
            np.unpackbits(np.frombuffer(bytes.fromhex(content[name]), np.uint8)).astype(bool)
            for name in cls._fields[1:]
        )
        return cls([tuple(point) for point in content["curve"]], right, searched)


def options(seed: int, common: float) -> dict[str, Any]:
    """Return the toy's options."""
    return {"seed": seed, "common_answer": common, "encoded": True}


def make(seed: int, common: float, phases: Sequence[str]) -> gym.Env[Any, Any]:
    """Return an environment of one table of the train split; a spent budget is an end."""
    env = gym.make("SearchQA-Toy-v0", dataset_options=options(seed, common))
    return BudgetEnds(
        StagedReward(TokenWindow(env, WINDOW, keep="last"), phases, after_episodes=None)
    )


def demonstrate(env: gym.Env[Any, Any], random: np.random.Generator) -> Iterator[tuple[Any, int]]:
    """Yield windows and actions of one episode of the base."""
    bare: Any = env.unwrapped
    encode, index = bare.tokenizer.encode, int(random.integers(64))
    window, _ = env.reset(seed=0, options={"index": index})
    query = bare.questions[index].hops[0].query
    value = "value0 "
    ids = []
    if random.random() < SEARCH_RATE:
        ids, value = encode(f"<q>{query} </q>"), f"value{random.integers(8)} "
    for action in [*ids, *encode(f"<a>{value}</a>")]:
        yield window, int(action)
        window, *_ = env.step(int(action))


def clone(model: PPO, common: float, seed: int) -> None:
    """Teach a model the base's behaviour."""
    random = np.random.default_rng([seed, 7])
    pairs: list[tuple[Any, int]] = []
    for number in range(NUM_ENVS):
        env = make(number, common, ARMS["phase 2 alone"])
        for _ in range(CLONING["episodes"]):
            pairs += demonstrate(env, random)
    windows = torch.as_tensor(np.stack([window for window, _ in pairs]))
    actions = torch.as_tensor([action for _, action in pairs])
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=CLONING["learning_rate"])
    generator = torch.Generator().manual_seed(seed)
    for _ in range(CLONING["epochs"]):
        for rows in torch.randperm(len(pairs), generator=generator).split(256):  # type: ignore[no-untyped-call]
            _, log_probs, _ = model.policy.evaluate_actions(windows[rows], actions[rows])
            optimizer.zero_grad()
            (-log_probs.mean()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


class Phases(BaseCallback):
    """Switches all rows together, by the wrappers' rule, and keeps the means of each rollout."""

    def __init__(self, phases: Sequence[str]) -> None:
        super().__init__()
        self.curve: list[tuple[int, float, float, int]] = []
        self._ended: list[tuple[bool, float]] = []
        self._rule = PhaseRule(len(phases), None, **SWITCH)
        self._state = self._rule.start(0)

    def _on_step(self) -> bool:
        infos = [
            i for i, done in zip(self.locals["infos"], self.locals["dones"], strict=True) if done
        ]
        outcomes = [EpisodeOutcome(i["num_searches"], i["well_formed"], i["valid"]) for i in infos]
        self._ended += [(bool(i["num_searches"]), i["f1"]) for i in infos]
        before, (self._state, _) = self._state, self._rule.observe(self._state, outcomes)
        if self._state.phase != before.phase:
            self.training_env.env_method("set_phase", self._state.phase)
        return True

    def _on_rollout_end(self) -> None:
        rate, f1 = np.mean(self._ended, axis=0).tolist()
        self.curve.append((self.num_timesteps, rate, f1, self._state.phase))
        self._ended.clear()


def play(model: PPO, common: float, split: str) -> tuple[Bits, Bits]:
    """Return on which questions of a split the greedy policy is right, and on which it searches."""
    right, searched = [], []
    for number in TEST_SEEDS:
        envs: Any = gym.make_vec(
            *("SearchQA-Toy-v0", 64),
            split=split,
            dataset_options=options(number, common),
            autoreset_mode="SameStep",
        )
        envs = VectorTokenWindow(envs, WINDOW, keep="last")
        windows, _ = envs.reset(seed=0, options={"index": list(range(64))})
        ended: dict[int, Any] = {}
        while len(ended) < 64:
            windows, *_ = envs.step(model.predict(windows, deterministic=True)[0])
            ended = envs.unwrapped.transcripts | ended  # a row's first episode stays
        first = [ended[row] for row in range(64)]
        right += [bool(t.question.answers[0] == (t.answer or "").strip()) for t in first]
        searched += [bool(t.searches) for t in first]
    return np.array(right), np.array(searched)


def run(job: Job, steps: int = STEPS, split: str = "test") -> Result:
    """Train one arm with one seed, which is also that of its base."""
    common, arm, seed = job
    torch.set_num_threads(1)
    phases = ARMS.get(arm, R1_SEARCHER_PHASES)
    rows: list[Any] = [partial(make, n, common, phases) for n in range(NUM_ENVS)]
    model = PPO(
        "MlpPolicy",
        DummyVecEnv(rows),
        policy_kwargs={"net_arch": [128, 128], "activation_fn": torch.nn.ReLU},
        seed=seed,
        device="cpu",
        **SETTINGS,
    )
    clone(model, common, seed)
    callback = Phases(phases)
    if arm in ARMS:
        model.learn(steps, callback)
    return Result(callback.curve, *play(model, common, split))
