"""``search-env sample``: rollouts of each question, the good ones kept for imitation.

A model is sampled by the built-in engine, many episodes side by side
(:mod:`search_env.agents.rollouts.sample`). All other agents are those of ``search-env bench``,
played by :mod:`search_env.benchmarks.players`, which is why the command is here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search_env.agents.cli.common import Seed, Threads, need_agents, progress
from search_env.benchmarks.cli.bench import Api, Concurrency, Dtype, NumEnvs, Retries, Timeout
from search_env.cli import options
from search_env.cli.console import check_output, say
from search_env.interrupts import exit_code

if TYPE_CHECKING:
    from search_env.agents.rollouts.sample_file import KeepRule, SampleCounts
    from search_env.benchmarks.harness.results_file import EpisodeResult
    from search_env.benchmarks.harness.spec import BenchmarkProtocol
    from search_env.benchmarks.players.base import BenchmarkAgent, EpisodeToRecord, Evaluation
    from search_env.envs.search_qa import SearchQAEnv
    from search_env.envs.search_qa_vector import SearchQAVectorEnv
    from search_env.types import Transcript

_MAX_TOKENS = 4096  # of an id that says nothing of it

Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="right (the default), cover-right, well-formed, r1-searcher++ (right and well formed "
        "by its rules) or all; repeatable: all must hold."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "sample",
        epilog="Example: search-env sample SearchQA-v0 --model tiny-trained --rollouts 8 "
        "--keep right --keep well-formed --out episodes.jsonl",
    )(sample_command)


def sample_command(
    out: Annotated[Path, typer.Option(help="File of episodes; one it began is continued.")],
    env_id: options.EnvId = "SearchQA-v0",
    model: Annotated[
        str | None,
        typer.Option(help="Bundled name, folder, hub id, .gguf file; or its name at an endpoint."),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(help="In place of a model: http://HOST/v1, python:MODULE:FUNCTION, oracle."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.")] = None,
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts of each question.")] = 8,
    keep: Keep = None,
    least: Annotated[float | None, typer.Option(help="Lowest reward that is kept.")] = None,
    most: Annotated[
        int | None, typer.Option(min=1, help="Most that is kept of a question: fewest searches.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Share of the probability that is kept.")] = 1.0,
    dataset: options.Dataset = None,
    split: options.Split = None,
    dataset_options: options.DatasetOptions = None,
    corpus: options.Corpus = None,
    retriever: options.RetrieverName = None,
    top_k: options.TopK = None,
    reward: options.RewardName = None,
    protocol: options.ProtocolName = None,
    prompt: options.PromptStyle = None,
    tokenizer: options.TokenizerName = None,
    max_tokens: options.MaxTokens = None,
    modules: options.Modules = None,
    num_envs: NumEnvs = None,
    dtype: Dtype = None,
    threads: Threads = None,
    api: Api = None,
    concurrency: Concurrency = None,
    timeout: Timeout = None,
    retries: Retries = None,
    seed: Seed = 0,
) -> None:
    """Play rollouts of each question and keep those that a rule selects, to imitate them.

    A run that was stopped goes on where it was. --most keeps the fewest searches of a question,
    then the fewest tokens, then the first; --least compares --reward, by default the id's.
    """
    from search_env.agents.rollouts.sample_file import KeepRule
    from search_env.benchmarks.players.base import Decoding, Evaluation
    from search_env.envs.checks import check_arguments

    options.import_modules(modules)
    rule = KeepRule(tuple(keep or ("right",)), least, most)
    decoding = Decoding(temperature, top_p, rollouts)
    named = options.arguments_for(
        env_id,
        "train",
        **{"dataset": dataset, "split": split, "corpus": corpus, "retriever": retriever},
        **{"top_k": top_k, "reward": reward, "protocol": protocol, "prompt": prompt},
        **{"tokenizer": tokenizer, "max_tokens": max_tokens},
        **{"dataset_options": options.named_values(dataset_options)},
    )
    check_arguments(env_id, named, "the options")
    check_output(out)
    evaluation = Evaluation(_questions(env_id, named), seed=seed, decoding=decoding)
    agent, model = (agent, model) if agent else (f"model:{model or 'tiny-base'}", None)
    player = _make_player(
        agent,
        evaluation,
        threads,
        **{"tokenizer": tokenizer, "max_tokens": max_tokens, "num_envs": num_envs, "dtype": dtype},
        **{"model": model, "api": api, "concurrency": concurrency},
        **{"timeout": timeout, "retries": retries},
    )
    sample = _sample_model if agent.startswith("model:") else _sample_player
    try:
        counts = sample(player, evaluation, out, rule, limit)
    except KeyboardInterrupt as error:
        say(f"Interrupted. Run the same command to go on with {out}.", "yellow", stderr=True)
        raise typer.Exit(exit_code(error)) from None
    imitator = agent.removeprefix("model:") if agent.startswith("model:") else model
    _show(counts, out, imitator, tokenizer)


def _questions(env_id: str, arguments: Mapping[str, Any]) -> BenchmarkProtocol:
    """Return what the players are told of an environment that is no benchmark's."""
    from search_env.benchmarks.harness.spec import BenchmarkProtocol
    from search_env.envs.config import EnvConfig
    from search_env.envs.registration import arguments_of

    defaults = {"protocol": EnvConfig.protocol, "max_tokens": _MAX_TOKENS}
    arguments = {**defaults, **arguments_of(env_id), **arguments}
    return BenchmarkProtocol(
        question_set=env_id,
        system=arguments["protocol"],
        retrieval="any",
        env_id=env_id,
        arguments=arguments,
    )


def _make_player(
    agent: str, evaluation: Evaluation, threads: int | None, **given: Any
) -> BenchmarkAgent:
    """Return the agent; what it does not take of the environment's options stays there."""
    from search_env.agents.baselines.scripted import BASELINES
    from search_env.benchmarks.players.factory import make_agent

    decoding = evaluation.decoding
    if not agent.startswith("model:"):
        own = evaluation.protocol.environment().get("tokenizer")
        given |= {"tokenizer": None if agent in BASELINES else own, "max_tokens": None}
    else:
        need_agents("sample")
        import torch

        from search_env.agents.inference.sampling import Sampling

        Sampling(temperature=decoding.temperature, top_p=decoding.top_p)  # checks before the load
        if threads is not None:
            torch.set_num_threads(threads)
    return make_agent(agent, evaluation.protocol, seed=evaluation.seed, **given)


def _sample_model(
    player: Any, evaluation: Evaluation, out: Path, rule: KeepRule, limit: int | None
) -> SampleCounts:
    """Sample a ``ModelAgent``'s model in the built-in engine."""
    from search_env.agents.rollouts.sample import sample_episodes

    rollouts = evaluation.decoding.samples
    envs, engine = player.make_rows(evaluation, None if limit is None else limit * rollouts)
    count = _count(envs, limit)
    with progress("sample", count) as advance:
        return sample_episodes(
            envs,
            engine,
            out,
            rule,
            rollouts=rollouts,
            indices=range(count),
            seed=evaluation.seed,
            settings={"agent": dict(player.description)},
            progress=advance,
        )


def _sample_player(
    player: BenchmarkAgent, evaluation: Evaluation, out: Path, rule: KeepRule, limit: int | None
) -> SampleCounts:
    """Sample any other agent; a question is written as soon as all its rollouts are over."""
    from search_env.agents.rollouts.sample_file import SampleFile

    description, decoding = dict(player.description), evaluation.decoding
    sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p}
    settings = {"sampling": sampling, "seed": evaluation.seed, "agent": description}
    env = evaluation.make_env(tokenizer=description.get("tokenizer"))
    count = _count(env, limit)
    waiting: dict[int, dict[int, Transcript]] = {}
    with (
        SampleFile(out, env, rule, rollouts=decoding.samples, settings=settings) as file,
        progress("sample", count) as advance,
    ):
        left = [index for index in range(count) if index not in file.done]
        others = len(file.done) + len(left) - count  # done by a run with a higher limit

        def on_episode(result: EpisodeResult, episode: EpisodeToRecord) -> None:
            rollouts = waiting.setdefault(result.index, {})
            rollouts[result.sample] = episode.transcript
            if len(rollouts) == decoding.samples:
                del waiting[result.index]
                file.write(result.index, [rollouts[sample] for sample in sorted(rollouts)])
                advance(len(file.done) - others, count)

        if left:
            player.play(evaluation, list(product(left, range(decoding.samples))), on_episode)
        return file.counts


def _count(env: SearchQAEnv | SearchQAVectorEnv, limit: int | None) -> int:
    return len(env.questions) if limit is None else min(limit, len(env.questions))


def _show(counts: SampleCounts, out: Path, model: str | None, tokenizer: str | None) -> None:
    """Print the totals and the next command."""
    say(
        f"{counts.questions:,} questions, {counts.rollouts:,} rollouts: {counts.kept:,} episodes "
        f"kept, of {counts.covered:,} questions ({counts.covered / max(1, counts.questions):.0%})."
    )
    if counts.failed:
        say(f"Retrieval failed in {counts.failed:,} rollouts.", "yellow", stderr=True)
    if not counts.kept:
        say("Nothing was kept. Sample more rollouts, or keep by a weaker rule, in another file.")
        return
    words = ["search-env", "sft", str(out), "--model", model or "tiny-base"]
    words += ["--tokenizer", tokenizer] if tokenizer else []
    say(f"Imitate them: {shlex.join([*words, '--out', 'runs/sft'])}")
