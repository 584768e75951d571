"""``search-env eval``: scripted agents on every question."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import gymnasium as gym
import typer

from search_env.cli import options
from search_env.cli.console import check_output, open_console, progress_bar, say
from search_env.errors import ConfigurationError
from search_env.interrupts import exit_code
from search_env.redaction import redacted

if TYPE_CHECKING:
    from search_env.evaluation.agent import Agent
    from search_env.evaluation.evaluate import EpisodeMeasures


def register(app: typer.Typer) -> None:
    """Add the command."""
    example = "Example: search-env eval SearchQA-Musique-v0 --limit 200 --out musique.json"
    app.command("eval", epilog=example)(eval_command)


def eval_command(
    context: typer.Context,
    env_id: options.EnvId = "SearchQA-v0",
    agent: Annotated[
        list[str] | None, typer.Option(help="Baseline to run, repeatable; all five by default.")
    ] = None,
    dataset: options.Dataset = None,
    split: options.Split = None,
    dataset_options: options.DatasetOptions = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of environment, agents and bootstrap.")] = 0,
    top_k: options.TopK = None,
    corpus: options.Corpus = None,
    retriever: options.RetrieverName = None,
    reward: options.RewardName = None,
    protocol: options.ProtocolName = None,
    tokenizer: options.TokenizerName = None,
    max_tokens: options.MaxTokens = None,
    modules: options.Modules = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the results to.")] = None,
) -> None:
    """Run scripted agents on every question once; show scores and retrieval.

    For models, endpoints and comparable scores, use search-env bench.
    """
    from search_env.agents.baselines.scripted import BASELINES, make_baseline
    from search_env.envs.search_qa import bare_env
    from search_env.evaluation import tables
    from search_env.evaluation.evaluate import summarise

    options.import_modules(modules)
    _check_are_baselines(agent or (), BASELINES)
    agents = {name: make_baseline(name, seed) for name in agent or BASELINES}
    env = options.make_env(
        env_id,
        **{"dataset": dataset, "split": split, "top_k": top_k, "corpus": corpus},
        **{"retriever": retriever, "reward": reward, "protocol": protocol},
        **{"tokenizer": tokenizer, "max_tokens": max_tokens},
        dataset_options=options.named_values(dataset_options),
    )
    check_output(out)
    total = len(bare_env(env).questions)
    count = total if limit is None else min(limit, total)
    say(tables.describe_run(env, count, seed))
    episodes, interrupt = _evaluate(env, agents, count, seed)
    summaries = {name: summarise(measures, seed=seed) for name, measures in episodes.items()}
    open_console().print(tables.summary_table(summaries))
    for note in tables.notes(summaries):
        say(note, "dim")
    if interrupt is not None:
        name, measures = list(episodes.items())[-1]
        text = f"Interrupted in {name} after {len(measures):,} of {count:,} questions."
        text += f" {out} was not written." if out is not None else ""
        text += " Run the same command to begin again."
        say(text, "yellow", stderr=True)
        raise typer.Exit(exit_code(interrupt))
    if out is not None:
        record = tables.run_record(env, summaries, episodes, command=context.obj, seed=seed)
        tables.write_json(out, record)
        say(f"Wrote {out}")
    say(
        f"Next: play the policy yourself with `search-env play {env_id}`, or write your own agent: "
        "two methods, see agents/baselines/scripted.py."
    )


def _check_are_baselines(names: Sequence[str], baselines: Collection[str]) -> None:
    """Check the agents; the error about those of ``search-env bench`` says so."""
    for name in names:
        if ":" in name and name not in baselines:
            raise ConfigurationError(
                f"Expected --agent among the baselines {', '.join(baselines)}, got "
                f"{redacted(name)!r}. Models, functions and endpoints play with search-env bench: "
                f"search-env bench PROTOCOL --agent {redacted(name)}. Without arguments it lists "
                "the protocols."
            )


def _evaluate(
    env: gym.Env[Any, Any], agents: Mapping[str, Agent], count: int, seed: int
) -> tuple[dict[str, list[EpisodeMeasures]], KeyboardInterrupt | None]:
    """Run agents on the first questions; return their measures, and what interrupted them.

    Each episode is stored at once: after Ctrl-C only the last agent is incomplete.
    """
    from search_env.evaluation.evaluate import evaluate

    episodes: dict[str, list[EpisodeMeasures]] = {}
    try:
        with progress_bar() as bar:
            tasks = {name: bar.add_task(name, total=count, start=False) for name in agents}
            for name, agent in agents.items():
                episodes[name] = []
                bar.start_task(tasks[name])

                def collect(episode: EpisodeMeasures, name: str = name) -> None:
                    episodes[name].append(episode)
                    bar.advance(tasks[name])

                evaluate(env, agent, range(count), seed=seed, progress=collect)
    except KeyboardInterrupt as error:
        if not episodes:
            raise
        return episodes, error
    return episodes, None
