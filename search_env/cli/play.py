"""``search-env play``: a person plays the policy, line by line, at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, TextIO

import typer

from search_env.cli import options
from search_env.cli.console import say
from search_env.envs.search_qa import SearchQAEnv, bare_env
from search_env.protocols.grammar import open_thoughts
from search_env.protocols.tagged_text import answer_text, query_text, without_tags
from search_env.rendering.live import LiveTerminal
from search_env.types import TagRole, Transcript

_SEARCH_SIGN, _ANSWER_SIGN = "?", "!"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("play", epilog="Example: search-env play SearchQA-v0 --seed 3")(play_command)


def play_command(
    env_id: options.EnvId = "SearchQA-v0",
    question_id: Annotated[
        str | None, typer.Option(help="Id of the question; by default a random one.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the random question.")] = None,
    split: options.Split = None,
    top_k: options.TopK = None,
    corpus: options.Corpus = None,
    protocol: options.ProtocolName = None,
    tokenizer: options.TokenizerName = None,
    max_tokens: options.MaxTokens = None,
) -> None:
    """Play the policy yourself: read a question, search, answer."""
    env = bare_env(
        options.make_env(
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
    if _play(env, _read_line, sys.stdout).stop_reason is None:
        say("\nLeft before the end.", "yellow", stderr=True)


def _play(env: SearchQAEnv, read_line: Callable[[], str | None], stream: TextIO) -> Transcript:
    """Play an episode until it ends or ``read_line`` returns None; return the transcript.

    A line ``? words`` searches and ``! words`` answers; any other line is written unchanged, with
    its line break, and may contain the tags itself.
    """
    terminal = LiveTerminal(stream)
    terminal.show(env.frame())
    stream.write("\n\n" + _instructions(env))
    while env.transcript().stop_reason is None:
        stream.write("\n")
        stream.flush()
        if (line := read_line()) is None:
            break
        text = _text_of(env, line)
        if text is None:
            stream.write(f"Write something after {line.strip()}\n")
            continue
        for token in env.tokenizer.encode(text).tolist():
            _, _, terminated, truncated, _ = env.step(token)
            if terminated or truncated:
                break
        terminal.show(env.frame())
    return env.transcript()


def _instructions(env: SearchQAEnv) -> str:
    """Return how to search and to answer, in the protocol's own tags."""
    query, answer = (env.protocol.pair(role) for role in (TagRole.TOOL, TagRole.ANSWER))
    return (
        f"{_SEARCH_SIGN} words   searches, the same as {query.open} words {query.close}\n"
        f"{_ANSWER_SIGN} words   answers, the same as {answer.open} words {answer.close}\n"
        "Anything else is written unchanged. Ctrl-D leaves.\n"
    )


def _text_of(env: SearchQAEnv, line: str) -> str | None:
    """Return the text that a line writes into the episode, or None for a sign without words."""
    sign, words = line.strip()[:1], line.strip()[1:]
    if sign not in (_SEARCH_SIGN, _ANSWER_SIGN):
        return line + "\n"
    if not without_tags(env.protocol, words):
        return None
    if sign == _SEARCH_SIGN:
        return query_text(env.protocol, words)
    return answer_text(env.protocol, words, thoughts=open_thoughts(env.transcript()))


def _read_line() -> str | None:
    try:
        return input("> ")
    except EOFError:
        return None
