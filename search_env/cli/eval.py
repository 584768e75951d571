"""``search-env eval``: scripted agents on every question once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import gymnasium as gym
import typer

from search_env.cli.console import INTERRUPTED, check_output, open_console, progress_bar, say
from search_env.cli.options import (
    Corpus,
    EnvId,
    MaxTokens,
    ProtocolName,
    Split,
    TokenizerName,
    TopK,
    make_env,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from search_env.evaluation.agent import Agent
    from search_env.evaluation.evaluate import EpisodeMeasures


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "eval", epilog="Example: search-env eval SearchQA-Musique-v0 --limit 200 --out musique.json"
    )(eval_command)


def eval_command(
    context: typer.Context,
    env_id: EnvId = "SearchQA-v0",
    agent: Annotated[
        list[str] | None, typer.Option(help="Baseline to run, repeatable; by default all five.")
    ] = None,
    split: Split = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.")] = None,
    seed: Annotated[int, typer.Option(help="Of environment, agents and bootstrap.")] = 0,
    top_k: TopK = None,
    corpus: Corpus = None,
    protocol: ProtocolName = None,
    tokenizer: TokenizerName = None,
    max_tokens: MaxTokens = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the run to.")] = None,
) -> None:
    """Run scripted agents on every question once; show scores and retrieval."""
    from search_env.agents.baselines.scripted import BASELINES, make_baseline
    from search_env.envs.search_qa import bare_env
    from search_env.evaluation.evaluate import summarise
    from search_env.evaluation.tables import (
        notes,
        run_record,
        setting_line,
        summary_table,
        write_json,
    )

    agents = {name: make_baseline(name, seed) for name in agent or BASELINES}
    check_output(out)
    env = make_env(
        env_id,
        split=split,
        top_k=top_k,
        corpus=corpus,
        protocol=protocol,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
    )
    total = len(bare_env(env).questions)
    count = total if limit is None else min(limit, total)
    say(setting_line(env, count, seed))
    records, finished = _evaluate(env, agents, count, seed)
    summaries = {name: summarise(found, seed=seed) for name, found in records.items()}
    open_console().print(summary_table(summaries))
    for note in notes(summaries):
        say(note, "dim")
    if not finished:
        name = list(records)[-1]
        done = f"{name} after {len(records[name]):,} of {count:,} questions"
        unwritten = f" {out} was not written." if out is not None else ""
        say(f"Interrupted in {done}.{unwritten}", "yellow", stderr=True)
        raise typer.Exit(INTERRUPTED)
    if out is not None:
        write_json(out, run_record(env, summaries, records, command=context.obj, seed=seed))
        say(f"Wrote {out}")
    say(
        f"Next: take the policy's place with `search-env play {env_id}`, or write an agent of "
        "your own: two methods, see agents/baselines/scripted.py."
    )


def _evaluate(
    env: gym.Env[Any, Any], agents: Mapping[str, Agent], count: int, seed: int
) -> tuple[dict[str, list[EpisodeMeasures]], bool]:
    """Run agents on the first questions behind progress bars.

    Returns:
        Records by agent, and whether all ran to the end; after Ctrl-C the last agent's are partial.
    """
    from search_env.evaluation.evaluate import evaluate

    records: dict[str, list[EpisodeMeasures]] = {}
    try:
        with progress_bar() as bar:
            tasks = {name: bar.add_task(name, total=count, start=False) for name in agents}
            for name, agent in agents.items():
                found = records[name] = []
                bar.start_task(tasks[name])
                on_record = _collector(found, bar, tasks[name])
                evaluate(env, agent, range(count), seed=seed, progress=on_record)
    except KeyboardInterrupt:
        if not records:
            raise
        return records, False
    return records, True


def _collector(
    found: list[EpisodeMeasures], bar: Progress, task: TaskID
) -> Callable[[EpisodeMeasures], None]:
    """Keep each record at once, so that Ctrl-C loses none."""

    def collect(record: EpisodeMeasures) -> None:
        found.append(record)
        bar.advance(task)

    return collect
