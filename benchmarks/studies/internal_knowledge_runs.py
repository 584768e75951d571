"""Runs of the study of internal knowledge: base, cold start, conditions, scores."""

from __future__ import annotations

import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import search_env  # noqa: F401 - registers the ids
from search_env.agents.algorithms.config import Algorithm
from search_env.agents.imitation.sft import SupervisedConfig, fit
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.opening import OpeningEngine
from search_env.agents.inference.sampling import GREEDY, Sampling
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.models import load_model, save_model
from search_env.agents.reporting.logs import JsonLinesLog, Observers
from search_env.agents.rollouts.collect import make_envs
from search_env.agents.rollouts.lm_agent import play_questions
from search_env.agents.rollouts.memorisation import MemorisationConfig
from search_env.agents.rollouts.sample import sample_episodes
from search_env.agents.rollouts.sample_file import KeepRule
from search_env.agents.training import checkpoints
from search_env.agents.training.config import PHASES, PLUS_PLUS_PHASES, Phase, TrainConfig
from search_env.agents.training.train import train
from search_env.agents.types import Example, Trajectory
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.paths import atomic_path
from search_env.recording.files import read_episodes
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Question, Source, TagRole

COLD, PLAIN, PLUS = "cold start", "R1-Searcher", "R1-Searcher++"
NO_GROUP, NO_MEMORY = "without group reward", "without memorisation"
NO_COLD_START = "without cold start"
CONDITIONS = (PLAIN, PLUS, NO_GROUP, NO_MEMORY, NO_COLD_START)
"""All from the cold start of their seed, but for the last one, which begins with the base."""

ROWS = 64

Bits = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the models of a world are trained; the same for every condition.

    Attributes:
        protocol: Its name, which ``module`` registers.
        module: Module of the world.
        algorithm: Of all conditions; its rate falls to 0 at the last step.
        steps: Steps of a run, of which R1-Searcher's first phase has a third at most.
        memory: The memorisation of R1-Searcher++.
        max_tokens: Tokens of an episode.
        batch: Tokens of an update by imitation.
        rollouts: Rollouts of each question for the cold start, of which all good ones are kept.
        epochs: Of the cold start.
        cold_rate: Its learning rate.
    """

    protocol: str
    module: str
    algorithm: Algorithm
    steps: int
    memory: MemorisationConfig
    max_tokens: int
    batch: int = 2048
    rollouts: int = 8
    epochs: int = 6  # as published
    cold_rate: float = 8e-4

    def changes(self, condition: str) -> dict[str, Any]:
        """Return the settings in which a condition differs from a run without anything."""
        group = (Phase(reward="r1-searcher++"),)
        phases = {PLAIN: PHASES, NO_GROUP: group}.get(condition, PLUS_PLUS_PHASES)
        memory = {} if condition in (PLAIN, NO_MEMORY) else {"memorisation": self.memory}
        return {"phases": phases, **memory}


class Home(ABC):
    """The folder of a seed, with its world and its models.

    Args:
        folder: The folder.
        seed: The seed.

    Attributes:
        plan: How models are trained.
        legend: What a reader of the tables has to know.
        tokenizer: Of all models.
    """

    plan: Plan
    legend: str
    tokenizer: Tokenizer

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed

    @abstractmethod
    def options(self, questions: str) -> dict[str, Any]:
        """Return the environment's arguments for the questions ``train`` or ``test``."""

    @abstractmethod
    def is_known(self, question: Question) -> bool:
        """Return whether the base has read the answer."""

    @abstractmethod
    def make_base(self) -> Path:
        """Return the folder of the base, which is made if it is not there."""

    def envs(self, questions: str, **more: Any) -> SearchQAVectorEnv:
        """Return the vector environment of some questions."""
        options = {**self.options(questions), **more}
        size = self.tokenizer.size
        return make_envs("SearchQA-v0", num_envs=ROWS, vocabulary=size, options=options)

    def imitate(
        self, model: Any, examples: Sequence[Example], out: Path, *, steps: int, rate: float
    ) -> None:
        """Fit a model to examples and save it."""
        optimizer = OptimizerConfig(
            learning_rate=rate,
            warmup_steps=min(10, steps // 4),
            schedule="linear",
            total_steps=steps,
        )
        learner = Learner(model, optimizer)
        fit(learner, examples, SupervisedConfig(steps, self.plan.batch, self.seed))
        save_model(learner.model, out, learner.weights(), tokenizer=self.tokenizer)


def make_cold_start(home: Home, base: Path) -> Path:
    """Sample the base, keep what is right in answer, tags and form, and imitate it."""
    folder, kept, plan = home.folder / "cold", home.folder / "cold.jsonl", home.plan
    if not folder.exists():
        envs, model = home.envs("train"), load_model(base)
        engine = Engine(model, rows=ROWS, max_tokens=plan.max_tokens, sampling=Sampling())
        rule = KeepRule(("r1-searcher++",))
        sample_episodes(envs, engine, kept, rule, rollouts=plan.rollouts, seed=home.seed)
        examples = []
        for episode in read_episodes(kept):
            transcript = episode.transcript
            weights = (transcript.sources == Source.POLICY).astype(np.float32)
            examples.append(Example(transcript.tokens, weights))
        tokens = sum(len(example.tokens) for example in examples)
        steps = max(1, plan.epochs * tokens // plan.batch)
        home.imitate(model, examples, folder, steps=steps, rate=plan.cold_rate)
    return folder


# Scores.


class Scores(NamedTuple):
    """What a model does on questions, in their order; greedy episodes."""

    right: Bits  # exact match
    searches: NDArray[np.int64]
    formed: Bits
    recalled: Bits  # exact match where it has to answer from memory
    known: Bits  # whether the question is on a fact that the base has read

    def to_json(self) -> dict[str, list[int]]:
        """Return plain numbers."""
        return {
            name: np.asarray(part).astype(int).tolist() for name, part in self._asdict().items()
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Sequence[int]]) -> Scores:
        """Read what :meth:`to_json` wrote."""
        parts = {name: np.array(part) for name, part in content.items()}
        return cls(**{n: p if n == "searches" else p.astype(bool) for n, p in parts.items()})


def score(home: Home, model: Path, questions: str) -> Scores:
    """Return the scores of a model on questions that it was trained on, or not."""
    loaded = load_model(model)
    envs = home.envs(questions)
    episodes = play_questions(loaded, envs)
    return Scores(
        right=_right(episodes),
        searches=np.array([episode.num_searches for episode in episodes]),
        formed=np.array([episode.well_formed for episode in episodes]),
        recalled=_right(closed_book(home, loaded, questions)),
        known=np.array([home.is_known(question) for question in envs.questions]),
    )


def closed_book(home: Home, model: Any, questions: str) -> list[Trajectory]:
    """Return greedy episodes that begin with recall and cannot search."""
    envs = home.envs(questions, max_searches=0)
    opening = envs.tokenizer.encode(envs.protocol.pair(TagRole.REASON).open)
    size = envs.protocol.max_tokens
    engine = Engine(model, rows=ROWS, max_tokens=size, sampling=GREEDY)
    return play_questions(OpeningEngine(engine, opening), envs)


def _right(episodes: Sequence[Trajectory]) -> Bits:
    return np.array([episode.scores["exact_match"] == 1.0 for episode in episodes])


# Runs.


def configure(home: Home, condition: str, start: Path, out: Path) -> TrainConfig:
    """Return the run of a condition."""
    plan = home.plan
    return TrainConfig(
        model=str(start),
        algorithm=plan.algorithm,
        optimizer=OptimizerConfig(schedule="linear", total_steps=plan.steps),
        imports=(plan.module,),
        env_options=home.options("train"),
        max_tokens=plan.max_tokens,
        phase_episodes=plan.algorithm.sequences * plan.steps // 3,
        phase_search_rate=0.95,
        phase_format_rate=0.9,
        phase_window=2 * plan.algorithm.sequences,
        steps=plan.steps,
        num_envs=ROWS,
        dtype="fp32",
        eval_every=0,
        checkpoint_every=10,
        keep_checkpoints=1,
        threads=1,
        seed=home.seed,
        out=str(out),
        **plan.changes(condition),
    )


def run_one(home: Home, condition: str) -> None:
    """Train and score one condition, or score the cold start; leave ``result.json``."""
    out = home.folder / condition.replace(" ", "-")
    if (out / "result.json").exists():
        return
    started = time.process_time()
    base = home.make_base()
    start = base if condition == NO_COLD_START else make_cold_start(home, base)
    seconds = {"start": time.process_time() - started}
    out.mkdir(parents=True, exist_ok=True)
    model = start
    if condition in CONDITIONS:
        started = time.process_time()
        place = out / "run"
        newest = checkpoints.latest(place / "checkpoints")
        if newest is None:  # killed before the first checkpoint
            shutil.rmtree(place, ignore_errors=True)
            (out / "metrics.jsonl").unlink(missing_ok=True)
        step = None if newest is None else checkpoints.step_of(newest)
        log = JsonLinesLog(out / "metrics.jsonl", resume_step=step)
        config = configure(home, condition, start, place)
        model = train(config, observer=Observers([log]), resume=newest is not None).model
        seconds["train"] = time.process_time() - started
    scores = {name: score(home, model, name).to_json() for name in ("train", "test")}
    record = {"condition": condition, "seed": home.seed, "seconds": seconds, "scores": scores}
    with atomic_path(out / "result.json") as temporary:
        temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
