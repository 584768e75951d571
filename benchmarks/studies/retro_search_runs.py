"""Runs of the study of Retro-Search: what is revised, by whom, and the students that imitate it.

A part leaves ``PART.json`` in its seed's folder and is not run again; models lie beside it. Parts
are in the order in which they need each other.
"""

from __future__ import annotations

import json
import os
import resource
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

import search_env  # noqa: F401 - registers the ids
from search_env.agents.imitation.sft import SupervisedConfig, fit
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.sampling import GREEDY, Sampling
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.models import load_model, save_model
from search_env.agents.rollouts.collect import make_envs
from search_env.agents.rollouts.lm_agent import play_questions, spread
from search_env.agents.rollouts.revise import count_revisions, revise_episodes
from search_env.agents.rollouts.sample import sample_episodes
from search_env.agents.rollouts.sample_file import KeepRule
from search_env.agents.rollouts.texts import Ends, continue_texts, revise_traces
from search_env.agents.types import Example
from search_env.benchmarks.players.wasteful import (
    OracleContinuation,
    Waste,
    chain_is_right,
    chain_prompt,
    wasteful_chain,
    wasteful_episode,
)
from search_env.envs.search_qa import SearchQAEnv, bare_env
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.paths import atomic_path
from search_env.recording.files import read_episodes
from search_env.recording.revise.guards import episode_verifier, what_is_wrong
from search_env.recording.revise.retro_search import RetroSearch, Revision, figures, retro_search
from search_env.recording.revise.settings import PLAIN, RevisionSettings
from search_env.recording.revise.steps import plain_trace
from search_env.types import Source, Transcript

MODEL = "tiny-base"
ENV: Mapping[str, Any] = {
    "max_tokens": 3072,
    "max_policy_tokens": 384,
    "dataset_options": {"questions": 1000, "hops": [1, 2]},
}
WASTE = Waste()
CHAIN_WASTE = Waste(repeat=0.0, extra=0.2, doubt=0.3)
# Thoughts are a line each, and nothing stands between two searches, so "skip" must not forbid one.
SETTINGS = RevisionSettings(separator="\n", skip_bans=False)
CHAINS = replace(PLAIN, separator="\n")  # the paper's: one roll-out, the next step alone
SAMPLING = Sampling(temperature=0.6, top_p=0.9)  # a model this small writes nonsense at 1.0
ROWS = 32


class Imitation(NamedTuple):
    """How students learn: number of updates, tokens of each (about), highest learning rate."""

    updates: int
    tokens: int
    rate: float


TRAINED = 256  # episodes of the oracle that students imitate
REVISED = 40  # episodes that a model revises, and students of those imitate
TESTED = 120  # questions
CHAINS_TRAINED = 400
CHAIN_TOKENS = 1024  # context, notes included
EPISODES = Imitation(24, 8192, 5e-4)
FEW_EPISODES = Imitation(12, 8192, 5e-4)
THOUGHTS = Imitation(48, 4096, 1e-3)


@lru_cache
def make(split: str) -> SearchQAEnv:
    """Return an environment of a split."""
    return bare_env(gym.make("SearchQA-v0", split=split, **ENV))


def rows() -> SearchQAVectorEnv:
    """Return the environment that models play in, of the train split."""
    return make_envs("SearchQA-v0", num_envs=ROWS, vocabulary=1024, options=ENV)


def searcher() -> RetroSearch:
    """Return what revises search episodes."""
    return RetroSearch(make("train").tokenizer, SETTINGS, episode_verifier(SETTINGS))


def cpu_seconds() -> float:
    """Return the seconds that this process has computed."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# What is imitated, and how.


@lru_cache(maxsize=4)
def oracle_episodes(seed: int) -> tuple[Transcript, ...]:
    """Return right wasteful episodes of a seed: those to train on, then those to revise."""
    env, random = make("train"), np.random.default_rng(seed)
    order = random.permutation(len(env.questions)).tolist()
    made = (wasteful_episode(env, index, random, WASTE) for index in order)
    right = (episode for episode in made if not what_is_wrong(episode, SETTINGS))
    return tuple(episode for _, episode in zip(range(TRAINED + REVISED), right, strict=False))


def train_student(
    base: Path | str, traces: Sequence[Transcript], folder: Path, how: Imitation, seed: int
) -> Path:
    """Imitate traces, each as often as the updates allow; return the model's folder.

    Students that are compared see as many examples in as many updates: shorter ones are fewer
    tokens, not more epochs.
    """
    examples = [
        Example(trace.tokens, (trace.sources == Source.POLICY).astype(np.float32))
        for trace in traces
    ]
    optimizer = OptimizerConfig(
        learning_rate=how.rate,
        warmup_steps=how.updates // 4,
        schedule="linear",
        total_steps=how.updates,
    )
    learner = Learner(load_model(base), optimizer, dtype="fp32")
    tokens = sum(len(example.tokens) for example in examples)
    epochs = max(1, round(how.updates * how.tokens / tokens))
    each = max(1, epochs * tokens // how.updates)
    fit(learner, examples, SupervisedConfig(how.updates, each, seed))
    return save_model(learner.model, folder, learner.weights())


def test_student(model: Path | str) -> dict[str, list[Any]]:
    """Return the greedy episodes of a model on the test questions, by question."""
    options = {**ENV, "split": "test"}
    envs = make_envs("SearchQA-v0", num_envs=ROWS, vocabulary=1024, options=options)
    played = play_questions(
        load_model(model), envs, spread(envs.questions, TESTED), sampling=GREEDY
    )
    return {
        "exact_match": [episode.scores["exact_match"] for episode in played],
        "searches": [episode.num_searches for episode in played],
        "tokens": [episode.num_policy_tokens for episode in played],
        "well_formed": [float(episode.well_formed) for episode in played],
        "hops": [episode.hops for episode in played],
    }


# Parts: each gets the seed and its folder.


def oracle(seed: int, folder: Path) -> dict[str, Any]:
    """Revise wasteful episodes by the oracle's continuation."""
    del folder
    return summary(oracle_revisions(seed), searcher())


@lru_cache(maxsize=1)
def oracle_revisions(seed: int) -> tuple[Revision, ...]:
    """Return the revisions of the episodes to train on."""
    search, sample = searcher(), OracleContinuation(make("train"))
    episodes = oracle_episodes(seed)[:TRAINED]
    return tuple(retro_search(search, e, sample, (seed, n)) for n, e in enumerate(episodes))


def original(seed: int, folder: Path) -> dict[str, Any]:
    """Imitate the wasteful episodes."""
    return student(folder / "original", oracle_episodes(seed)[:TRAINED], seed)


def revised(seed: int, folder: Path) -> dict[str, Any]:
    """Imitate as many that the oracle's continuation has revised."""
    return student(folder / "revised", [r.after for r in oracle_revisions(seed)], seed)


def weak_to_strong(seed: int, folder: Path) -> dict[str, Any]:
    """Revise other episodes of the oracle by the student of wasteful ones, which is weaker."""
    episodes = oracle_episodes(seed)[TRAINED:]
    return revise(episodes, folder / "weak-to-strong.jsonl", folder / "original", seed)


def self_revision(seed: int, folder: Path) -> dict[str, Any]:
    """Revise the student's own right episodes by itself."""
    envs, model = rows(), load_model(folder / "original")
    engine = Engine(model, rows=ROWS, max_tokens=envs.protocol.max_tokens, sampling=SAMPLING)
    random = np.random.default_rng((seed, 1))
    indices = random.permutation(len(envs.questions))[: 2 * REVISED].tolist()
    file = folder / "own.jsonl"
    rule = KeepRule(("right", "well-formed"))
    sample_episodes(envs, engine, file, rule, rollouts=1, indices=indices, seed=seed)
    own = [episode.transcript for episode in read_episodes(file)][:REVISED]
    return revise(own, folder / "self.jsonl", folder / "original", seed)


def revise(episodes: Sequence[Transcript], file: Path, model: Path, seed: int) -> dict[str, Any]:
    """Revise episodes by a model; return the figures."""
    envs = rows()
    size, before = envs.protocol.max_tokens, cpu_seconds()
    engine = Engine(load_model(model), rows=ROWS, max_tokens=size, sampling=SAMPLING)
    played = revise_episodes(envs, engine, searcher(), episodes, file, reviser="student", seed=seed)
    counts = count_revisions(file)
    control = read_episodes(file.with_name(f"{file.stem}.control.jsonl"))
    sides = [list(read_episodes(file)), list(control)]
    right = [[not what_is_wrong(e.transcript, SETTINGS) for e in side] for side in sides]
    return {
        "episodes": counts.episodes,
        "revised": counts.revised,
        "hops": sum(len(e.transcript.question.hops) for e in sides[0]),
        "searches": counts.searches,
        "steps": counts.steps,
        "tokens": counts.tokens,
        "right": [sum(right[1]), sum(right[0])],
        "tried": dict(counts.tried),
        "sampled": played.policy_tokens,
        "cpu_seconds": cpu_seconds() - before,
    }


def student_of(file: str, base: str | None) -> Callable[[int, Path], dict[str, Any]]:
    """Return the part that imitates a file, from the base model or from a student on."""

    def part(seed: int, folder: Path) -> dict[str, Any]:
        traces = [episode.transcript for episode in read_episodes(folder / file)]
        name = file.removesuffix(".jsonl").replace(".", "-")
        start = MODEL if base is None else folder / base
        return student(folder / f"{name}-student", traces, seed, start, few=True)

    return part


def student(
    folder: Path,
    traces: Sequence[Transcript],
    seed: int,
    base: Path | str = MODEL,
    *,
    few: bool = False,
) -> dict[str, Any]:
    """Train and test a student; its model stays in the folder."""
    train_student(base, traces, folder, FEW_EPISODES if few else EPISODES, seed)
    return {"examples": len(traces), "scores": test_student(folder)}


def summary(revisions: Sequence[Revision], search: RetroSearch) -> dict[str, Any]:
    """Return the figures of revisions, as sums before and after."""
    counts = [figures(search, revision) for revision in revisions]
    tried = sum((revision.tried for revision in revisions), Counter[tuple[str, str]]())
    sums = {
        name: np.sum([getattr(count, name) for count in counts], axis=0).tolist()
        for name in ("searches", "steps", "tokens")
    }
    return {
        "episodes": len(revisions),
        "revised": sum(bool(revision.taken) for revision in revisions),
        "hops": sum(len(revision.after.question.hops) for revision in revisions),
        **sums,
        "right": [sum(search.verify(trace) for trace in side) for side in _sides(revisions)],
        "tried": {f"{operator} {why}": n for (operator, why), n in sorted(tried.items())},
    }


def _sides(revisions: Sequence[Revision]) -> tuple[list[Transcript], list[Transcript]]:
    return [r.before for r in revisions], [r.after for r in revisions]


# Chains of thought without searches.


@lru_cache(maxsize=2)
def chains(seed: int) -> tuple[Transcript, ...]:
    """Return wasteful chains of thought of a seed."""
    env, random = make("train"), np.random.default_rng((seed, 2))
    order = random.permutation(len(env.questions))[:CHAINS_TRAINED].tolist()
    return tuple(wasteful_chain(env, index, random, CHAIN_WASTE) for index in order)


def chain_original(seed: int, folder: Path) -> dict[str, Any]:
    """Imitate wasteful chains of thought."""
    return chain_student(folder / "chain-original", chains(seed), seed)


def chain_revision(seed: int, folder: Path) -> dict[str, Any]:
    """Revise the chains by the student of them; leave the revised ones beside it."""
    env = make("train")
    search = RetroSearch(env.tokenizer, CHAINS, chain_is_right(env))
    before = cpu_seconds()
    engine = _chain_engine(folder / "chain-original", SAMPLING)
    ends = Ends(env.tokenizer, (chain_is_right(env).closing,))
    revisions = revise_traces(engine, search, chains(seed), ends, seed=seed)
    texts = [
        [int((r.after.sources == Source.PROMPT).sum()), r.after.tokens.tolist()] for r in revisions
    ]
    _write(folder / "chains-texts.json", texts)
    return {**summary(revisions, search), "hops": 0, "cpu_seconds": cpu_seconds() - before}


def chain_revised(seed: int, folder: Path) -> dict[str, Any]:
    """Imitate as many revised chains."""
    tokenizer = make("train").tokenizer
    texts = json.loads((folder / "chains-texts.json").read_text())
    traces = [plain_trace(tokenizer, ids[:prompt], ids[prompt:]) for prompt, ids in texts]
    return chain_student(folder / "chain-revised", traces, seed)


def chain_student(folder: Path, traces: Sequence[Transcript], seed: int) -> dict[str, Any]:
    """Train a student of chains, and let it think on the test questions."""
    train_student(MODEL, traces, folder, THOUGHTS, seed)
    env, random = make("test"), np.random.default_rng(0)
    search = RetroSearch(env.tokenizer, CHAINS, chain_is_right(env))
    questions = spread(env.questions, TESTED)
    prompts = [np.array(chain_prompt(env, index, random), np.int32) for index in questions]
    ends = Ends(env.tokenizer, (chain_is_right(env).closing,))
    written = continue_texts(_chain_engine(folder, GREEDY), prompts, ends)
    made = [
        plain_trace(env.tokenizer, prompt.tolist(), ids.tolist(), env.questions[index].answers[0])
        for index, prompt, ids in zip(questions, prompts, written, strict=True)
    ]
    scores = {
        "exact_match": [float(search.verify(trace)) for trace in made],
        "steps": [len(search.steps.read(trace).steps) for trace in made],
        "tokens": [len(ids) for ids in written],
    }
    return {"examples": len(traces), "scores": scores}


def _chain_engine(model: Path, sampling: Sampling) -> Engine:
    return Engine(load_model(model), rows=ROWS, max_tokens=CHAIN_TOKENS, sampling=sampling)


PARTS: Mapping[str, Callable[[int, Path], dict[str, Any]]] = {
    "oracle": oracle,
    "original": original,
    "revised": revised,
    "weak-to-strong": weak_to_strong,
    "weak-to-strong, original": student_of("weak-to-strong.control.jsonl", None),
    "weak-to-strong, revised": student_of("weak-to-strong.jsonl", None),
    "self": self_revision,
    "self, original": student_of("self.control.jsonl", "original"),
    "self, revised": student_of("self.jsonl", "original"),
    "chains, original": chain_original,
    "chains": chain_revision,
    "chains, revised": chain_revised,
}
"""All parts of a seed, in order."""


def run_part(name: str, seed: int, folder: Path) -> bool:
    """Run a part that is not there yet; return whether it was."""
    file = folder / f"{name.replace(', ', '-')}.json"
    if file.is_file():
        return False
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    before = cpu_seconds()
    result = PARTS[name](seed, folder)
    _write(file, {**result, "part": name, "seed": seed, "cpu": cpu_seconds() - before})
    return True


def _write(file: Path, content: Any) -> None:
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(content) + os.linesep)
