"""``search-env play``: a person plays the policy, line by line, at a terminal."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Callable
from typing import Annotated, Any, TextIO

import typer

from search_env.cli import options
from search_env.cli.console import say
from search_env.envs.search_qa import SearchQAEnv, bare_env
from search_env.protocols.grammar import open_thoughts
from search_env.protocols.tagged_text import answer_text, query_text, without_tags
from search_env.rendering.live import LiveTerminal
from search_env.rendering.spans import one_line
from search_env.types import Answered, Event, FormatFault, Searched, TagRole, Transcript

_SEARCH_SIGN, _ANSWER_SIGN = "?", "!"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PIECES = re.compile(r"\n|[^\S\n]+|(?:\x1b\[[0-9;]*m|[^\s])+")  # break, spaces, word


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
    screen: Any = sys.stdout
    if _is_terminal():
        screen = _Wrapped(screen, shutil.get_terminal_size().columns)
    if _play(env, _read_line, screen).stop_reason is None:
        say("\nLeft before the end.", "yellow", stderr=True)


def _play(env: SearchQAEnv, read_line: Callable[[], str | None], stream: TextIO) -> Transcript:
    """Play an episode until it ends or ``read_line`` returns None; return the transcript.

    A line ``? words`` searches and ``! words`` answers; any other line is written unchanged, with
    its line break, and may contain the tags itself. An empty line and a lone ``?`` show what can be
    written. After each line stands what it did.
    """
    terminal = LiveTerminal(stream)
    terminal.show(env.frame())
    stream.write("\n\n" + _instructions(env))
    while env.transcript().stop_reason is None:
        stream.write("\n")
        stream.flush()
        if (line := read_line()) is None:
            break
        if line.strip() in ("", _SEARCH_SIGN):
            stream.write(_help(env))
            continue
        text = _text_of(env, line)
        if text is None:
            stream.write(f"Write something after {line.strip()}\n")
            continue
        before = len(env.transcript().events)
        for token in env.tokenizer.encode(text).tolist():
            _, _, terminated, truncated, _ = env.step(token)
            if terminated or truncated:
                break
        terminal.show(env.frame())
        effects = map(_effect, env.transcript().events[before:])
        stream.write("".join(f"\n[{effect}]" for effect in effects if effect))
    return env.transcript()


def _effect(event: Event) -> str | None:
    """Return what an event did, in words; None for tags and the end, which the screen shows."""
    if isinstance(event, Searched):
        count = len(event.documents)
        return f"searched for {one_line(event.query)!r}: {count} document{'s' * (count != 1)}"
    if isinstance(event, Answered):
        return f"answered {one_line(event.text)!r}"
    if isinstance(event, FormatFault):
        return f"format fault: {event.kind.value.replace('_', ' ')}"
    return None


def _instructions(env: SearchQAEnv) -> str:
    """Return how to search and to answer, in the protocol's own tags."""
    query, answer = (env.protocol.pair(role) for role in (TagRole.TOOL, TagRole.ANSWER))
    return (
        f"{_SEARCH_SIGN} words   searches, the same as {query.open} words {query.close}\n"
        f"{_ANSWER_SIGN} words   answers, the same as {answer.open} words {answer.close}\n"
        f"Anything else is written unchanged. {_SEARCH_SIGN} alone shows help, Ctrl-D leaves.\n"
    )


def _help(env: SearchQAEnv) -> str:
    """Return what can be written, what tags do, and what is left of each budget."""
    budgets = (f"{budget.name} {budget}" for budget in env.frame().budgets)
    return (
        _instructions(env)
        + "Text without tags is thinking: it costs tokens and changes nothing else. A query's "
        "closing tag searches, and documents follow; an answer's closing tag ends the episode, and "
        f"the score is shown.\nUsed: {', '.join(budgets)}.\n"
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


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


class _Wrapped(io.TextIOBase):
    """A terminal whose words are not split at its right edge; what is written is not changed else.

    Text may come in pieces: the place in the line is kept, and colours (``ESC [ ... m``) take no
    room. A word that is still open when the stream is flushed is written as it is.
    """

    def __init__(self, stream: TextIO, width: int) -> None:
        self._stream, self._width = stream, max(width, 20)
        self._column = 0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def flush(self) -> None:
        self._stream.flush()

    def write(self, text: str) -> int:
        from rich.cells import cell_len

        written = []
        for piece in _PIECES.findall(text):
            visible = cell_len(_COLOURS.sub("", piece))
            if piece == "\n":
                self._column = 0
            elif self._column + visible <= self._width:
                self._column += visible
            elif piece.isspace():  # a space at the edge becomes the line break
                piece, self._column = "\n", 0
            elif self._column and visible <= self._width:
                piece, self._column = f"\n{piece}", visible
            else:  # longer than a line: the terminal breaks it
                self._column = (self._column + visible) % self._width
            written.append(piece)
        self._stream.write("".join(written))
        return len(text)
