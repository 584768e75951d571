"""A person in the policy's place: lines typed at a terminal become tokens of an episode.

The screen is :class:`~search_env.rendering.live.LiveTerminal`; here is only what a line means.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, TextIO

import typer

from search_env.cli.console import say
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
from search_env.envs.search_qa import SearchQAEnv
from search_env.protocols.grammar import open_thoughts
from search_env.protocols.tagged_text import answer_text, query_text, without_tags
from search_env.rendering.live import LiveTerminal
from search_env.types import TagRole, Transcript

SEARCH_SIGN = "?"
ANSWER_SIGN = "!"


def play(env: SearchQAEnv, read_line: Callable[[], str | None], stream: TextIO) -> Transcript:
    """Play an episode that has been reset, until it ends or the lines do.

    A line ``? words`` searches and ``! words`` answers; any other is written as it stands, with
    its line break, and may spell the tags itself.

    Args:
        env: Just reset.
        read_line: Returns the next line without its line break, or None when there is none.
        stream: Where to show the episode.

    Returns:
        What was left behind; its ``stop_reason`` is None where the lines ran out.

    Raises:
        RetrievalError: A search failed.
    """
    terminal = LiveTerminal(stream)
    terminal.show(env.frame())
    stream.write("\n\n" + instructions(env))
    while env.transcript().stop_reason is None:
        stream.write("\n")
        stream.flush()
        line = read_line()
        if line is None:
            break
        text = text_of(env, line)
        if text is None:
            stream.write(f"Write something after {line.strip()}\n")
            continue
        write(env, text)
        terminal.show(env.frame())
    return env.transcript()


def instructions(env: SearchQAEnv) -> str:
    """Return how to search and to answer, in the protocol's own tags."""
    query, answer = (env.protocol.pair(role) for role in (TagRole.TOOL, TagRole.ANSWER))
    return (
        f"{SEARCH_SIGN} words   searches, the same as {query.open} words {query.close}\n"
        f"{ANSWER_SIGN} words   answers, the same as {answer.open} words {answer.close}\n"
        "Anything else is written as it stands. Ctrl-D leaves.\n"
    )


def text_of(env: SearchQAEnv, line: str) -> str | None:
    """Return what a line writes into the episode, or None for a sign without words."""
    sign, words = line.strip()[:1], line.strip()[1:]
    if sign not in (SEARCH_SIGN, ANSWER_SIGN):
        return line + "\n"
    if not without_tags(env.protocol, words):
        return None
    if sign == SEARCH_SIGN:
        return query_text(env.protocol, words)
    return answer_text(env.protocol, words, thoughts=open_thoughts(env.transcript()))


def write(env: SearchQAEnv, text: str) -> None:
    """Step a text's tokens until they or the episode end."""
    for token in env.tokenizer.encode(text).tolist():
        _, _, terminated, truncated, _ = env.step(token)
        if terminated or truncated:
            return


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("play", epilog="Example: search-env play SearchQA-v0 --seed 3")(play_command)


def play_command(
    env_id: EnvId = "SearchQA-v0",
    question_id: Annotated[str | None, typer.Option(help="Instead of a random question.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the random question.")] = None,
    split: Split = None,
    top_k: TopK = None,
    corpus: Corpus = None,
    protocol: ProtocolName = None,
    tokenizer: TokenizerName = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Take the policy's place: read a question, search, answer."""
    from search_env.cli.play import play
    from search_env.envs.search_qa import bare_env

    env = bare_env(
        make_env(
            env_id,
            split=split,
            top_k=top_k,
            corpus=corpus,
            protocol=protocol,
            tokenizer=tokenizer,
            max_tokens=max_tokens,
        )
    )
    env.reset(seed=seed, options={} if question_id is None else {"question_id": question_id})
    if play(env, _read_line, sys.stdout).stop_reason is None:
        say("\nLeft before the end.", "yellow", stderr=True)


def _read_line() -> str | None:
    try:
        return input("> ")
    except EOFError:
        return None
