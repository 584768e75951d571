"""Options that several commands share, and construction of the environment they describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import typer

from search_env.envs.registration import ENVIRONMENTS, arguments_of
from search_env.envs.splits import splits_of

EnvId = Annotated[
    str, typer.Argument(help=f"One of {', '.join(ENVIRONMENTS)}, or MODULE:ID of your own.")
]
Split = Annotated[
    str | None, typer.Option(help="Split of the questions; by default the test split.")
]
TopK = Annotated[int | None, typer.Option(help="Documents per search.")]
Corpus = Annotated[str | None, typer.Option(help="Corpus file, or index of search-env index.")]
ProtocolName = Annotated[str | None, typer.Option(help="Name of the tags, prompt and limits.")]
TokenizerName = Annotated[
    str | None, typer.Option(help="Bundled name, path to a tokenizer.json, or hub id.")
]
MaxTokens = Annotated[int | None, typer.Option(help="Size of the context in tokens.")]
EpisodeFile = Annotated[Path, typer.Argument(help="Recorded episodes, see RecordEpisodes.")]
TornTail = Annotated[
    str, typer.Option(help="Treatment of a last line that is cut off: raise or skip.")
]
Modules = Annotated[
    list[str] | None,
    typer.Option("--import", help="Module that registers ids, retrievers or rewards; repeatable."),
]


def make_env(env_id: str, **arguments: Any) -> gym.Env[Any, Any]:
    """Make an environment on the test split, unless another split is passed.

    ``arguments`` are those of the environment; None stands for the environment's default.
    """
    arguments = {name: value for name, value in arguments.items() if value is not None}
    all_arguments = {**arguments_of(env_id), **arguments}
    if "split" not in all_arguments and "dataset" in all_arguments:
        arguments["split"] = splits_of(all_arguments["dataset"]).test
    return gym.make(env_id, **arguments)
