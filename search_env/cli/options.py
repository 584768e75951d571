"""Options that several commands share, and construction of the environment they describe.

The options of :data:`TASK` mean the same in every command that has them. Their help lists the
registered names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import typer

from search_env.datasets.locate import DATASETS
from search_env.envs.mixtures import Purpose, for_purpose
from search_env.envs.registration import ENVIRONMENTS, arguments_of
from search_env.envs.splits import GENERATED
from search_env.errors import ConfigurationError
from search_env.registry import import_module
from search_env.rewards import reward_names

TASK = "Questions, documents, protocol"
"""Panel of the options that describe the environment."""

_DATASETS = ", ".join((*GENERATED, *DATASETS))
_REWARDS = ", ".join(reward_names())

EnvId = Annotated[
    str, typer.Argument(help=f"One of {', '.join(ENVIRONMENTS)}, or MODULE:ID of your own.")
]
Dataset = Annotated[
    str | None,
    typer.Option(
        help=f"Questions in place of the id's: {_DATASETS}, a file, or a mixture such as "
        "hotpotqa+musique, 3*nq:train+popqa:test.",
        rich_help_panel=TASK,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Split of the questions; by default that of the dataset for this use.",
        rich_help_panel=TASK,
    ),
]
DatasetOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset-option",
        help="NAME=VALUE, repeatable. Of published sets and files: kinds, apart_from, "
        "most_yes_no, most_questions.",
        rich_help_panel=TASK,
    ),
]
TopK = Annotated[int | None, typer.Option(help="Documents per search.", rich_help_panel=TASK)]
Corpus = Annotated[
    str | None,
    typer.Option(help="Corpus file, or index of search-env index.", rich_help_panel=TASK),
]
RetrieverName = Annotated[
    str | None,
    typer.Option(
        "--retriever",
        help="bm25, lookup, faiss:FOLDER, hybrid:bm25+faiss:FOLDER, rerank:MODEL:bm25, "
        "http://HOST:PORT?dialect=NAME, mcp:URL, cassette:PATH, or one that --import registers.",
        rich_help_panel=TASK,
    ),
]
RewardName = Annotated[
    str | None, typer.Option("--reward", help=f"One of {_REWARDS}.", rich_help_panel=TASK)
]
ProtocolName = Annotated[
    str | None,
    typer.Option(
        help="Tags, prompt and limits: r1-searcher, r1-searcher++, search-r1 or toy.",
        rich_help_panel=TASK,
    ),
]
PromptStyle = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        help="base, chat-template (the model's own), or a family's, such as chatml.",
        rich_help_panel=TASK,
    ),
]
TokenizerName = Annotated[
    str | None,
    typer.Option(
        help="Bundled name, path to a tokenizer.json, or hub id; a model's own by default.",
        rich_help_panel=TASK,
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option(help="Size of the context in tokens.", rich_help_panel=TASK)
]
EpisodeFile = Annotated[Path, typer.Argument(help="Recorded episodes, see RecordEpisodes.")]
TornTail = Annotated[
    str, typer.Option(help="Treatment of a last line that is cut off: raise or skip.")
]
Modules = Annotated[
    list[str] | None,
    typer.Option("--import", help="Module that registers ids, retrievers or rewards; repeatable."),
]


def import_modules(names: list[str] | None) -> None:
    """Import the modules of ``--import``."""
    for name in names or ():
        import_module(name)


def named_values(texts: list[str] | None) -> dict[str, Any] | None:
    """Return the values of ``--dataset-option``: JSON, or the text itself; None for none.

    Raises:
        ConfigurationError: A text has no name, or a name is given twice.
    """
    values: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name or name in values:
            raise ConfigurationError(
                f"Expected NAME=VALUE, each name once, got {text!r}. Write for example "
                "--dataset-option most_yes_no=0.1."
            )
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values or None


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def arguments_for(env_id: str, purpose: Purpose, **arguments: Any) -> dict[str, Any]:
    """Return arguments of an environment on the dataset's split for a purpose.

    A split that is named stays: among the arguments, in the name of the dataset, or of the id where
    the dataset is the id's too. None among ``arguments`` stands for the environment's default.
    """
    arguments = without_none(arguments)
    merged = {**arguments_of(env_id), **arguments}
    if "dataset" in arguments and "split" not in arguments:
        merged.pop("split", None)
    if merged.get("split") is None and "dataset" in merged:
        dataset, arguments["split"] = for_purpose(merged["dataset"], purpose, keep=True)
        if dataset != merged["dataset"]:
            arguments["dataset"] = dataset
    return arguments


def make_env(env_id: str, **arguments: Any) -> gym.Env[Any, Any]:
    """Make an environment on the test split, unless another split is passed.

    ``arguments`` are those of the environment; None stands for the environment's default.
    """
    return gym.make(env_id, **arguments_for(env_id, "test", **arguments))
