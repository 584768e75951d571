"""What does training add to a base that is able to search? The default run, and changes to it.

    python -m search_env.benchmarks.studies.learning run --seeds 0 1 2 3 4 --folder runs/learning
    python -m search_env.benchmarks.studies.learning report --folder runs/learning

``run`` trains what is not there yet, and plays the base as it is, forced to search, and forced to
search for the question as it stands; ``report`` writes the page, its picture and the results by
question. Scores are of greedy episodes on questions of worlds that nobody trained on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

import search_env  # noqa: F401 - registers the ids
from search_env.agents.baselines.scripted import query_text
from search_env.agents.imitation.demonstrations import oracle_example, search_opening
from search_env.agents.imitation.sft import SupervisedConfig, fit
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.opening import OpeningEngine
from search_env.agents.inference.sampling import GREEDY
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.learning.precision import TORCH_DTYPES, resolve_dtype
from search_env.agents.models import load_model, save_model
from search_env.agents.reporting.logs import JsonLinesLog, Observers
from search_env.agents.reporting.plots import learning_figure
from search_env.agents.rollouts.collect import make_envs
from search_env.agents.rollouts.lm_agent import LanguageModelAgent, play_questions, spread
from search_env.agents.training.config import TrainConfig
from search_env.agents.training.default_run import ANSWER, ENV_OPTIONS, SEARCH, tiny_run
from search_env.agents.training.train import train
from search_env.agents.types import Trajectory
from search_env.benchmarks.reports.measurement_page import heading, interval, publish, table
from search_env.envs.search_qa import bare_env
from search_env.evaluation.evaluate import EpisodeMeasures, evaluate
from search_env.metrics.statistics import bootstrap_crossed, sign_test

TESTS: Mapping[str, tuple[int, dict[str, Any]]] = {
    "test world": (400, {}),
    "another world": (100, {"dataset_options": {"seed": 77}}),
    "10,000 articles": (100, {"dataset_options": {"articles": 10_000}}),
    "protocol search-r1": (100, {"protocol": "search-r1"}),
    "five documents": (100, {"top_k": 5}),
}
"""Where models are tested: number of questions, arguments of the environment. Only the base and
the run as it is bundled are tested everywhere, the others in the test world."""

CONDITIONS: Mapping[str, Mapping[str, Any]] = {
    "both phases": {},
    "phase 1 alone": {"phases": (SEARCH,)},
    "phase 2 alone": {"phases": (ANSWER,)},
    "no retrieval mask": {"mask_retrieved": False},
    "GRPO": {"advantage": "grpo"},
    "REINFORCE++": {"advantage": "reinforce_pp_baseline"},
    "PPO": {"advantage": "gae", "value_learning_rate": 2e-3},
    "DAPO": {"advantage": "grpo", "eps_high": 0.28, "dynamic_sampling": True, "max_batches": 2},
}
"""Changes to the default run: phases, fields of the algorithm."""

SUPERVISED = "SFT on oracles"
SUPERVISED_STEPS = 36  # of as many oracle episodes as a step of the others plays
BASE, FORCED, QUESTION_FIRST = "base", "base, forced to search", "base, the question as its query"


CLAIMS = """
Claimed before the runs (settings were chosen with seed 0 on the validation split):

1. Both phases answer .3 or more above the base that is forced to search (lower bound).
2. Phase 1 alone, which pays the first search and no answer, stays within .1 of that base.
3. Phase 2 alone ends within .05 of both phases: searching pays from the start.
4. Both phases stay below imitation of the oracle, which has twice as many episodes.
"""


class Scores(NamedTuple):
    """Scores by question, in the order of the questions."""

    exact_match: list[float]
    num_searches: list[int]
    well_formed: list[bool]
    hops: list[int]

    @classmethod
    def of(cls, episodes: Sequence[Trajectory]) -> Scores:
        """Return the scores of episodes."""
        return cls(
            [episode.scores["exact_match"] for episode in episodes],
            [episode.num_searches for episode in episodes],
            [episode.well_formed for episode in episodes],
            [episode.hops for episode in episodes],
        )

    @classmethod
    def of_measures(cls, episodes: Sequence[EpisodeMeasures]) -> Scores:
        """Return the scores of evaluated episodes."""
        return cls(
            [episode.exact_match for episode in episodes],
            [episode.searches or 0 for episode in episodes],
            [not episode.format_faults for episode in episodes],
            [episode.hops or 0 for episode in episodes],
        )


def configure(condition: str, seed: int, folder: Path) -> TrainConfig:
    """Return the run of a condition."""
    changes = dict(CONDITIONS[condition])
    config = tiny_run()
    run = {name: changes.pop(name) for name in list(changes) if hasattr(config, name)}
    algorithm = replace(config.algorithm, **changes)
    return replace(config, algorithm=algorithm, seed=seed, out=str(folder), **run)


def run_one(condition: str, seed: int, folder: Path) -> None:
    """Train one model and test it; leave ``result.json``."""
    log = JsonLinesLog(folder / "metrics.jsonl")
    started, cpu_before = time.monotonic(), _cpu_seconds()
    if condition == SUPERVISED:
        model = imitate(tiny_run(), seed, folder, log)
    else:
        result = train(configure(condition, seed, folder), observer=Observers([log]))
        model = result.model
    record: dict[str, Any] = {"condition": condition, "seed": seed}
    record |= {
        "cpu_seconds": _cpu_seconds() - cpu_before,
        "seconds": time.monotonic() - started,
    }
    names = list(TESTS) if condition == next(iter(CONDITIONS)) else ["test world"]
    record["tests"] = {name: score(model, name)._asdict() for name in names}
    (folder / "result.json").write_text(json.dumps(record) + "\n")


def _cpu_seconds() -> float:
    """Return the seconds of this process and of those that it started and that are over."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def imitate(config: TrainConfig, seed: int, folder: Path, log: JsonLinesLog) -> Path:
    """Fine-tune on oracle episodes of the training world; return the model's folder."""
    env = bare_env(gym.make(config.env_id))
    algorithm = config.algorithm
    random = np.random.default_rng(seed)
    drawn = random.integers(len(env.questions), size=SUPERVISED_STEPS * algorithm.sequences)
    played = {index: oracle_example(env, int(index)) for index in np.unique(drawn)}
    examples = [played[index] for index in drawn]
    tokens = sum(len(example.tokens) for example in examples) // SUPERVISED_STEPS
    optimizer = OptimizerConfig(learning_rate=algorithm.learning_rate)
    learner = Learner(load_model(config.model), optimizer, dtype=config.dtype)
    log.begin(SUPERVISED_STEPS, {"model": config.model, "condition": SUPERVISED})
    fit(learner, examples, SupervisedConfig(SUPERVISED_STEPS, tokens, seed), observer=log)
    log.end(SUPERVISED_STEPS, "all steps are made")
    return save_model(learner.model, folder / "model", learner.weights())


def score(model: Path | str, name: str, *, forced: bool = False) -> Scores:
    """Return the scores of greedy episodes, forced to search or not."""
    config, (count, options) = tiny_run(), TESTS[name]
    loaded = load_model(model, dtype=TORCH_DTYPES[resolve_dtype("auto")])
    options = {"split": "test", "max_tokens": 4096, **ENV_OPTIONS, **options}
    envs = make_envs(config.env_id, num_envs=32, vocabulary=1024, options=options)
    player: Any = loaded
    if forced:
        opening = search_opening(bare_env(gym.make(config.env_id, **options)))
        size = envs.protocol.max_tokens
        engine = Engine(loaded, rows=envs.num_envs, max_tokens=size, sampling=GREEDY)
        player = OpeningEngine(engine, opening)
    return Scores.of(play_questions(player, envs, spread(envs.questions, count)))


class QuestionFirst(LanguageModelAgent):
    """Searches for the question as it stands, then goes on as the model does."""

    def begin(self, env: Any, observation: Any) -> None:
        """Read the prompt, and write the query."""
        super().begin(env, observation)
        text = query_text(env.protocol, env.transcript().question.text)
        self._script = env.tokenizer.encode(text).tolist()

    def act(self, observation: Any) -> int:
        """Return the next id of the query, then of the model."""
        return self._script.pop(0) if self._script else super().act(observation)


def score_question_first(model: Path | str) -> Scores:
    """Return the scores of the model in the test world if its first query is the question."""
    count, options = TESTS["test world"]
    options = {"split": "test", "max_tokens": 4096, **ENV_OPTIONS, **options}
    env = bare_env(gym.make(tiny_run().env_id, **options))
    loaded = load_model(model, dtype=TORCH_DTYPES[resolve_dtype("auto")])
    return Scores.of_measures(
        list(evaluate(env, QuestionFirst(loaded), spread(env.questions, count)))
    )


def score_base() -> dict[str, dict[str, dict[str, list[Any]]]]:
    """Return the base's scores by condition and test."""
    model = tiny_run().model
    return {
        BASE: {name: score(model, name)._asdict() for name in TESTS},
        FORCED: {name: score(model, name, forced=True)._asdict() for name in TESTS},
        QUESTION_FIRST: {"test world": score_question_first(model)._asdict()},
    }


def run(args: argparse.Namespace) -> None:
    """Train and test all that is not there."""
    torch.set_num_threads(1)
    base = args.folder / "base.json"
    if not base.is_file():
        base.parent.mkdir(parents=True, exist_ok=True)
        base.write_text(json.dumps(score_base()) + "\n")
    for seed in args.seeds:
        for condition in args.conditions:
            folder = args.folder / condition.replace(" ", "-") / str(seed)
            if not (folder / "result.json").exists():
                folder.mkdir(parents=True, exist_ok=True)
                run_one(condition, seed, folder)
                print(f"{condition}, seed {seed}: done", flush=True)


Results = dict[str, list[dict[str, Any]]]


def read_results(folder: Path) -> Results:
    """Return the records of all conditions, seed by seed, those of the base first."""
    base = json.loads((folder / "base.json").read_text())
    results: Results = {name: [{"tests": tests}] for name, tests in base.items()}
    records = [json.loads(file.read_text()) for file in folder.glob("*/*/result.json")]
    for name in (*CONDITIONS, SUPERVISED):
        found = [record for record in records if record["condition"] == name]
        if found:
            results[name] = sorted(found, key=lambda record: record["seed"])
    return results


def report(args: argparse.Namespace) -> None:
    """Write the tables, the picture and the results by question."""
    results = read_results(args.folder)
    trained = [name for name in results if name in CONDITIONS]
    logs = {
        name: [
            args.folder / name.replace(" ", "-") / str(record["seed"]) / "metrics.jsonl"
            for record in results[name]
        ]
        for name in trained
    }
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    learning_figure(logs, args.picture)
    seeds = sorted({record["seed"] for name in trained for record in results[name]})
    numbers = " ".join(map(str, seeds))
    conditions = shlex.join(name for name in results if name in (*CONDITIONS, SUPERVISED))
    module = "python -m search_env.benchmarks.studies.learning"
    text = heading(
        "What training adds",
        f"{module} run --seeds {numbers} --conditions {conditions}; {module} report",
        ("search-env", "torch", "transformers", "numpy"),
    )
    text += f"\n{main_table(results)}\n{_LEGEND}{CLAIMS}"
    for name in TESTS:
        text += f"\n## {name}\n\n{hops_table(results, name)}\n"
    publish(text, args.output)
    if args.episodes is not None:
        args.episodes.write_bytes(gzip.compress(json.dumps(results).encode(), mtime=0))


_LEGEND = """
Means over seeds and questions; EM and gain with 95 % intervals over both (pigeonhole bootstrap),
the others with t intervals over seeds. *Gain* is the difference in EM from the base that is forced
to search, on the same questions; *p* is that of the sign test over questions, of each question's
mean over seeds, two-sided and uncorrected.
"""


def values(records: Sequence[Mapping[str, Any]], name: str, what: str) -> Any:
    """Return scores as an array ``(seeds, questions)``."""
    return np.array([record["tests"][name][what] for record in records], float)


def main_table(results: Results) -> str:
    """Return the scores in the test world, with the gain over the base that is forced to search."""
    forced = values(results[FORCED], "test world", "exact_match")
    rows = []
    for name, records in results.items():
        right = values(records, "test world", "exact_match")
        searches = values(records, "test world", "num_searches")
        tidy = values(records, "test world", "well_formed")
        gain, p_value = "", ""
        if name != FORCED:
            difference = right - forced
            gain = _shown(difference, signed=True)
            by_question = difference.mean(axis=0)
            more, less = int((by_question > 0).sum()), int((by_question < 0).sum())
            p_value = f"{sign_test(more, less):.2g}"
        clocks = [
            interval([r[clock] / 60 for r in records], 1) if clock in records[0] else ""
            for clock in ("cpu_seconds", "seconds")
        ]
        per_seed = [interval(list(cells.mean(axis=1))) for cells in (searches > 0, searches, tidy)]
        rows.append([name, str(len(records)), *per_seed, _shown(right), gain, p_value, *clocks])
    columns = ["condition", "seeds", "search rate", "searches", "well formed", "EM", "gain", "p"]
    return table([*columns, "CPU min", "minutes"], rows)


def _shown(cells: Any, *, signed: bool = False) -> str:
    """Return the mean of an array ``(seeds, questions)`` with its interval."""
    found, sign = bootstrap_crossed(cells.tolist()), "+" if signed else ""
    return f"{found.mean:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def hops_table(results: Results, name: str) -> str:
    """Return EM by hops, of the conditions with this test."""
    rows = []
    for condition, records in results.items():
        if name not in records[0]["tests"]:
            continue
        right, hops = (values(records, name, what) for what in ("exact_match", "hops"))
        groups = [right, *(right[:, hops[0] == number] for number in (1, 2, 3, 4))]
        cells = [interval(list(group.mean(axis=1))) for group in groups]
        rows.append([condition, str(len(records)), *cells])
    return table(["condition", "seeds", "EM", "1 hop", "2 hops", "3 hops", "4 hops"], rows)


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
    reporting.add_argument("--episodes", type=Path, help="compressed results by question")
    reporting.set_defaults(function=report)
    for command in (running, reporting):
        command.add_argument("--folder", type=Path, default=Path("runs/learning"))
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
