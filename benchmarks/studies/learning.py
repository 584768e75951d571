"""Does it learn? The bundled agent on the world, condition by condition, seed by seed.

    python -m benchmarks.studies.learning run --seeds 0 1 2 3 4 --folder runs/learning
    python -m benchmarks.studies.learning report --folder runs/learning

``run`` trains what is not there yet, one run after another on one thread, so that several may share
a machine; ``report`` writes ``benchmarks/results/learning.md`` and its picture. All conditions take
as many training steps of as many episodes, from the same base model; but "as bundled" is what
``search-env train`` does: fewer steps, two processes. Scores are of greedy episodes on
questions of worlds that nobody trained on; intervals are t intervals over seeds.
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
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import search_env  # noqa: F401 - registers the ids
from agents.config import Phase, TrainConfig
from agents.demonstrations import oracle_example
from agents.learner import Learner, OptimizerConfig
from agents.logs import JsonLinesLog, Observers
from agents.metrics import evaluation_metrics
from agents.models import load_model, save_model
from agents.plots import learning_figure
from agents.policy import play_questions
from agents.reinforce import make_envs, train
from agents.supervised import SupervisedConfig, fit
from agents.tiny import ANSWER, ENV_OPTIONS, SEARCH, TINY, tiny_run
from benchmarks.reports.measurement_page import heading, interval, publish, table
from search_env.evaluation import bare_env
from search_env.rewards import R1_SEARCHER_STAGE2, Reward, register_reward
from search_env.scoring import exact_match
from search_env.types import Transcript

STEPS = 36
"""Of each condition."""

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
    "DAPO": {
        "advantage": "grpo",
        "eps_high": 0.28,
        "dynamic_sampling": True,
        "max_batches": 2,
    },
    "three times the learning rate": {"learning_rate": 3 * TINY.learning_rate},
    "phase 1 not handed over": {
        "phase_search_rate": None,
        "phase_format_rate": None,
        "phase_episodes": None,
    },
    "EM as reward": {"phases": (SEARCH, Phase(reward=EXACT.name))},
    "asked one and two hops": {"env_options": {**ENV_OPTIONS, "dataset_options": {"hops": [1, 2]}}},
    "as bundled": {"steps": tiny_run().steps, "processes": 2},
}
"""Changes to the bundled run: phases, fields of the run, fields of the algorithm."""

SUPERVISED = "SFT on oracles"
"""As many oracle episodes as the others play, in as many updates."""


def configure(condition: str, seed: int, folder: Path) -> TrainConfig:
    """Return the run of a condition."""
    changes = dict(CONDITIONS[condition])
    config = replace(tiny_run(), steps=STEPS, processes=1, threads=1)
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
    count = config.steps * algorithm.sequences
    drawn = random.integers(len(env.questions), size=count)
    known = {int(index): oracle_example(env, int(index)) for index in np.unique(drawn)}
    examples = [known[int(index)] for index in drawn]
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
        envs = make_envs(config.env_id, rows=32, vocabulary=1024, options=options)
        asked = np.linspace(0, len(envs.questions) - 1, count).round().astype(int).tolist()
        scores[name] = evaluation_metrics(play_questions(loaded, envs, asked))
    return scores


def run(arguments: argparse.Namespace) -> None:
    """Train and test all that is not there."""
    base = arguments.folder / "base.json"
    if not base.is_file():
        base.parent.mkdir(parents=True, exist_ok=True)
        base.write_text(json.dumps(test(tiny_run().model), indent=1) + "\n")
    for seed in arguments.seeds:
        for condition in arguments.conditions:
            folder = arguments.folder / condition.replace(" ", "-") / str(seed)
            if not folder.exists():
                folder.mkdir(parents=True)
                run_one(condition, seed, folder)
                print(f"{condition}, seed {seed}: done", flush=True)


def report(arguments: argparse.Namespace) -> None:
    """Write the tables and the picture."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(arguments.folder.glob("*/*/result.json")):
        record = json.loads(file.read_text())
        found.setdefault(record["condition"], []).append(record)
    base = json.loads((arguments.folder / "base.json").read_text())
    order = [name for name in (*CONDITIONS, SUPERVISED) if name in found]
    # Curves compare on the same held-out questions; runs that are not over have none yet.
    runs = {
        name: [
            result.with_name("metrics.jsonl")
            for result in sorted((arguments.folder / name.replace(" ", "-")).glob("*/result.json"))
        ]
        for name in order
        if name != SUPERVISED and "env_options" not in CONDITIONS[name]
    }
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    learning_figure(runs, arguments.picture)
    seeds = sorted({record["seed"] for records in found.values() for record in records})
    text = heading(
        "Learning to search, then to answer",
        f"python -m benchmarks.studies.learning run --seeds {' '.join(map(str, seeds))} "
        f"--conditions {shlex.join(order)}; python -m benchmarks.studies.learning report",
        ("search-env", "torch", "transformers", "numpy"),
    )
    text += f"\n{_table('test world', base, found, order)}\n"
    for name in TESTS:
        text += f"\n## {name}\n\n{_by_hops(name, base, found, order)}\n"
    publish(text, arguments.output)


def _table(
    test_name: str,
    base: Mapping[str, Any],
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    order: Sequence[str],
) -> str:
    columns = [
        "condition",
        "seeds",
        "search rate",
        "searches",
        "EM",
        "F1",
        "well formed",
        "CPU min",
        "minutes",
    ]
    names = ("search_rate", "searches", "exact_match", "f1", "well_formed")
    first = [f"{base[test_name][f'eval/{name}']:.3f}" for name in names]
    rows = [["base", "-", *first, "-", "-"]]
    for condition in order:
        records = found[condition]
        cells = [
            interval([r["tests"][test_name][f"eval/{name}"] for r in records]) for name in names
        ]
        cells += [
            interval([r[clock] / 60 for r in records], digits=1)
            for clock in ("cpu_seconds", "seconds")
        ]
        rows.append([condition, str(len(records)), *cells])
    return table(columns, rows)


def _by_hops(
    test_name: str,
    base: Mapping[str, Any],
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    order: Sequence[str],
) -> str:
    keys = ["eval/exact_match", *(f"eval/exact_match_{hops}_hops" for hops in (1, 2, 3, 4))]
    rows = [["base", *(f"{base[test_name].get(key, math.nan):.3f}" for key in keys)]]
    for condition in order:
        records = found[condition]
        rows.append(
            [
                condition,
                *(
                    interval([r["tests"][test_name].get(key, math.nan) for r in records])
                    for key in keys
                ),
            ]
        )
    return table(["EM", "all", "1 hop", "2 hops", "3 hops", "4 hops"], rows)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("report", report)):
        command = commands.add_parser(name)
        command.add_argument("--folder", type=Path, default=Path("runs/learning"))
        command.set_defaults(function=function)
        if name == "run":
            everything = [*CONDITIONS, SUPERVISED]
            command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
            command.add_argument("--conditions", nargs="+", default=everything, choices=everything)
        else:
            command.add_argument("--output", type=Path)
            command.add_argument("--picture", type=Path, default=Path("docs/images/learning.png"))
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
