"""Options that several commands share, and the environment that they describe."""

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

Split = Annotated[str | None, typer.Option(help="Questions' split; by default the one to test on.")]

TopK = Annotated[int | None, typer.Option(help="Documents a search.")]

Corpus = Annotated[
    str | None, typer.Option(help="Corpus file, or index made by search-env index, to search in.")
]

ProtocolName = Annotated[str | None, typer.Option(help="Tags, prompt and limits to play by.")]

TokenizerName = Annotated[
    str | None, typer.Option(help="Bundled name, path to a tokenizer.json, or hub id.")
]

MaxTokens = Annotated[int | None, typer.Option(help="Size of the context in tokens.")]

EpisodeFile = Annotated[Path, typer.Argument(help="Recorded episodes, see RecordEpisodes.")]

TornTail = Annotated[
    str, typer.Option(help="What to do about a last line that is cut off: raise or skip.")
]

Modules = Annotated[
    list[str] | None,
    typer.Option("--import", help="Module that registers ids, retrievers or rewards; repeatable."),
]


def make_env(env_id: str, **arguments: Any) -> gym.Env[Any, Any]:
    """Make an environment; on the split to test on, unless one is given.

    Args:
        env_id: A registered id, or ``module:id``.
        **arguments: Arguments of the environment; None leaves one as it is.

    Raises:
        ConfigurationError: No such id; or as raised by the environment.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    known = {**arguments_of(env_id), **given}
    if "split" not in known and "dataset" in known:
        given["split"] = splits_of(known["dataset"]).test
    return gym.make(env_id, **given)
