r"""Learning three diagnostic worlds: abstaining, poisoned documents, facts that change.

    python -m search_env.benchmarks.studies.families --output benchmarks/results/families.md \
        --rows benchmarks/results/families_questions.json.gz

PPO on `train` of each world, scored on `test`, where every answer is another. Beside the policy's
score stand those of policies without the skill, which are exact, and the control in which searches
return the documents of another question. Every run is a process of its own on one thread.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical

from search_env.agents.examples.ppo_toy import Batch, advantages
from search_env.benchmarks.harness.ablations import ablated_retriever
from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.envs.registration import arguments_of
from search_env.rewards import Reward, get_reward
from search_env.testing import DIAGNOSTICS
from search_env.types import Transcript
from search_env.wrappers.token_window import VectorTokenWindow

QUESTIONS = 64
KEYS, VALUES = range(7, 15), range(15, 23)  # ids of the toy's tokenizer
SHUFFLED = "shuffled-documents"

Ids = NDArray[np.int64]
Rows = list[dict[str, Any]]


class Family(NamedTuple):
    """A world, what its policy sees, and the returns that bracket it.

    ``window`` holds an episode with one search up to the answer. ``renamed`` are the symbols that
    get other names in each episode of training, so that no table of answers can be learnt; dates
    keep theirs, whose order matters.
    """

    name: str
    window: int
    renamed: tuple[range, ...]
    guess: float  # return of a constant answer

    @property
    def id(self) -> str:
        """Return the id of the environment."""
        return f"SearchQA-{self.name}-v0"


FAMILIES = (
    Family("Unanswerable", 16, (KEYS, VALUES), -0.875),
    Family("Poisoned", 24, (KEYS, VALUES), 0.125),
    Family("AsOf", 20, (VALUES,), 0.125),
)


@dataclass(frozen=True)
class Settings:
    """Imitation of the search, then PPO after `agents/examples/ppo_toy.py`, masked."""

    imitation: int = 300  # gradient steps
    steps: int = 150_000
    num_envs: int = 128
    num_steps: int = 32
    epochs: int = 4
    minibatch: int = 512
    learning_rate: float = 1e-3
    entropy: float = 0.02
    width: int = 128


class Reader(nn.Module):
    """A network over the window that sees which symbols are equal, and can copy any of them."""

    def __init__(self, window: int, categories: int, actions: int, width: int) -> None:
        super().__init__()
        pairs = torch.triu_indices(window, window, 1)
        inputs = window * categories + pairs.shape[1]
        self.pairs, self.categories, self.actions = pairs, categories, actions

        def network(outputs: int) -> nn.Sequential:
            wide = nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
            return nn.Sequential(*wide, nn.Linear(width, outputs))

        self.actor, self.critic = network(actions + window), network(1)

    def forward(self, windows: Tensor, masks: Tensor) -> tuple[Categorical, Tensor]:
        """Return distributions over actions and values ``(B,)`` for windows ``(B, window)``."""
        symbols = nn.functional.one_hot(windows, self.categories).flatten(1)
        equal = windows[:, self.pairs[0]] == windows[:, self.pairs[1]]
        seen = torch.cat([symbols, equal], 1).float()
        written, copied = self.actor(seen).softmax(1).split([self.actions, windows.shape[1]], 1)
        padded = nn.functional.pad(written, (0, self.categories - self.actions))
        shares = padded.scatter_add(1, windows, copied)[:, : self.actions]
        logits = shares.clamp_min(1e-8).log().masked_fill(masks == 0, -1e9)
        return Categorical(logits=logits, validate_args=False), self.critic(seen).squeeze(1)


class Names:
    """Other names of symbols, drawn for each row's episode; ids as they are where none change."""

    def __init__(self, rows: int, categories: int, renamed: Sequence[range], seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._renamed = renamed
        self.shown = np.tile(np.arange(categories), (rows, 1))  # by real id
        self.real = self.shown.copy()  # by shown id
        self.draw(np.arange(rows))

    def draw(self, rows: Ids) -> None:
        """Draw new names for some rows."""
        for row in rows:
            for symbols in self._renamed:
                self.shown[row, symbols] = self._random.permutation(symbols)
            self.real[row, self.shown[row]] = np.arange(self.shown.shape[1])

    def of(self, windows: Ids, masks: NDArray[np.int8]) -> tuple[Tensor, Tensor]:
        """Return windows and masks in the names."""
        seen = np.take_along_axis(self.shown, windows, 1)
        allowed = np.take_along_axis(masks, self.real[:, : masks.shape[1]], 1)
        return torch.as_tensor(seen), torch.as_tensor(allowed)

    def action(self, shown: Ids) -> Ids:
        """Return the real ids of actions."""
        return np.take_along_axis(self.real, shown[:, None], 1)[:, 0]


def answered(transcript: Transcript) -> dict[str, float]:
    """Return 1 for an answer of any kind: what each is worth against another stays as it is."""
    return {"answered": float(transcript.answer is not None)}


ANSWERED = Reward("answered", ("answered",), answered)


def make(family: Family, num_envs: int, split: str, **arguments: Any) -> Any:
    """Return the world, a window of its last tokens observed."""
    envs = gym.make_vec(family.id, num_envs, autoreset_mode="SameStep", split=split, **arguments)
    return VectorTokenWindow(envs, family.window, keep="last")


def train(family: Family, seed: int, how: Settings) -> Iterator[Reader]:
    """Yield the policy on `train`: as it is drawn, after the imitation, and after PPO."""
    torch.manual_seed(seed)
    reward = get_reward(arguments_of(family.id).get("reward", "f1")) + ANSWERED
    envs = make(family, how.num_envs, "train", reward=reward)
    categories, actions = int(envs.single_observation_space.nvec[0]), envs.single_action_space.n
    policy = Reader(family.window, categories, actions, how.width)
    optimizer = torch.optim.Adam(policy.parameters(), lr=how.learning_rate, eps=1e-5)
    names = Names(how.num_envs, categories, family.renamed, seed)
    yield copy.deepcopy(policy)
    imitate(policy, optimizer, make(family, how.num_envs, "train"), names, how)
    yield copy.deepcopy(policy)
    windows, _ = envs.reset(seed=1000 * seed)
    updates = how.steps // (how.num_envs * how.num_steps)
    for number in range(updates):
        steps = []
        for _ in range(how.num_steps):
            seen, allowed = names.of(windows, envs.unwrapped.action_masks())
            with torch.no_grad():
                distribution, values = policy(seen, allowed)
            did = distribution.sample()
            windows, paid, terminated, truncated, _ = envs.step(names.action(did.numpy()))
            names.draw(np.flatnonzero(terminated | truncated))
            results = (torch.as_tensor(x).float() for x in (paid, terminated | truncated))
            steps.append(Batch(seen, allowed, did, distribution.log_prob(did), values, *results))
        batch = Batch(*(torch.stack(column) for column in zip(*steps, strict=True)))
        with torch.no_grad():
            after = policy(*names.of(windows, envs.unwrapped.action_masks()))[1]
        optimizer.param_groups[0]["lr"] = how.learning_rate * (1 - number / updates)
        improve(policy, optimizer, batch, advantages(batch, after, 1.0).flatten(), how)
    yield policy


def imitate(
    policy: Reader, optimizer: torch.optim.Optimizer, envs: Any, names: Names, how: Settings
) -> None:
    """Imitate the search alone: the query of both keys, then the opening of an answer."""
    rows = envs.unwrapped.num_envs
    windows, _ = envs.reset(options={"index": [row % QUESTIONS for row in range(rows)]})
    first, second = windows[:, -2].copy(), windows[:, -1].copy()  # the keys of the question
    tokens = envs.unwrapped.tokenizer.encode("<q></q><a>").tolist()
    opening, closing, answer = (np.full(rows, token) for token in tokens)
    examples = []
    for did in (opening, first, second, closing, answer):
        examples.append((windows, envs.unwrapped.action_masks(), did))
        windows, *_ = envs.step(did)
    for number in range(how.imitation):
        seen, masks, did = examples[number % len(examples)]
        names.draw(np.arange(rows))
        distribution, _ = policy(*names.of(seen, masks))
        shown = np.take_along_axis(names.shown, did[:, None], 1)[:, 0]
        loss = -distribution.log_prob(torch.as_tensor(shown)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def improve(
    policy: Reader, optimizer: torch.optim.Optimizer, batch: Batch, gains: Tensor, how: Settings
) -> None:
    """Take the gradient steps of one update."""
    flat = Batch(*(column.flatten(0, 1) for column in batch))
    for _ in range(how.epochs):
        for i in torch.randperm(len(gains)).reshape(-1, how.minibatch):
            distribution, values = policy(flat.windows[i], flat.masks[i])
            ratio = (distribution.log_prob(flat.actions[i]) - flat.log_probs[i]).exp()
            gain = (gains[i] - gains[i].mean()) / (gains[i].std() + 1e-8)
            policy_loss = -torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
            value_loss = 0.5 * (values - flat.values[i] - gains[i]).square().mean()
            loss = policy_loss + value_loss - how.entropy * distribution.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()


def play(family: Family, policy: Reader, split: str, ablation: str | None = None) -> Rows:
    """Ask every question of a split once, greedily; return a row for each."""
    envs = make(family, QUESTIONS, split)
    if ablation is not None:
        components = envs.unwrapped.components
        retriever = ablated_retriever(ablation, components.retriever, components.questions)
        envs = make(family, QUESTIONS, split, retriever=retriever)
    windows, _ = envs.reset(options={"index": list(range(QUESTIONS))})
    ended: dict[int, Transcript] = {}
    while len(ended) < QUESTIONS:
        masks = torch.as_tensor(envs.unwrapped.action_masks())
        with torch.no_grad():
            chosen = policy(torch.as_tensor(windows), masks)[0].logits.argmax(1).numpy()
        windows, *_ = envs.step(chosen)
        ended = envs.unwrapped.transcripts | ended  # a row's first episode stays
    reward = envs.unwrapped.reward
    return [
        {
            "question": transcript.question.id,
            "gold": transcript.question.answers[0],
            "answer": transcript.answer,
            "queries": [search.query for search in transcript.searches],
            "return": reward(transcript).total,
        }
        for _, transcript in sorted(ended.items())
    ]


class Result(NamedTuple):
    """One run: rows by question of `test` and `train`, and what it took."""

    family: str
    seed: int
    rows: dict[str, Rows]
    seconds: float

    def mean(self, which: str) -> float:
        """Return the mean return of some rows."""
        return float(np.mean([row["return"] for row in self.rows[which]]))


def run(family: Family, seed: int, how: Settings) -> Result:
    """Train with one seed, and play."""
    torch.set_num_threads(1)
    start = time.process_time()
    drawn, imitated, after = train(family, seed, how)
    seconds = time.process_time() - start
    rows = {
        "before": play(family, drawn, "test"),
        "imitation": play(family, imitated, "test"),
        "train": play(family, after, "train"),
        "after": play(family, after, "test"),
        SHUFFLED: play(family, after, "test", SHUFFLED),
    }
    return Result(family.name, seed, rows, seconds)


def run_all(seeds: Sequence[int], jobs: int, how: Settings) -> list[Result]:
    """Train on every world with every seed, ``jobs`` at a time."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, family, seed, how) for family in FAMILIES for seed in seeds]
        return [future.result() for future in futures]


def spread(values: Sequence[float]) -> str:
    """Return the mean and the values of some seeds."""
    return f"{np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"


def report(results: Sequence[Result]) -> str:
    """Return the table: a row for each world."""
    columns = ["world", "a constant", "without the skill", "drawn", "searches, by imitation"]
    columns += [
        "after PPO",
        "after, on `train`",
        "after, shuffled documents",
        "best",
        "CPU seconds",
    ]
    rows = []
    for family in FAMILIES:
        runs = [result for result in results if result.family == family.name]
        known = next(world for world in DIAGNOSTICS if world.id == family.id)
        means = [
            spread([each.mean(which) for each in runs])
            for which in ("before", "imitation", "after", "train", SHUFFLED)
        ]
        seconds = f"{np.mean([each.seconds for each in runs]):.0f}"
        bounds = [f"{family.guess:g}", f"{known.without:g}"]
        rows.append([f"`{family.id}`", *bounds, *means, f"{known.optimal:g}", seconds])
    return table(columns, rows)


def write_rows(path: Path, results: Sequence[Result]) -> None:
    """Write every question's answer and return, by world, seed and policy."""
    rows = [result._asdict() for result in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without time and name: the same bytes for the same rows.
    path.write_bytes(gzip.compress(json.dumps(rows, indent=1).encode(), mtime=0))


def page(args: argparse.Namespace) -> str:
    """Train, write the rows, and return the table."""
    how = Settings(steps=args.steps)
    results = run_all(range(args.seeds), args.jobs, how)
    if args.rows is not None:
        write_rows(args.rows, results)
    return f"""Mean return of the greedy policy over the 64 questions of `test`, whose answers,
places and dates are not those of `train`; mean over seeds, and each seed. What a constant answer
and policies without the skill return is exact (`docs/diagnostics.md`).

{report(results)}

A network of two layers first imitates the search alone on `train`, {how.imitation} gradient steps:
the query of both keys, then the opening of an answer. PPO then writes {how.steps:,} tokens on
`train` for the world's own reward and 1 for any answer at all, without which a policy that errs at
first falls silent in `Unanswerable`; the skill itself is learnt from the world's reward alone.
Keys and values get other names in each episode (in `AsOf` values only, since dates are in order),
so that no table of answers can be learnt, and the network sees which symbols are equal and may copy
any of them. With *shuffled documents* a search returns those of another question.
"""


if __name__ == "__main__":
    options = parser(__doc__, __spec__.name)
    options.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    options.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options.add_argument("--steps", type=int, default=Settings.steps, help="tokens of PPO, each")
    options.add_argument("--rows", type=Path, help="file (.json.gz) of every question's answer")
    measure(options, "Learning three diagnostic worlds", ["gymnasium", "torch"], page)
