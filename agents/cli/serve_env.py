"""``search-env serve-env``: the environment as an OpenEnv server, for trainers of others."""

from __future__ import annotations

from typing import Annotated

import typer

from search_env.cli import options
from search_env.cli.console import say
from search_env.cli.options import import_modules, named_values, without_none
from search_env.validation import check_count

_SESSIONS = "Sessions"


def register(app: typer.Typer) -> None:
    """Add the command."""
    example = "Example: search-env serve-env SearchQA-Toy-v0 --port 8000 --sessions 64"
    app.command("serve-env", epilog=example)(serve_env_command)


def serve_env_command(
    env_id: options.EnvId = "SearchQA-v0",
    dataset: options.Dataset = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="The only split that is offered; all by default.", rich_help_panel=options.TASK
        ),
    ] = None,
    dataset_options: options.DatasetOptions = None,
    corpus: options.Corpus = None,
    retriever: options.RetrieverName = None,
    top_k: options.TopK = None,
    protocol: options.ProtocolName = None,
    prompt: options.PromptStyle = None,
    tokenizer: options.TokenizerName = None,
    max_tokens: options.MaxTokens = None,
    reward: options.RewardName = None,
    modules: options.Modules = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    sessions: Annotated[
        int,
        typer.Option(
            help="Episodes at the same time; more clients are refused.", rich_help_panel=_SESSIONS
        ),
    ] = 64,
    idle: Annotated[
        float,
        typer.Option(
            help="Seconds without a message after which a session is closed.",
            rich_help_panel=_SESSIONS,
        ),
    ] = 3600.0,
) -> None:
    """Serve the environment to TRL, SkyRL, verifiers, NeMo Gym and others that speak OpenEnv.

    Needs the `openenv` extra, in an environment of its own: it needs another mcp than `serve --mcp`
    does.
    """
    from search_env.agents.bridges.openenv import create_app, serve
    from search_env.agents.bridges.session import EnvironmentPool
    from search_env.retrieval.server.run import open_socket

    check_count("sessions", sessions, 1)
    import_modules(modules)
    arguments = without_none(
        {
            "dataset": dataset,
            "split": split,
            "dataset_options": named_values(dataset_options),
            "corpus": corpus,
            "retriever": retriever,
            "top_k": top_k,
            "protocol": protocol,
            "prompt": prompt,
            "tokenizer": tokenizer,
            "max_tokens": max_tokens,
            "reward": reward,
        }
    )
    pool = EnvironmentPool(env_id, arguments)
    pool.environment()  # says what is wrong before anything listens
    app = create_app(pool, sessions=sessions, idle_seconds=idle)
    listening = open_socket(host, port)
    address = listening.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    say(
        f"Serving {env_id} on http://{shown}:{address[1]} (OpenEnv, {sessions} sessions, splits "
        f"{', '.join(pool.splits)}). Use it: GenericEnvClient(base_url=...). Ctrl-C ends it."
    )
    serve(app, listening)
    say("Stopped.", stderr=True)
