"""A real language model learns to search real text: one recipe, stage by stage.

    python -m search_env.benchmarks.studies.real_model read --model smollm2 --folder runs/real
    python -m search_env.benchmarks.studies.real_model start strong
    python -m search_env.benchmarks.studies.real_model label weak
    python -m search_env.benchmarks.studies.real_model train weak both 0
    python -m search_env.benchmarks.studies.real_model evaluate strong weak-both-0
    python -m search_env.benchmarks.studies.real_model report --output results.md

``read`` practises single-hop reading, ``start`` imitates episodes (``strong``: all of them search
for each hop; ``weak``: a few search among many that answer at once), ``label`` measures which
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
    chains,
    closed_book,
    corpus_of,
    hops_of,
    play_script,
    quoting,
    single_facts,
    steps_of,
    write_questions,
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
from search_env.types import Document, Question

# Reading practice and cold starts.


def practice_questions(study: Study) -> list[Question]:
    """Return questions of one hop: facts of passages, and steps of training questions."""
    env, recipe = study.env(), study.recipe
    made = [*single_facts(usable_passages(env)), *steps_of(env.questions)]
    order = np.random.default_rng((recipe.seed, 0)).permutation(len(made))
    return [made[i] for i in order[: 2 * recipe.read_episodes]]  # some are not found


def searching_questions(study: Study) -> list[Question]:
    """Return questions of several hops: training questions in turn with chains of facts."""
    env, recipe = study.env(), study.recipe
    random = np.random.default_rng((recipe.seed, 1))
    passages = {document.id: document for document in corpus_of(env)}
    found = [(question, hops_of(question, passages)) for question in env.questions]
    asked = [replace(question, hops=hops) for question, hops in found if hops is not None]
    made = list(chains(usable_passages(env), random))
    kept = [made[i] for i in random.permutation(len(made))]
    return [
        question
        for pair in itertools.zip_longest([asked[i] for i in random.permutation(len(asked))], kept)
        for question in pair
        if question is not None
    ]


def usable_passages(env: SearchQAEnv) -> Iterator[Document]:
    """Yield the passages that support no question of evaluation."""
    held_out = {id_ for q in load_questions(HELD_OUT, None, None) for id_ in q.supporting}
    return (document for document in corpus_of(env) if document.id not in held_out)


def played(study: Study, name: str, questions: Sequence[Question]) -> Iterator[Example]:
    """Yield the quoting episodes of questions, which are written to a file of the folder."""
    path = study.folder / f"{name}.jsonl"
    write_questions(path, questions)
    env = study.env(path)
    examples = (play_script(env, index, quoting) for index in range(len(env.questions)))
    return (example for example in examples if example is not None)


def start_examples(study: Study, start: str) -> list[Example]:
    """Return the episodes of a cold start."""
    recipe = study.recipe
    count = recipe.strong_episodes if start == "strong" else recipe.weak_searching
    episodes = played(study, f"{start}-questions", searching_questions(study))
    examples = list(itertools.islice(episodes, count))
    if len(examples) < count:
        raise ConfigurationError(
            f"Expected questions for {count} episodes that search, got {len(examples)}. Lower "
            "their number in the recipe."
        )
    if start == "strong":
        return examples
    env, random = study.env(), np.random.default_rng((recipe.seed, 2))
    for index in random.permutation(len(env.questions))[: recipe.weak_closed].tolist():
        example = play_script(env, index, closed_book)
        examples += [] if example is None else [example]
    return [examples[i] for i in random.permutation(len(examples))]


def imitate(study: Study, name: str, examples: Sequence[Example], rate: float) -> None:
    """Train a stage's model on examples once, or go on with it; leave ``model`` and its adapter."""
    recipe, out = study.recipe, study.folder / name
    if (out / "adapter.safetensors").is_file():
        print(f"{name}: done before", flush=True)
        return
    tokens = sum(len(example.tokens) for example in examples)
    steps = max(1, round(tokens / recipe.imitated_tokens))
    config = OptimizerConfig(
        learning_rate=rate, warmup_steps=min(5, steps // 4), schedule="linear", total_steps=steps
    )
    base = load_model(study.model(study.parent(name)))
    model = with_lora(base, recipe.lora_rank, 2 * recipe.lora_rank) if recipe.lora_rank else base
    learner = Learner(
        model,
        config,
        dtype=resolve_dtype(recipe.dtype, model.device),
        max_tokens_per_micro_batch=2 * recipe.max_tokens,
    )
    settings = {**asdict(config), "stage": name, "examples": digest_examples(examples)}
    saves = SupervisedSaves(learner, out, settings)
    log = JsonLinesLog(out / "metrics.jsonl", resume_step=saves.step)
    log.begin(steps, {"stage": name, "examples": str(len(examples))})
    supervised = SupervisedConfig(
        steps, recipe.imitated_tokens, recipe.seed, save_every=max(1, steps // 10)
    )
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
    episodes = played(study, "read-questions", practice_questions(study))
    examples = list(itertools.islice(episodes, recipe.read_episodes))
    imitate(study, READ, examples, recipe.read_rate)


def start_stage(study: Study, start: str) -> None:
    """Imitate the episodes of a cold start."""
    imitate(study, start, start_examples(study, start), study.recipe.start_rate)


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
