"""A real language model learns to search real text: one recipe, stage by stage.

    python -m search_env.benchmarks.studies.real_model read --model smollm2 --folder runs/real
    python -m search_env.benchmarks.studies.real_model start strong
    python -m search_env.benchmarks.studies.real_model label weak
    python -m search_env.benchmarks.studies.real_model train weak both 0
    python -m search_env.benchmarks.studies.real_model evaluate strong weak-both-0
    python -m search_env.benchmarks.studies.real_model report --output results.md

``read`` practises single-hop reading, ``start`` imitates episodes (``strong``: all of them search,
for later hops too; ``weak``: a few search among many that answer at once), ``label`` measures which
questions have anything to learn from, ``train`` is one run of reinforcement learning, ``evaluate``
plays models and what they are compared with, ``report`` writes the tables. Each command goes on
where it was stopped, and skips what is done. The first one writes the recipe into the folder; all
others read it there.

A stage leaves ``model``, whole, and ``adapter.safetensors``, what it changed, which is small enough
to be kept; ``assemble`` makes the models of a folder again from the first one and these files.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.imitation.sft import SupervisedConfig, fit
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.sampling import Sampling
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.learning.precision import TORCH_DTYPES, resolve_dtype
from search_env.agents.models import count_ids, load_model, save_model, with_lora, with_tokenizer
from search_env.agents.reporting.logs import JsonLinesLog, Observers
from search_env.agents.rollouts.collect import make_envs
from search_env.agents.rollouts.curriculum import label_difficulty
from search_env.agents.training import checkpoints, run_folder
from search_env.agents.training.config import Phase, TrainConfig
from search_env.agents.training.supervised_saves import SupervisedSaves, digest_examples
from search_env.agents.training.train import train
from search_env.agents.types import Example
from search_env.benchmarks.harness.spec import BenchmarkProtocol
from search_env.benchmarks.players.base import BenchmarkAgent
from search_env.benchmarks.players.factory import make_agent
from search_env.benchmarks.question_sets.registry import get_benchmark
from search_env.benchmarks.run import run
from search_env.benchmarks.studies.real_model_data import (
    bridge_search,
    closed_book,
    plain_search,
    play_script,
    reading_cards,
)
from search_env.benchmarks.studies.real_model_recipe import (
    ANSWER,
    CONDITIONS,
    HELD_OUT,
    READ,
    SEARCH,
    SETS,
    STARTS,
    VARIANTS,
    Recipe,
    Study,
)
from search_env.benchmarks.studies.real_model_report import SCRIPT, report
from search_env.envs.loading import load_questions
from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import ConfigurationError
from search_env.paths import append, atomic_path
from search_env.typed_values import build

# Reading practice and cold starts.


def reading_examples(study: Study) -> list[Example]:
    """Return cards for all updates, none of them twice."""
    recipe, env = study.recipe, study.env()
    cards = reading_cards(
        env,
        load_questions(HELD_OUT, None, None),
        np.random.default_rng(recipe.seed),
        whole=recipe.read_whole,
    )
    needed, examples = recipe.read_steps * recipe.read_tokens, []
    while needed > 0:
        examples.append(next(cards))
        needed -= len(examples[-1].tokens)
    return examples


def start_examples(study: Study, start: str) -> list[Example]:
    """Return the episodes of a cold start; those whose documents lack the answer are left out."""
    recipe, env = study.recipe, study.env()
    random = np.random.default_rng((recipe.seed, STARTS.index(start)))
    order = iter(random.permutation(len(env.questions)).tolist())

    def searching(count: int, bridges: float) -> Iterator[Example]:
        while count:
            script = bridge_search if random.random() < bridges else plain_search
            example, is_readable = play_script(env, _next(order, env), script)
            if is_readable:
                count -= 1
                yield example

    if start == "strong":
        return list(searching(recipe.strong_episodes, recipe.strong_bridges))
    examples = list(searching(recipe.weak_searching, recipe.weak_bridges))
    examples += [
        play_script(env, _next(order, env), closed_book)[0] for _ in range(recipe.weak_closed)
    ]
    return [examples[i] for i in random.permutation(len(examples))]


def _next(order: Iterator[int], env: SearchQAEnv) -> int:
    index = next(order, None)
    if index is None:
        raise ConfigurationError(
            f"Expected enough questions for the cold start, got {len(env.questions)}. Lower the "
            "numbers of episodes."
        )
    return index


def imitate(study: Study, name: str, examples: Sequence[Example], config: OptimizerConfig) -> None:
    """Train a stage's model on examples, or go on with it; leave ``model`` and its adapter."""
    recipe, out = study.recipe, study.folder / name
    if (out / "adapter.safetensors").is_file():
        print(f"{name}: done before", flush=True)
        return
    base = load_model(study.model(study.parent(name)))
    model = with_lora(base, recipe.lora_rank, 2 * recipe.lora_rank) if recipe.lora_rank else base
    learner = Learner(model, config, dtype=resolve_dtype(recipe.dtype, model.device))
    steps = config.total_steps or 1
    tokens = recipe.read_tokens if name == READ else recipe.start_tokens
    settings = {**asdict(config), "stage": name, "examples": digest_examples(examples)}
    saves = SupervisedSaves(learner, out, settings)
    log = JsonLinesLog(out / "metrics.jsonl", resume_step=saves.step)
    log.begin(steps, {"stage": name, "examples": str(len(examples))})
    supervised = SupervisedConfig(steps, tokens, recipe.seed, save_every=max(1, steps // 10))
    try:
        fit(learner, examples, supervised, observer=Observers([log]), save=saves.save)
    finally:
        log.end(learner.updates, "it ended")
        saves.save()
    weights = learner.weights()
    save_model(model, out / "model", weights)
    _save_adapter(out, weights, [n for n, p in model.named_parameters() if p.requires_grad])
    saves.finish()


def _save_adapter(out: Path, weights: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Write the weights that a stage trained; its last file, so that it says that it is done."""
    with atomic_path(out / "adapter.safetensors") as temporary:
        save_file({name: weights[name].detach().cpu().contiguous() for name in names}, temporary)


def assemble(study: Study, name: str) -> Path:
    """Make the model of a stage again, if it is missing, from the first model and adapters."""
    out, recipe = study.folder / name, study.recipe
    if (out / "model").is_dir():
        return out / "model"
    parent = study.parent(name)
    if parent != "base":
        assemble(study, parent)
    base = load_model(study.model(parent))
    model = with_lora(base, recipe.lora_rank, 2 * recipe.lora_rank) if recipe.lora_rank else base
    trained = load_file(out / "adapter.safetensors")
    unexpected = model.load_state_dict(trained, strict=False).unexpected_keys
    if unexpected:
        raise ConfigurationError(
            f"Expected adapters of {recipe.model} with rank {recipe.lora_rank} in {out}, got "
            f"others ({unexpected[0]}). Take those of the same recipe."
        )
    return save_model(model, out / "model", dict(model.state_dict()))


def read_stage(study: Study) -> None:
    """Practise reading."""
    recipe = study.recipe
    steps = recipe.read_steps
    config = OptimizerConfig(
        learning_rate=recipe.read_rate,
        warmup_steps=min(10, steps // 4),
        schedule="linear",
        total_steps=steps,
    )
    imitate(study, READ, reading_examples(study), config)


def start_stage(study: Study, start: str) -> None:
    """Imitate the episodes of a cold start."""
    recipe, examples = study.recipe, start_examples(study, start)
    tokens = sum(len(example.tokens) for example in examples)
    steps = max(1, round(recipe.start_epochs * tokens / recipe.start_tokens))
    config = OptimizerConfig(
        learning_rate=recipe.start_rate,
        warmup_steps=min(5, steps // 4),
        schedule="linear",
        floor=0.1,
        total_steps=steps,
    )
    imitate(study, start, examples, config)


# Reinforcement learning.


def label_stage(study: Study, start: str) -> None:
    """Label questions by how many rollouts a start needs."""
    recipe = study.recipe
    model = load_model(study.model(start), dtype=TORCH_DTYPES[resolve_dtype(recipe.dtype)])
    options = {**recipe.training(), "max_tokens": recipe.max_tokens}
    envs = make_envs(
        "SearchQA-v0",
        num_envs=recipe.num_envs,
        vocabulary=count_ids(model),
        options=with_tokenizer(options, model),
    )
    engine = Engine(model, rows=envs.num_envs, max_tokens=recipe.max_tokens, sampling=Sampling())
    count = min(recipe.label_questions, len(envs.questions))
    labels = label_difficulty(
        envs,
        engine,
        study.folder / start / "difficulties.jsonl",
        indices=range(count),
        rollouts=recipe.label_rollouts,
        at_once=min(4, recipe.label_rollouts),
        seed=recipe.seed,
    )
    levels = [label.level for label in labels.values()]
    print({level: levels.count(level) for level in sorted(set(levels))}, flush=True)


def run_name(start: str, condition: str, seed: int) -> str:
    """Return the name of a run, which its folder has."""
    return f"{start}-{condition}-{seed}"


def configure(study: Study, start: str, condition: str, seed: int) -> TrainConfig:
    """Return the settings of a run."""
    recipe, changes = study.recipe, dict(CONDITIONS[condition])
    rewards = changes.pop("phases", (SEARCH, ANSWER))
    labels = study.folder / start / "difficulties.jsonl"
    algorithm = Algorithm(
        surrogate="ppo",
        aggregation="token_mean",
        prompts=recipe.prompts,
        group_size=recipe.group_size,
        learning_rate=recipe.learning_rate,
        kl="loss" if recipe.kl_coefficient else "none",
        kl_coefficient=recipe.kl_coefficient,
        dynamic_sampling=recipe.dynamic_sampling,
        max_batches=3,
        importance_correction="tis",
        warmup_steps=3,
    )
    config = TrainConfig(
        model=study.model(start),
        algorithm=replace(algorithm, **changes),
        env_options=recipe.training(),
        max_tokens=recipe.max_tokens,
        phases=tuple(Phase(reward=name, levels=recipe.levels) for name in rewards),
        phase_episodes=recipe.phase_episodes,
        phase_search_rate=recipe.phase_search_rate,
        phase_format_rate=None,
        phase_window=8 * recipe.group_size,
        difficulties=str(labels) if recipe.label_questions else None,
        steps=recipe.steps,
        num_envs=recipe.num_envs,
        lora_rank=recipe.lora_rank,
        dtype=recipe.dtype,  # type: ignore[arg-type]  # checked there
        max_tokens_per_micro_batch=4 * recipe.max_tokens,
        seed=seed,
        eval_every=0,
        checkpoint_every=recipe.checkpoint_every,
        keep_checkpoints=1,
        record_every=max(1, recipe.steps // 3),
        out=str(study.folder / run_name(start, condition, seed)),
    )
    return replace(config, **recipe.overrides)


def train_stage(study: Study, start: str, condition: str, seed: int, minutes: float | None) -> None:
    """Make a run, or go on with it; after ``minutes`` in all it ends and can be gone on with."""
    config = replace(configure(study, start, condition, seed), minutes=minutes)
    out = Path(config.out)
    if (out / "adapter.safetensors").is_file():
        print(f"{out.name}: done before", flush=True)
        return
    newest = checkpoints.latest(out / "checkpoints")
    resume = run_folder.holds_run(out)
    step = None if not resume else 0 if newest is None else checkpoints.step_of(newest)
    started = time.monotonic()
    log = JsonLinesLog(out / "metrics.jsonl", resume_step=step)
    result = train(config, resume=resume, observer=Observers([log]))
    row = {"steps": result.steps, "reason": result.reason, "seconds": time.monotonic() - started}
    append(out / "parts.jsonl", json.dumps(row).encode() + b"\n")
    last = checkpoints.latest(out / "checkpoints")
    if result.steps >= config.steps and last is not None:
        weights = checkpoints.load(last).weights
        _save_adapter(out, weights, list(weights))


# Evaluation.


def protocol_of(recipe: Recipe, name: str, *, whole: bool = False) -> BenchmarkProtocol:
    """Return the questions of a set under the recipe's limits, with an id that names both."""
    base = get_benchmark(SETS[name])
    count = "" if whole else f"-{recipe.eval_questions}"
    options = {} if whole else {"dataset_options": {"most_questions": recipe.eval_questions}}
    own = {**recipe.environment(), "max_tokens": recipe.max_tokens}
    return replace(
        base,
        question_set=f"{base.question_set}{count}",
        system=f"r1-searcher-top{recipe.top_k}",
        retrieval=base.retrieval if recipe.corpus is None else "bm25",
        arguments={**base.arguments, **own, **options},
        questions_digest="",
        rules_digest="",
        corpus_digest=base.corpus_digest if recipe.corpus is None else "",
    )


def evaluate_stage(
    study: Study,
    models: Sequence[str],
    *,
    variants: Sequence[str],
    sets: Sequence[str],
    whole: bool = False,
) -> None:
    """Play models, and the script of one plain search, as far as they are not played yet."""
    recipe = study.recipe
    for name, (model, variant) in itertools.product(
        sets, [(SCRIPT, ""), *itertools.product(models, variants)]
    ):
        protocol = protocol_of(recipe, name, whole=whole)
        path = study.folder / "eval" / (f"{name}-whole" if whole else name)
        how = VARIANTS[variant]
        file = path / f"{'+'.join(part for part in (model, variant) if part)}.jsonl"
        agent: BenchmarkAgent
        if model == SCRIPT:
            agent = make_agent(SCRIPT, protocol, seed=0)
        else:
            options: dict[str, Any] = {
                "num_envs": recipe.num_envs,
                "dtype": resolve_dtype(recipe.dtype),
            }
            options |= {"forced": how.get("forced"), "max_tokens": recipe.max_tokens}
            assemble_if_kept(study, model)
            name_or_folder = f"model:{study.model(model)}"
            agent = make_agent(name_or_folder, protocol, seed=0, prompt=recipe.prompt, **options)
        results = run(protocol, agent, file, ablation=how.get("ablation"), command="evaluate")
        right = np.mean([record.exact_match for record in results.records])
        print(f"{file}: {len(results.records)} questions, EM {right:.3f}", flush=True)


def assemble_if_kept(study: Study, name: str) -> None:
    """Make a model whose adapters alone are there."""
    if name != "base" and not Path(study.model(name)).is_dir():
        assemble(study, name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    args = _parser().parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.stage == "read":
        recipe = _recipe(args)
        read_stage(Study(args.folder) if recipe is None else Study.begin(args.folder, recipe))
        return
    study = Study(args.folder)
    if args.stage == "start":
        start_stage(study, args.start)
    elif args.stage == "label":
        label_stage(study, args.start)
    elif args.stage == "train":
        train_stage(study, args.start, args.condition, args.seed, args.minutes)
    elif args.stage == "evaluate":
        chosen = {"variants": args.variants, "sets": args.sets, "whole": args.whole}
        evaluate_stage(study, args.models, **chosen)
    elif args.stage == "assemble":
        for name in args.models:
            print(assemble(study, name), flush=True)
    else:
        report(args.folder, args.output)


def _recipe(args: argparse.Namespace) -> Recipe | None:
    """Return the recipe of a file, a model and single settings; None where none is given."""
    content: dict[str, Any] = {}
    if args.recipe is not None:
        content = json.loads(args.recipe.read_text("utf-8"))
    if args.model is not None:
        content["model"] = args.model
    for text in args.set or ():
        name, _, value = text.partition("=")
        try:
            content[name] = json.loads(value)
        except ValueError:
            content[name] = value
    return build(Recipe, content) if content else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    stages = parser.add_subparsers(dest="stage", required=True)
    made = {
        name: stages.add_parser(name)
        for name in ("read", "start", "label", "train", "evaluate", "assemble", "report")
    }
    for stage in made.values():
        stage.add_argument("--folder", type=Path, default=Path("runs/real"))
        stage.add_argument("--threads", type=int)
    made["read"].add_argument("--model", help="folder of the first model")
    made["read"].add_argument("--recipe", type=Path, help="JSON file of settings")
    made["read"].add_argument("--set", action="append", help="NAME=VALUE of the recipe")
    for name in ("start", "label", "train"):
        made[name].add_argument("start", choices=STARTS)
    made["train"].add_argument("condition", choices=CONDITIONS)
    made["train"].add_argument("seed", type=int)
    made["train"].add_argument("--minutes", type=float, help="of all parts of the run")
    for name in ("evaluate", "assemble"):
        made[name].add_argument("models", nargs="+", help="base, read, a start, or a run's name")
    shown = list(VARIANTS)
    made["evaluate"].add_argument("--variants", nargs="+", choices=shown, default=shown[:4])
    made["evaluate"].add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    made["evaluate"].add_argument("--whole", action="store_true", help="all questions of the sets")
    made["report"].add_argument("--output", type=Path)
    return parser


if __name__ == "__main__":
    main()
