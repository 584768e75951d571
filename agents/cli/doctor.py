"""``search-env doctor``: try every part of a training run once, before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search_env.agents.cli.common import need_agents, progress
from search_env.cli import options
from search_env.cli.console import say
from search_env.cli.options import without_none

if TYPE_CHECKING:
    from search_env.agents.doctor.findings import Finding, Level

_STYLES: dict[Level, str] = {"OK": "green", "warning": "yellow", "error": "red"}
_FAILED = 1  # exit code where a finding is an error


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog="Example: search-env doctor tiny-base --dataset world")(
        doctor_command
    )


def doctor_command(
    model: Annotated[
        str, typer.Argument(help="Bundled name, folder, .gguf file or hub id of a causal LM.")
    ] = "tiny-base",
    env_id: Annotated[str, typer.Option("--env", help="Id of the environment.")] = "SearchQA-v0",
    config: Annotated[
        Path | None,
        typer.Option(help="TOML, YAML or JSON file of settings; config.json of a run is one."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of train, NAME=VALUE.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Algorithm, as of train.")] = None,
    dataset: options.Dataset = None,
    split: options.Split = None,
    dataset_options: options.DatasetOptions = None,
    eval_dataset: Annotated[
        str | None, typer.Option(help="Questions to evaluate on.", rich_help_panel=options.TASK)
    ] = None,
    eval_split: Annotated[
        str | None, typer.Option(help="Split to evaluate on.", rich_help_panel=options.TASK)
    ] = None,
    corpus: options.Corpus = None,
    retriever: options.RetrieverName = None,
    top_k: options.TopK = None,
    protocol: options.ProtocolName = None,
    prompt: options.PromptStyle = None,
    tokenizer: options.TokenizerName = None,
    max_tokens: options.MaxTokens = None,
    modules: options.Modules = None,
    reward: options.RewardName = None,
    num_envs: Annotated[int | None, typer.Option(help="Episodes side by side.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of the trial.")] = 16,
) -> None:
    """Examine what a training run needs: tokenizer, model, questions, retrieval, memory, time.

    Plays a few episodes and makes one step of the learner; nothing is written. Options are those of
    search-env train. The exit code is 1 if there is an error.
    """
    need_agents("doctor")
    from search_env.agents.doctor.examine import examine
    from search_env.agents.training.checks import check_run
    from search_env.agents.training.settings import configure

    named = {
        **{"model": model, "env_id": env_id, "max_tokens": max_tokens, "phases": reward},
        **{"num_envs": num_envs, "dtype": dtype, "imports": modules},
        **{"env_options.dataset": dataset, "env_options.split": split},
        "env_options.dataset_options": options.named_values(dataset_options),
        **{"env_options.corpus": corpus, "env_options.retriever": retriever},
        **{"env_options.top_k": top_k, "env_options.protocol": protocol},
        **{"env_options.prompt": prompt, "env_options.tokenizer": tokenizer},
        **{"eval_options.dataset": eval_dataset, "eval_options.split": eval_split},
    }
    texts = settings or ()
    run = configure(preset=preset, file=config, values=without_none(named), texts=texts)
    check_run(run)
    section, levels = "", []
    with progress("episodes", episodes) as advance:
        for finding in examine(run, episodes=episodes, progress=advance):
            if finding.section != section:
                section = finding.section
                say(f"\n{section}", "bold")
            _show(finding)
            levels.append(finding.level)
    errors, warnings = levels.count("error"), levels.count("warning")
    say(f"\n{errors} errors, {warnings} warnings, {levels.count('OK')} findings OK")
    if errors:
        raise typer.Exit(_FAILED)


def _show(finding: Finding) -> None:
    """Print a finding, its level first, its next step below."""
    say(f"  {finding.level:<8} {finding.text}", _STYLES[finding.level])
    if finding.advice:
        say(f"  {'':<8} {finding.advice}")
