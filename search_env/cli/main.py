"""The command line ``search-env``: the table of its commands, and their common behaviour.

A command is a module with ``register(app)`` and ``<name>_command``, imported when it is called; its
dependencies are imported inside its functions, so that ``--help`` is fast. This table is the only
place where ``search_env`` refers to its agents and benchmarks. Exit codes: 0, 2 after an expected
error with a message, 130 after Ctrl-C, 143 after SIGTERM. Results go to standard output, progress
and errors to standard error.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from importlib.metadata import version
from typing import Annotated, Any

import gymnasium as gym
import typer
from typer.core import TyperCommand, TyperGroup

from search_env.cli.console import print_any_text, say
from search_env.errors import SearchEnvError, nearest
from search_env.interrupts import exit_code, sigterm_interrupts
from search_env.redaction import redacted

COMMANDS = {
    "eval": ("search_env.cli.eval", "Run scripted agents on every question once; show scores."),
    "play": ("search_env.cli.play", "Play the policy yourself: read a question, search, answer."),
    "index": ("search_env.cli.index", "Build a BM25 or a dense index of a corpus."),
    "embed": ("search_env.cli.embed", "Write the vectors of a corpus, for a dense index."),
    "serve": ("search_env.cli.serve", "Serve a retriever to trainers, in their wire formats."),
    "serve-env": ("search_env.agents.cli.serve_env", "Serve the environment to other trainers."),
    "replay": ("search_env.cli.replay", "Execute recorded episodes again and compare."),
    "rescore": ("search_env.cli.replay", "Score recorded episodes by other rewards."),
    "score": ("search_env.cli.score", "Score outputs of other systems and compare them."),
    "view": ("search_env.cli.view", "Make a page that shows recorded episodes."),
    "bench": ("search_env.benchmarks.cli.bench", "Score an agent under a comparable protocol."),
    "suite": ("search_env.benchmarks.cli.suite", "Rank algorithms in ten small experiments."),
    "report": ("search_env.benchmarks.cli.report", "Make a page of scores, curves and episodes."),
    "convert": ("search_env.agents.cli.convert", "Make a folder of a model in a .gguf file."),
    "doctor": ("search_env.agents.cli.doctor", "Try every part of a training run once, before it."),
    "train": ("search_env.agents.cli.train", "Train a language model to search and to answer."),
    "label": ("search_env.agents.cli.label", "Measure how difficult questions are for a model."),
    "sample": ("search_env.benchmarks.cli.sample", "Play rollouts; keep the good ones to imitate."),
    "revise": ("search_env.agents.cli.revise", "Revise right episodes into shorter ones."),
    "pretrain": ("search_env.agents.cli.imitate", "Teach a model to read, on articles of worlds."),
    "sft": ("search_env.agents.cli.imitate", "Fine-tune a model on episodes."),
}
"""Module and one-line help of each command."""


class _Group(TyperGroup):
    """Loads the command that is called; prints expected errors as one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command for the list, which has only its help."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the command that is called."""
        if args and args[0] in COMMANDS:
            one = typer.Typer(rich_markup_mode="rich", add_completion=False)
            one.callback()(_about)  # a callback keeps it a group, even of one command
            importlib.import_module(COMMANDS[args[0]][0]).register(one)
            return args[0], typer.main.get_group(one).commands[args[0]], args[1:]
        ctx.fail(
            f"Expected a command among {', '.join(COMMANDS)}, got {args[0]!r}. "
            f"{nearest(args[0], COMMANDS)}"
        )

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Store the command line, which results of a run include."""
        ctx.obj = redacted(shlex.join(["search-env", *args]))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with sigterm_interrupts():
                return super().invoke(ctx)
        except (SearchEnvError, gym.error.Error, OSError) as error:
            say(f"Error: {redacted(str(error))}", "red", stderr=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            text = "Interrupted. Run the same command again; nothing is left to clean up."
            say(text, "yellow", stderr=True)
            raise typer.Exit(exit_code(error)) from None


app = typer.Typer(
    cls=_Group,
    name="search-env",
    help="Search-augmented question answering as a Gymnasium environment.",
    epilog="Example: search-env eval",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        say(f"search-env {version('search-env')}, Python {sys.version.split()[0]}")
        raise typer.Exit


@app.callback()
def _about(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Search-augmented question answering as a Gymnasium environment."""


def main() -> None:
    """Run the command line."""
    print_any_text()
    app()
