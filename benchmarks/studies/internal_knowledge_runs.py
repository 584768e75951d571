"""Runs of the study of internal knowledge: base, cold start, conditions, scores."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from search_env.agents.models import load_model, save_model, tiny_config, untrained
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
from search_env.benchmarks.studies import internal_knowledge_world as worlds
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.paths import atomic_path
from search_env.recording.files import read_episodes
from search_env.types import Source

STEPS = 80
SETTINGS = Algorithm(
    advantage="grpo",
    aggregation="token_mean",
    prompts=32,
    group_size=8,
    kl="loss",
    kl_coefficient=0.02,  # else what is not asked is forgotten
    learning_rate=3e-4,
    warmup_steps=4,
    top_p=0.95,  # as in the default run: the model is small
)
"""The same for every condition; the rate falls to 0 at the last step."""

SWITCH: dict[str, Any] = {
    "phase_episodes": SETTINGS.sequences * STEPS // 3,
    "phase_search_rate": 0.95,
    "phase_format_rate": 0.9,
    "phase_window": 512,
}
MEMORY = MemorisationConfig(
    weight=0.1, prompt=worlds.REWRITING, statement=worlds.STATEMENT, max_tokens=32
)
NO_GROUP = (Phase(reward="r1-searcher++"),)

COLD, PLAIN, PLUS = "cold start", "R1-Searcher", "R1-Searcher++"
CONDITIONS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"phases": PHASES},
    PLUS: {"phases": PLUS_PLUS_PHASES, "memorisation": MEMORY},
    "without group reward": {"phases": NO_GROUP, "memorisation": MEMORY},
    "without memorisation": {"phases": PLUS_PLUS_PHASES},
    "without cold start": {"phases": PLUS_PLUS_PHASES, "memorisation": MEMORY},
}
"""All from the cold start of their seed, but for the last one, which begins with the base."""

SCHOOL: dict[str, Any] = {"examples": 40_000, "steps": 500, "learning_rate": 3e-3}
COLD_START: dict[str, Any] = {"rollouts": 8, "epochs": 6, "learning_rate": 8e-4, "most": None}
_TOKENS = 96  # of an episode
_BATCH = 2048  # tokens of an update by imitation
_ROWS = 64

Bits = NDArray[np.bool_]


class Home(NamedTuple):
    """The folder of a seed, and what is in it."""

    folder: Path
    world: worlds.World
    tokenizer: str

    @classmethod
    def of(cls, seed: int, root: Path) -> Home:
        """Return the home of a seed, with its world and tokenizer written."""
        folder, world = root / f"seed-{seed}", worlds.World.drawn(seed)
        if not (folder / "corpus.jsonl").exists():
            world.write(folder)
        worlds.make_tokenizer(world, folder / "tokenizer")
        return cls(folder, world, str(folder / "tokenizer" / "tokenizer.json"))

    def options(self, questions: str, **more: Any) -> dict[str, Any]:
        """Return the environment's arguments for questions to train or to test on."""
        return {
            "dataset": str(self.folder / f"{questions}.jsonl"),
            "corpus": str(self.folder / "corpus.jsonl"),
            "protocol": worlds.BARE.name,
            "tokenizer": self.tokenizer,
            "max_tokens": _TOKENS,
            **more,
        }

    def envs(self, questions: str, **more: Any) -> SearchQAVectorEnv:
        """Return the vector environment of some questions."""
        size = worlds.make_tokenizer(self.world, self.folder / "tokenizer").size
        options = self.options(questions, **more)
        return make_envs("SearchQA-v0", num_envs=_ROWS, vocabulary=size, options=options)


# The base and the cold start.


def make_base(home: Home, seed: int) -> Path:
    """School a new model; return its folder."""
    folder = home.folder / "base"
    if not folder.exists():
        tokenizer = worlds.make_tokenizer(home.world, home.folder / "tokenizer")
        school = worlds.School(home.world, tokenizer, seed)
        examples = list(school.examples(SCHOOL["examples"]))
        config = tiny_config(tokenizer.size, hidden_size=96, intermediate_size=256, layers=2)
        steps, rate = SCHOOL["steps"], SCHOOL["learning_rate"]
        model = untrained(config, seed)
        imitate(model, examples, seed, folder, home, steps=steps, learning_rate=rate)
    return folder


def make_cold_start(home: Home, base: Path, seed: int) -> Path:
    """Sample the base, keep what is right in answer, tags and form, and imitate it."""
    folder, kept = home.folder / "cold", home.folder / "cold.jsonl"
    if not folder.exists():
        envs, model = home.envs("train"), load_model(base)
        engine = Engine(model, rows=_ROWS, max_tokens=_TOKENS, sampling=Sampling())
        rule = KeepRule(("r1-searcher++",), most=COLD_START["most"])
        sample_episodes(envs, engine, kept, rule, rollouts=COLD_START["rollouts"], seed=seed)
        examples = []
        for episode in read_episodes(kept):
            transcript = episode.transcript
            weights = (transcript.sources == Source.POLICY).astype(np.float32)
            examples.append(Example(transcript.tokens, weights))
        tokens = sum(len(example.tokens) for example in examples)
        steps = max(1, COLD_START["epochs"] * tokens // _BATCH)
        rate = COLD_START["learning_rate"]
        imitate(model, examples, seed, folder, home, steps=steps, learning_rate=rate)
    return folder


def imitate(
    model: Any,
    examples: Sequence[Example],
    seed: int,
    folder: Path,
    home: Home,
    *,
    steps: int,
    learning_rate: float,
) -> None:
    """Fit a model to examples and save it."""
    optimizer = OptimizerConfig(
        learning_rate=learning_rate, warmup_steps=10, schedule="linear", total_steps=steps
    )
    learner = Learner(model, optimizer)
    fit(learner, examples, SupervisedConfig(steps, _BATCH, seed))
    tokenizer = worlds.make_tokenizer(home.world, home.folder / "tokenizer")
    save_model(learner.model, folder, learner.weights(), tokenizer=tokenizer)


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
        known=np.array([question.kind == "known" for question in envs.questions]),
    )


def closed_book(home: Home, model: Any, questions: str) -> list[Trajectory]:
    """Return greedy episodes that begin with recall and cannot search."""
    envs = home.envs(questions, max_searches=0)
    opening = envs.tokenizer.encode(worlds.BARE.tags[0].open)
    engine = Engine(model, rows=_ROWS, max_tokens=_TOKENS, sampling=GREEDY)
    return play_questions(OpeningEngine(engine, opening), envs)


def _right(episodes: Sequence[Trajectory]) -> Bits:
    return np.array([episode.scores["exact_match"] == 1.0 for episode in episodes])


# Runs.


def configure(home: Home, condition: str, seed: int, start: Path, out: Path) -> TrainConfig:
    """Return the run of a condition."""
    config = TrainConfig(
        model=str(start),
        algorithm=SETTINGS,
        optimizer=OptimizerConfig(schedule="linear", total_steps=STEPS),
        imports=(worlds.__name__,),
        env_options=home.options("train"),
        max_tokens=_TOKENS,
        steps=STEPS,
        num_envs=_ROWS,
        dtype="fp32",
        eval_every=0,
        checkpoint_every=20,
        keep_checkpoints=1,
        threads=1,
        seed=seed,
        out=str(out),
        **SWITCH,
    )
    return replace(config, **CONDITIONS[condition])


def run_one(home: Home, condition: str, seed: int) -> None:
    """Train and score one condition, or score the cold start; leave ``result.json``."""
    out = home.folder / condition.replace(" ", "-")
    if (out / "result.json").exists():
        return
    started = time.process_time()
    base = make_base(home, seed)
    start = base if condition == "without cold start" else make_cold_start(home, base, seed)
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
        config = configure(home, condition, seed, start, place)
        model = train(config, observer=Observers([log]), resume=newest is not None).model
        seconds["train"] = time.process_time() - started
    scores = {name: score(home, model, name).to_json() for name in ("train", "test")}
    record = {"condition": condition, "seed": seed, "seconds": seconds, "scores": scores}
    with atomic_path(out / "result.json") as temporary:
        temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
