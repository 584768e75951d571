"""``search-env replay`` and ``rescore``: recorded episodes executed or scored again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from search_env.cli.console import open_console, open_table, progress_bar, say
from search_env.cli.options import EpisodeFile, Modules, TornTail, import_modules

if TYPE_CHECKING:
    from rich.table import Table

    from search_env.recording.replay import Rescored


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("replay", epilog="Example: search-env replay episodes.jsonl")(replay_command)
    example = "Example: search-env rescore episodes.jsonl --reward exact-match"
    app.command("rescore", epilog=example)(rescore_command)


def replay_command(
    file: EpisodeFile, torn_tail: TornTail = "raise", modules: Modules = None
) -> None:
    """Execute recorded episodes again and compare all results with the record."""
    from search_env.recording.files import count_lines, read_episodes
    from search_env.recording.replay import replay_episodes

    import_modules(modules)
    episodes = read_episodes(file, torn_tail=torn_tail)
    with progress_bar() as bar:
        total = count_lines(file)
        replayed = list(bar.track(replay_episodes(episodes), total=total, description="replay"))
    say(
        f"{len(replayed):,} episodes, {sum(r.observations for r in replayed):,} observations and "
        f"{sum(r.searches for r in replayed):,} searches compared: all as recorded."
    )


def rescore_command(
    file: EpisodeFile,
    reward: Annotated[list[str], typer.Option(help="Name of a reward, repeatable.")],
    group_reward: Annotated[
        str | None, typer.Option(help="Name of a group reward to add to each reward.")
    ] = None,
    group_by: Annotated[
        str, typer.Option(help="Groups: record (as played) or question.")
    ] = "record",
    torn_tail: TornTail = "raise",
    modules: Modules = None,
) -> None:
    """Score recorded episodes by other rewards, without executing them."""
    from search_env.recording.replay import rescore

    import_modules(modules)
    results = [
        rescore(file, name, group_reward=group_reward, group_by=group_by, torn_tail=torn_tail)
        for name in dict.fromkeys(reward)
    ]
    open_console().print(_rescore_table(results))
    valid, invalid = len(results[0].valid), results[0].invalid
    say(f"Means over {valid:,} episodes.", "dim")
    if invalid:
        say(f"{invalid:,} left out because retrieval failed.", "dim")


def _rescore_table(results: Sequence[Rescored]) -> Table:
    """Return each reward's mean total above its parts."""
    from rich.text import Text

    table = open_table("reward", "part", numbers=["mean"])
    for result in results:
        mean = result.mean()
        table.add_row(Text(result.reward), Text("total"), f"{mean.total:.4f}", style="bold")
        for part, value in mean.parts.items():
            table.add_row("", Text(part), f"{value:.4f}")
    return table
