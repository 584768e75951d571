"""``search-env train``: train a language model to search and to answer.

Options become a :class:`~search_env.agents.training.config.TrainConfig` here; the work is in
:func:`search_env.agents.training.run_training.run_training`. Modules that need torch are imported
inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from search_env.agents.algorithms.presets import PRESETS
from search_env.agents.cli.common import ModelName, need_agents
from search_env.cli import options
from search_env.cli.console import say
from search_env.cli.options import TASK, without_none
from search_env.errors import ConfigurationError
from search_env.interrupts import exit_code

_LEARNING, _LIMITS = "Learning", "Limits and machine"
_PRESET_NAMES = ", ".join(("tiny", *PRESETS))


Out = Annotated[
    Path | None, Option(help="Folder of everything the run writes; runs/train by default.")
]
Resume = Annotated[bool, Option("--resume", help="Continue the run in the folder.")]
Config = Annotated[
    Path | None, Option(help="TOML, YAML or JSON file of settings; config.json of a run is one.")
]
Settings = Annotated[
    list[str] | None,
    Option("--set", help="Any setting, NAME=VALUE, repeatable: env_options.top_k=5."),
]
EvalDataset = Annotated[
    str | None,
    Option(
        help="Questions to evaluate and test on, if others; as --dataset.", rich_help_panel=TASK
    ),
]
EvalSplit = Annotated[str | None, Option(help="Split to evaluate on.", rich_help_panel=TASK)]
Preset = Annotated[
    str | None,
    Option(help=f"Algorithm, tiny by default: {_PRESET_NAMES}.", rich_help_panel=_LEARNING),
]
Phases = Annotated[
    str | None,
    Option(
        help="both (default), 1 (search), 2 (answer), or names of rewards with commas.",
        rich_help_panel=_LEARNING,
    ),
]
Difficulties = Annotated[
    Path | None,
    Option(help="File of search-env label: ask by difficulty.", rich_help_panel=_LEARNING),
]
Steps = Annotated[int | None, Option(help="Training steps.", rich_help_panel=_LIMITS)]
Minutes = Annotated[
    float | None, Option(help="End after so many minutes.", rich_help_panel=_LIMITS)
]
TestQuestions = Annotated[
    int, Option(min=0, help="Unseen questions for the table at the end.", rich_help_panel=_LIMITS)
]
NumEnvs = Annotated[int | None, Option(help="Episodes side by side.", rich_help_panel=_LIMITS)]
Dtype = Annotated[
    str | None, Option(help="auto, fp32, or bf16 with float32 weights.", rich_help_panel=_LIMITS)
]
Seed = Annotated[int | None, Option(help="Seed of everything random.", rich_help_panel=_LIMITS)]
Processes = Annotated[
    int | None, Option(help="Processes that share the work, on CPUs.", rich_help_panel=_LIMITS)
]
Threads = Annotated[int | None, Option(help="Threads of torch.", rich_help_panel=_LIMITS)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", epilog="Example: search-env train --minutes 10 --out runs/first")(
        train_command
    )


def train_command(
    context: typer.Context,
    env_id: options.EnvId = "SearchQA-v0",
    model: ModelName = None,
    out: Out = None,
    resume: Resume = False,
    config: Config = None,
    settings: Settings = None,
    dataset: options.Dataset = None,
    split: options.Split = None,
    dataset_options: options.DatasetOptions = None,
    eval_dataset: EvalDataset = None,
    eval_split: EvalSplit = None,
    corpus: options.Corpus = None,
    retriever: options.RetrieverName = None,
    top_k: options.TopK = None,
    protocol: options.ProtocolName = None,
    prompt: options.PromptStyle = None,
    tokenizer: options.TokenizerName = None,
    max_tokens: options.MaxTokens = None,
    modules: options.Modules = None,
    preset: Preset = None,
    phases: Phases = None,
    reward: options.RewardName = None,
    difficulties: Difficulties = None,
    steps: Steps = None,
    minutes: Minutes = None,
    test_questions: TestQuestions = 200,
    num_envs: NumEnvs = None,
    dtype: Dtype = None,
    seed: Seed = None,
    processes: Processes = None,
    threads: Threads = None,
) -> None:
    """Train a language model to search and to answer; compare it with the base model.

    Without options: the bundled base model, both phases, a few minutes on two CPU cores. An option
    wins over --config, and --config over --preset.
    """
    need_agents("train")
    from search_env.agents.training import run_folder
    from search_env.agents.training.run_training import run_training
    from search_env.agents.training.settings import configure, resumed

    limits = {"steps": steps, "minutes": minutes, "processes": processes, "threads": threads}
    if resume:
        _refuse_options(context, ("out", "resume", "test_questions", *limits))
        run_config = resumed(out or Path("runs/train"), without_none(limits))
    else:
        if reward is not None and phases is not None:
            raise ConfigurationError(
                f"Expected --phases or --reward, which is one phase, got {phases!r} and "
                f"{reward!r}. Leave one of them out."
            )
        id_given = _was_passed(context, "env_id")
        named = {
            **{"env_id": env_id if id_given else None, "model": model, **limits},
            **{"out": out and str(out), "phases": reward or phases, "num_envs": num_envs},
            **{"max_tokens": max_tokens, "dtype": dtype, "seed": seed},
            **{"difficulties": difficulties and str(difficulties), "imports": modules},
            **{"env_options.dataset": dataset, "env_options.split": split},
            "env_options.dataset_options": options.named_values(dataset_options),
            **{"env_options.corpus": corpus, "env_options.retriever": retriever},
            **{"env_options.top_k": top_k, "env_options.protocol": protocol},
            **{"env_options.prompt": prompt, "env_options.tokenizer": tokenizer},
            **{"eval_options.dataset": eval_dataset, "eval_options.split": eval_split},
        }
        values, texts = without_none(named), settings or ()
        run_config = configure(preset=preset, file=config, values=values, texts=texts)
    try:
        run_training(run_config, resume=resume, test_questions=test_questions)
    except KeyboardInterrupt as error:
        if not run_folder.holds_run(run_config.out):
            raise  # the run had not begun
        folder = shlex.quote(run_config.out)
        say(f"Interrupted. Go on with: search-env train --resume --out {folder}")
        raise typer.Exit(exit_code(error)) from None


def _was_passed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse_options(context: typer.Context, allowed: Sequence[str]) -> None:
    """Raise an error for options that a run cannot be resumed with."""
    wrong = [name for name in context.params if _was_passed(context, name) and name not in allowed]
    if wrong:
        raise ConfigurationError(
            f"Expected only {', '.join(allowed)} with --resume, got {', '.join(wrong)}: a resumed "
            "run keeps its own settings. Leave them out, or begin a new run."
        )
