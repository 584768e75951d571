"""Does it learn? The bundled agent on the world, condition by condition, seed by seed.

    python -m search_env.benchmarks.studies.learning run --seeds 0 1 2 3 4 --folder runs/learning
    python -m search_env.benchmarks.studies.learning report --folder runs/learning

``run`` trains what is not there yet, each run on one thread; ``report`` writes the page and its
picture. All conditions but "as bundled" take as many steps of as many episodes from the same base.
Scores are of greedy episodes on questions of worlds that nobody trained on.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import search_env  # noqa: F401 - registers the ids
from search_env.agents.imitation.demonstrations import oracle_example
from search_env.agents.imitation.sft import SupervisedConfig, fit
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.models import load_model, save_model
from search_env.agents.reporting.logs import JsonLinesLog, Observers
from search_env.agents.reporting.plots import learning_figure
from search_env.agents.rollouts.collect import make_envs
from search_env.agents.rollouts.lm_agent import play_questions
from search_env.agents.rollouts.metrics import evaluation_metrics
from search_env.agents.training.config import Phase, TrainConfig
from search_env.agents.training.default_run import ANSWER, ENV_OPTIONS, SEARCH, TINY, tiny_run
from search_env.agents.training.train import train
from search_env.benchmarks.reports.measurement_page import heading, interval, publish, table
from search_env.envs.search_qa import bare_env
from search_env.metrics.answers import exact_match
from search_env.rewards import Reward, register_reward
from search_env.rewards.r1_searcher import R1_SEARCHER_STAGE2
from search_env.types import Transcript

STEPS = 36  # training steps of each condition
SETTINGS: Mapping[str, Any] = MappingProxyType(
    {"hops": (), "phase_search_rate": 0.9, "eval_every": 12, "eval_questions": 100}
)
"""How the run that is studied differs from the bundled one, which is shorter."""

Result = Mapping[str, Any]
SCORES = {
    "search rate": "search_rate",
    "searches": "searches",
    "EM": "exact_match",
    "F1": "f1",
    "well formed": "well_formed",
}
BY_HOPS = {"EM": "exact_match", "1 hop": "exact_match_1_hops"} | {
    f"{hops} hops": f"exact_match_{hops}_hops" for hops in (2, 3, 4)
}
"""Metrics by header of their column."""

TESTS: Mapping[str, tuple[int, dict[str, Any]]] = {
    "test world": (400, {}),
    "another world": (100, {"dataset_options": {"seed": 77}}),
    "10,000 articles": (100, {"dataset_options": {"articles": 10_000}}),
    "protocol search-r1": (100, {"protocol": "search-r1"}),
    "five documents": (100, {"top_k": 5}),
}
"""Where models are tested: number of questions, arguments of the environment."""


def _paid_by_exact_match(transcript: Transcript) -> dict[str, float]:
    right = exact_match(transcript.answer, transcript.question.answers)
    return {**R1_SEARCHER_STAGE2(transcript).parts, "answer": right}


EXACT = register_reward(Reward("stage2-exact-match", ("answer", "format"), _paid_by_exact_match))
"""Phase 2's reward with exact match where F1 was. The paper's pays 1 or -1; here 1 or 0, so that
nothing but the measure differs."""

CONDITIONS: Mapping[str, Mapping[str, Any]] = {
    "both phases": {},
    "phase 2 alone": {"phases": (ANSWER,)},
    "phase 1 alone": {"phases": (SEARCH,)},
    "no retrieval mask": {"mask_retrieved": False},
    "GRPO": {"advantage": "grpo"},
    "REINFORCE++": {"advantage": "reinforce_pp_baseline"},
    "PPO": {"advantage": "gae", "value_learning_rate": 2e-3},
    "DAPO": {"advantage": "grpo", "eps_high": 0.28, "dynamic_sampling": True, "max_batches": 2},
    "three times the learning rate": {"learning_rate": 3 * TINY.learning_rate},
    "phase 1 not handed over": {
        "phase_search_rate": None,
        "phase_format_rate": None,
        "phase_episodes": None,
    },
    "EM as reward": {"phases": (SEARCH, Phase(reward=EXACT.name))},
    "asked one and two hops": {"env_options": {**ENV_OPTIONS, "dataset_options": {"hops": [1, 2]}}},
    "as bundled": {
        "processes": 2,
        "steps": tiny_run().steps,
        "hops": tiny_run().hops,
        "phase_search_rate": tiny_run().phase_search_rate,
        "eval_every": tiny_run().eval_every,
        "eval_questions": tiny_run().eval_questions,
    },
}
"""Changes to the run that is studied: phases, fields of the run, fields of the algorithm."""

SUPERVISED = "SFT on oracles"  # as many oracle episodes as the others play, in as many updates


def configure(condition: str, seed: int, folder: Path) -> TrainConfig:
    """Return the run of a condition."""
    changes = dict(CONDITIONS[condition])
    config = replace(tiny_run(), steps=STEPS, processes=1, threads=1, **SETTINGS)
    run = {name: changes.pop(name) for name in list(changes) if hasattr(config, name)}
    algorithm = replace(config.algorithm, **changes)
    return replace(config, algorithm=algorithm, seed=seed, out=str(folder), **run)


def run_one(condition: str, seed: int, folder: Path) -> None:
    """Train one model and test it; leave ``result.json``."""
    torch.set_num_threads(1)
    log = JsonLinesLog(folder / "metrics.jsonl")
    started, cpu_before = time.monotonic(), _cpu_seconds()
    if condition == SUPERVISED:
        model = imitate(replace(tiny_run(), steps=STEPS), seed, folder, log)
    else:
        result = train(configure(condition, seed, folder), observer=Observers([log]))
        model = result.model
    record = {
        "condition": condition,
        "seed": seed,
        "cpu_seconds": _cpu_seconds() - cpu_before,
        "seconds": time.monotonic() - started,
        "tests": test(model),
    }
    (folder / "result.json").write_text(json.dumps(record, indent=1) + "\n")


def _cpu_seconds() -> float:
    """Return the seconds of this process and of those that it started and that are over."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def imitate(config: TrainConfig, seed: int, folder: Path, log: JsonLinesLog) -> Path:
    """Fine-tune on oracle episodes of the training world; return the model's folder."""
    env = bare_env(gym.make(config.env_id))
    algorithm = config.algorithm
    random = np.random.default_rng(seed)
    drawn = random.integers(len(env.questions), size=config.steps * algorithm.sequences)
    played = {index: oracle_example(env, int(index)) for index in np.unique(drawn)}
    examples = [played[index] for index in drawn]
    tokens = sum(len(example.tokens) for example in examples) // config.steps
    optimizer = OptimizerConfig(learning_rate=algorithm.learning_rate)
    learner = Learner(load_model(config.model), optimizer, dtype=config.dtype)
    log.begin(config.steps, {"model": config.model, "condition": SUPERVISED})
    fit(learner, examples, SupervisedConfig(config.steps, tokens, seed), observer=log)
    log.end(config.steps, "all steps are made")
    return save_model(learner.model, folder / "model", learner.weights())


def test(model: Path | str) -> dict[str, dict[str, float]]:
    """Return the scores of greedy episodes on all tests."""
    loaded = load_model(model, dtype=torch.bfloat16)
    config = tiny_run()
    scores = {}
    for name, (count, options) in TESTS.items():
        options = {"split": "test", "max_tokens": 4096, **ENV_OPTIONS, **options}
        envs = make_envs(config.env_id, num_envs=32, vocabulary=1024, options=options)
        index = np.linspace(0, len(envs.questions) - 1, count).round().astype(int).tolist()
        scores[name] = evaluation_metrics(play_questions(loaded, envs, index))
    return scores


def run(args: argparse.Namespace) -> None:
    """Train and test all that is not there."""
    base = args.folder / "base.json"
    if not base.is_file():
        base.parent.mkdir(parents=True, exist_ok=True)
        base.write_text(json.dumps(test(tiny_run().model), indent=1) + "\n")
    for seed in args.seeds:
        for condition in args.conditions:
            folder = args.folder / condition.replace(" ", "-") / str(seed)
            if not folder.exists():
                folder.mkdir(parents=True)
                run_one(condition, seed, folder)
                print(f"{condition}, seed {seed}: done", flush=True)


def report(args: argparse.Namespace) -> None:
    """Write the tables and the picture."""
    results: dict[str, list[Result]] = {}
    logs: dict[str, list[Path]] = {}
    for file in sorted(args.folder.glob("*/*/result.json")):
        record = json.loads(file.read_text())
        results.setdefault(record["condition"], []).append(record)
        logs.setdefault(record["condition"], []).append(file.with_name("metrics.jsonl"))
    results = {name: results[name] for name in (*CONDITIONS, SUPERVISED) if name in results}
    # Curves compare on the same held-out questions.
    shown = [n for n in results if n != SUPERVISED and "env_options" not in CONDITIONS[n]]
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    learning_figure({name: logs[name] for name in shown}, args.picture)
    seeds = sorted({record["seed"] for records in results.values() for record in records})
    text = heading(
        "Learning to search, then to answer",
        f"python -m search_env.benchmarks.studies.learning run --seeds {' '.join(map(str, seeds))} "
        f"--conditions {shlex.join(results)}; "
        "python -m search_env.benchmarks.studies.learning report",
        ("search-env", "torch", "transformers", "numpy"),
    )
    base = json.loads((args.folder / "base.json").read_text())
    times = {"CPU min": "cpu_seconds", "minutes": "seconds"}
    text += f"\n{score_table('test world', SCORES, base, results, times)}\n"
    for name in TESTS:
        text += f"\n## {name}\n\n{score_table(name, BY_HOPS, base, results)}\n"
    publish(text, args.output)


def score_table(
    name: str,
    columns: Mapping[str, str],
    base: Result,
    results: Mapping[str, Sequence[Result]],
    times: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a test's scores by metric, of the base model and of each condition over its seeds."""
    first = [f"{base[name].get(f'eval/{metric}', math.nan):.3f}" for metric in columns.values()]
    rows = [["base", "-", *first, *["-"] * len(times)]]
    for condition, records in results.items():
        cells = [
            interval([r["tests"][name].get(f"eval/{metric}", math.nan) for r in records])
            for metric in columns.values()
        ]
        cells += [interval([r[clock] / 60 for r in records], 1) for clock in times.values()]
        rows.append([condition, str(len(records)), *cells])
    return table(["condition", "seeds", *columns, *times], rows)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    everything = [*CONDITIONS, SUPERVISED]
    running = commands.add_parser("run")
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    running.add_argument("--conditions", nargs="+", default=everything, choices=everything)
    running.set_defaults(function=run)
    reporting = commands.add_parser("report")
    reporting.add_argument("--output", type=Path)
    reporting.add_argument("--picture", type=Path, default=Path("docs/images/learning.png"))
    reporting.set_defaults(function=report)
    for command in (running, reporting):
        command.add_argument("--folder", type=Path, default=Path("runs/learning"))
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
