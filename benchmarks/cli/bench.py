"""``search-env bench``: the protocols, or one agent on one of them.

Episodes are played by :mod:`search_env.benchmarks.run`. This module is imported for every command,
so whatever needs torch or an endpoint's client is imported inside the functions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from search_env.benchmarks.harness.ablations import ABLATIONS, SWAPPED
from search_env.benchmarks.harness.results_file import agent_of
from search_env.cli.console import check_output, open_console, progress_bar, say
from search_env.cli.options import Modules, import_modules
from search_env.datasets.rows import one_line
from search_env.errors import ConfigurationError
from search_env.interrupts import exit_code
from search_env.redaction import redacted
from search_env.validation import check_choice

if TYPE_CHECKING:
    from search_env.benchmarks.harness.results_file import EpisodeResult, Results
    from search_env.benchmarks.harness.spec import BenchmarkProtocol
    from search_env.benchmarks.players.base import BenchmarkAgent

_OWN, _MODEL, _ENDPOINT = "In place of the protocol's, named in the id", "Model", "Endpoint"
_LONGEST_STEM = 160  # bytes of a file's name; systems allow 255


Questions = Annotated[
    str | None,
    Option(
        "--questions",
        "--dataset",
        help="Other questions: a file, DATASET:SPLIT, or a mixture of them.",
        rich_help_panel=_OWN,
    ),
]
Corpus = Annotated[
    str | None, Option(help="Corpus file, or index of search-env index.", rich_help_panel=_OWN)
]
Retriever = Annotated[
    str | None, Option(help="cassette:PATH, or one that --import registers.", rich_help_panel=_OWN)
]
Tokenizer = Annotated[
    str | None, Option(help="Tokenizer, also of an endpoint.", rich_help_panel=_MODEL)
]
MaxTokens = Annotated[
    int | None, Option(help="Size of the context in tokens.", rich_help_panel=_MODEL)
]
Prompt = Annotated[
    str | None, Option(help="Style of the prompt, base by default.", rich_help_panel=_MODEL)
]
NumEnvs = Annotated[int | None, Option(help="Episodes side by side.", rich_help_panel=_MODEL)]
Dtype = Annotated[str | None, Option(help="auto, fp32 or bf16.", rich_help_panel=_MODEL)]
Forced = Annotated[
    str | None,
    Option(
        help="What it is made to write: closed-book, search, question-first, question-as-query.",
        rich_help_panel=_MODEL,
    ),
]
Model = Annotated[str | None, Option(help="Name of its model.", rich_help_panel=_ENDPOINT)]
Api = Annotated[str | None, Option(help="completions, chat or tokens.", rich_help_panel=_ENDPOINT)]
Concurrency = Annotated[int | None, Option(help="Episodes at a time.", rich_help_panel=_ENDPOINT)]
Timeout = Annotated[
    float | None, Option(help="Seconds for a whole reply.", rich_help_panel=_ENDPOINT)
]
Retries = Annotated[int | None, Option(help="Further tries.", rich_help_panel=_ENDPOINT)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "bench",
        epilog="Example: search-env bench world-2hop/r1-searcher/bm25-world1k/v1 "
        "--agent model:tiny-trained",
    )(bench_command)


def bench_command(
    context: typer.Context,
    protocol_id: Annotated[
        str | None, typer.Argument(help="What is played; left out, all are listed.")
    ] = None,
    agent: Annotated[
        str,
        Option(help="A scripted baseline, model:NAME, python:MODULE:FUNCTION or http://HOST/v1."),
    ] = "question-as-query",
    out: Annotated[Path | None, Option(help="File of results; by default in runs/bench.")] = None,
    episodes: Annotated[Path | None, Option(help="File to record episodes in, to view.")] = None,
    limit: Annotated[int | None, Option(min=1, help="Only the first N questions.")] = None,
    ablation: Annotated[
        str | None, Option(help="no-documents, shuffled-documents or swapped-documents.")
    ] = None,
    samples: Annotated[int, Option(min=1, help="Episodes of each question.")] = 1,
    temperature: Annotated[float, Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, Option(help="Share of the probability that is kept.")] = 1.0,
    seed: Annotated[int, Option(min=0, help="Seed of environment and agent.")] = 0,
    questions: Questions = None,
    corpus: Corpus = None,
    retriever: Retriever = None,
    modules: Modules = None,
    trained_on: Annotated[
        list[str] | None, Option(help="Questions it was trained on, DATASET:SPLIT or a file.")
    ] = None,
    tokenizer: Tokenizer = None,
    max_tokens: MaxTokens = None,
    prompt: Prompt = None,
    num_envs: NumEnvs = None,
    dtype: Dtype = None,
    forced: Forced = None,
    model: Model = None,
    api: Api = None,
    concurrency: Concurrency = None,
    timeout: Timeout = None,
    retries: Retries = None,
    judge: Annotated[str | None, Option(help="Chat endpoint that judges, http://HOST/v1.")] = None,
    judge_model: Annotated[str | None, Option(help="Name of the judge's model.")] = None,
) -> None:
    """Score an agent under a protocol; a run that was stopped goes on where it was.

    For scripted agents in any environment, without an id, use search-env eval.
    """
    if protocol_id is None:
        _list()
        return
    _check(ablation, judge, judge_model, (out, episodes))
    import_modules(modules)
    from search_env.benchmarks.players.base import Decoding
    from search_env.benchmarks.players.factory import make_agent
    from search_env.benchmarks.question_sets.registry import get_benchmark

    protocol = get_benchmark(protocol_id)
    protocol = protocol if questions is None else protocol.over_questions(questions)
    protocol = protocol if corpus is None else protocol.over_corpus(corpus)
    protocol = protocol if retriever is None else protocol.over_retriever(retriever)
    _warn_of_overlap(protocol, trained_on or [])
    decoding = Decoding(temperature, top_p, samples)
    if agent.startswith("model:"):
        called = agent[6:] if forced is None else f"{agent[6:]}, {forced}"
        where = out or default_path(protocol, called, decoding.label, ablation, limit)
        dtype = _dtype_of_model(dtype, where)
    agent_options = {
        **{"tokenizer": tokenizer, "max_tokens": max_tokens, "prompt": prompt, "dtype": dtype},
        **{"num_envs": num_envs, "model": model, "api": api, "concurrency": concurrency},
        **{"timeout": timeout, "retries": retries, "forced": forced},
    }
    benchmark_agent = make_agent(agent, protocol, seed=seed, **agent_options)
    name = str(benchmark_agent.description["name"])
    path = out or default_path(protocol, name, decoding.label, ablation, limit)
    check_output(path)
    how = {"decoding": decoding, "limit": limit, "seed": seed, "command": context.obj or ""}
    results = play(protocol, benchmark_agent, path, ablation=ablation, episodes=episodes, **how)
    if judge is not None and judge_model is not None:
        results = _judge(results, judge, judge_model)
    _show(results, name)
    if ablation == SWAPPED:
        plain = default_path(protocol, name, decoding.label, None, limit)
        _show_evidence(protocol, play(protocol, benchmark_agent, plain, **how), results)


def _dtype_of_model(dtype: str | None, path: Path) -> str:
    """Return and show the type that a model computes in: one begun in a file of results is kept."""
    from search_env.agents.cli.common import need_agents

    need_agents("bench")  # says what to install where torch is not there
    from search_env.agents.learning.precision import dtype_in_words, resolve_dtype

    begun = agent_of(path).get("dtype") if dtype in (None, "auto") else None
    precision = resolve_dtype(str(begun or dtype or "auto"))
    say(f"Computed in {dtype_in_words(precision, resumed=begun is not None)}.", stderr=True)
    return precision


def _check(
    ablation: str | None,
    judge: str | None,
    judge_model: str | None,
    outputs: Sequence[Path | None],
) -> None:
    """Check options that need nothing else."""
    check_choice("--ablation", ablation, [None, *ABLATIONS])
    if judge is not None and judge_model is None:
        raise ConfigurationError(
            f"Expected the name of the judge at {redacted(judge)}, got none. Pass --judge-model."
        )
    for path in outputs:
        check_output(path)


def play(protocol: BenchmarkProtocol, agent: BenchmarkAgent, path: Path, **options: Any) -> Results:
    """Play behind a progress bar; arguments and errors are those of ``benchmarks.run.run``."""
    from search_env.benchmarks.run import run

    failed = 0
    try:
        with progress_bar() as bar:
            task = bar.add_task(one_line(str(agent.description["name"]))[:17], total=None)

            def begin(done: int, total: int) -> None:
                bar.update(task, total=total, completed=done)
                if done:
                    then = "going on" if done < total else "nothing is left to play"
                    say(f"{path} holds {done:,} of {total:,} episodes; {then}.", stderr=True)

            def progress(result: EpisodeResult) -> None:
                nonlocal failed
                bar.advance(task)
                failed += not result.record.valid

            results = run(protocol, agent, path, begin=begin, progress=progress, **options)
    except KeyboardInterrupt as error:
        say(f"Interrupted. Run the same command to go on with {path}.", "yellow", stderr=True)
        raise typer.Exit(exit_code(error)) from None
    if failed:
        say(
            f"Retrieval failed in {failed:,} episodes; they are not scored. Run the same "
            "command to play them again.",
            "yellow",
            stderr=True,
        )
    return results


def _judge(results: Results, url: str, model: str) -> Results:
    """Have the answers judged behind a progress bar."""
    from search_env.benchmarks.harness.results_file import with_verdicts
    from search_env.benchmarks.players.judge import Judge, prompt_digest
    from search_env.benchmarks.players.openai_endpoint import Endpoint

    with progress_bar() as bar:
        task = bar.add_task("judge", total=len(results.episodes))
        records, tally = Judge(Endpoint(url, model, api="chat"), model).judge(
            results.records, lambda: bar.advance(task)
        )
    tokens = ", ".join(f"{count:,} {kind}" for kind, count in tally.cost.items())
    say(
        f"Judge {model}: {tally.requested:,} answers judged now, {tally.remembered:,} before; "
        f"tokens: {tokens or 'unknown'}.",
        stderr=True,
    )
    return with_verdicts(results, records, {"model": model, "prompt": prompt_digest()})


def _list() -> None:
    """Show every protocol."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from search_env.benchmarks.question_sets.registry import all_benchmarks

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("protocol", no_wrap=True)
    table.add_column("note", overflow="fold")
    for protocol in all_benchmarks().values():
        table.add_row(protocol.id, Text(protocol.note))
    open_console().print(table)
    say("\nPlay one: search-env bench PROTOCOL --agent AGENT")


def _warn_of_overlap(protocol: BenchmarkProtocol, trained_on: list[str]) -> None:
    """Say so where questions of the protocol were trained on."""
    from search_env.benchmarks.run import overlap
    from search_env.envs.config import EnvComponents, EnvConfig
    from search_env.envs.loading import load_questions

    questions = EnvComponents(EnvConfig(**protocol.environment())).questions if trained_on else ()
    for source in trained_on:
        shared = overlap(load_questions(source, None, None), questions)
        if shared:
            say(
                f"Warning: {len(shared):,} of the {len(questions):,} questions are in {source}, "
                f"such as {shared[0]}. Scores on them say little of other questions.",
                "yellow",
                stderr=True,
            )


def default_path(
    protocol: BenchmarkProtocol, agent: str, decoding: str, ablation: str | None, limit: int | None
) -> Path:
    """Return the file of results that a run has where none is named."""
    parts = [agent, decoding, ablation or "", f"first{limit}" if limit else ""]
    name = "+".join(part for part in parts if part)
    stem = re.sub(r"[^\w.+-]+", "_", name).strip("_")
    if not stem.strip(".") or len(stem.encode()) > _LONGEST_STEM:
        digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12]
        stem = f"{stem[: _LONGEST_STEM // 4]}-{digest}"
    return Path("runs", "bench", *protocol.id.split("/")) / f"{stem}.jsonl"


def _show_evidence(protocol: BenchmarkProtocol, plain: Results, swapped: Results) -> None:
    """Print what the answers rest on, by the episodes with and without swapped documents."""
    from search_env.benchmarks.reports import tables
    from search_env.envs.config import EnvComponents, EnvConfig

    questions = EnvComponents(EnvConfig(**protocol.environment())).questions
    say(f"\nBeside {plain.path}, the same with the documents as they are:\n")
    open_console().print(tables.evidence_table(plain, swapped, questions))


def _show(results: Results, name: str) -> None:
    """Print the scores."""
    from search_env.benchmarks.reports import tables

    console = open_console()
    say(f"{results.header['protocol']}\n", "bold")
    if note := tables.protocol_note(results.header):
        say(f"{note}\n", "dim")
    console.print(tables.score_table({name: results}))
    say(tables.endings_line(results), "dim")
    if line := tables.cost_line(results):
        say(line, "dim")
    hint = "" if results.header.get("judge") else " (--judge URL --judge-model NAME)"
    say(tables.judge_line(results) + hint, "dim")
    for table in tables.breakdown_tables(results):
        console.print("\n", table, sep="")
    if line := tables.sample_line(results):
        say("\n" + line)
    say(f"\nWrote {results.path}")
