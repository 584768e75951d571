"""Steps, thoughts and transitions of a trace, as positions of its tokens.

A *step* is a piece of the policy's text between separators, or a search from its opening tag to the
end of its documents. A *thought* is a row of steps up to a *transition*: a step that begins with a
keyword, or a search. Inserted text has no steps; a step does not go on behind it.

Positions are those of whole tokens: where a token holds the end of one step and the beginning of
the next, the next one begins with it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from search_env.recording.revise.settings import RevisionSettings
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Question, Searched, Source, Transcript


class Step(NamedTuple):
    """One step: the position of its first token, the number of its search or -1 for text."""

    start: int
    search: int = -1
    has_keyword: bool = False


class Transition(NamedTuple):
    """The end of a thought.

    ``position`` is that of the step after it, where *continue* cuts; ``announced`` where the step
    that announces the search begins, or the search itself; ``search`` the number of the search, -1
    for a keyword; ``after`` the position behind its documents.
    """

    position: int
    announced: int
    search: int = -1
    after: int = -1


class Steps(NamedTuple):
    """The steps of a trace in order, and what ends its thoughts."""

    steps: tuple[Step, ...]
    transitions: tuple[Transition, ...]


class StepReader:
    r"""Reads the steps of traces of one tokenizer.

    Example:
        >>> from search_env.recording.revise.settings import PLAIN
        >>> from search_env.tokens.tokenizer import load_tokenizer
        >>> byte = load_tokenizer("byte")
        >>> text = "Two and two.\n\nWait, is it?\n\nYes, four."
        >>> trace = plain_trace(byte, "2 + 2?", text, "four")
        >>> steps = StepReader(byte, PLAIN).read(trace)
        >>> len(steps.steps), [t.position - len("2 + 2?") for t in steps.transitions]
        (3, [14])
    """

    def __init__(self, tokenizer: Tokenizer, settings: RevisionSettings) -> None:
        self._token_bytes, self._settings = tokenizer.token_bytes, settings
        words = sorted((re.escape(word.encode()) for word in settings.keywords), key=len)
        # Longer ones first; the ones of other letters match in any case as ASCII does.
        found = b"|".join(reversed(words)) or rb"(?!)"
        self._keyword = re.compile(rb"\s*(?:" + found + rb")(?![A-Za-z0-9_])", re.IGNORECASE)
        self._separator = settings.separator.encode()

    def read(self, trace: Transcript) -> Steps:
        """Return the steps and transitions of a trace."""
        steps: list[Step] = []
        transitions: list[Transition] = []
        searches = {search.position: number for number, search in enumerate(trace.searches)}
        for start, end in policy_runs(trace):
            number = searches.get(end - 1, -1)
            self._read_run(trace, start, end, number, steps, transitions)
        return Steps(tuple(steps), tuple(transitions))

    def cost(self, trace: Transcript, position: int = 0) -> float:
        """Return what a trace costs from a position on: steps, searches, policy tokens."""
        settings = self._settings
        tail = [step for step in self.read(trace).steps if step.start >= position]
        total = len(tail) + settings.search_cost * sum(step.search >= 0 for step in tail)
        if settings.token_cost:
            total += settings.token_cost * policy_tokens(trace, position)
        return float(total)

    def _read_run(
        self,
        trace: Transcript,
        start: int,
        end: int,
        search: int,
        steps: list[Step],
        transitions: list[Transition],
    ) -> None:
        """Read a run of the policy's tokens, which ends with a search or with none (-1)."""
        pieces = [self._token_bytes[i] for i in trace.tokens[start:end].tolist()]
        ends = list(accumulate(map(len, pieces)))  # in bytes
        text = b"".join(pieces)
        query = len(text) if search < 0 else opening_of(trace, trace.searches[search], text)

        def position(byte: int) -> int:
            return start + bisect_right(ends, byte)

        begins, at = -1, 0  # where the last step of this run begins, if no separator follows it
        for piece in text[:query].split(self._separator):
            begins = -1
            if piece.strip():
                begins = position(at + len(piece) - len(piece.lstrip()))
                has_keyword = self._keyword.match(piece) is not None
                if has_keyword and steps:
                    transitions.append(Transition(begins, begins))
                steps.append(Step(begins, has_keyword=has_keyword))
            at += len(piece) + len(self._separator)
        if search >= 0:
            opened, after = position(query), trace.searches[search].end
            steps.append(Step(opened, search))
            announced = opened if begins < 0 else begins
            transitions.append(Transition(opened, announced, search, after))


def policy_runs(trace: Transcript) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of the policy's tokens, cut behind each search."""
    written = np.concatenate([[False], trace.sources == Source.POLICY, [False]])
    changes = np.flatnonzero(np.diff(written.astype(np.int8))).tolist()
    searches = {search.position + 1 for search in trace.searches}
    for start, end in zip(changes[::2], changes[1::2], strict=True):
        # A search that found nothing in a layout without a frame inserts no token.
        cuts = sorted(cut for cut in searches if start < cut < end)
        yield from pairwise([start, *cuts, end])


def policy_tokens(trace: Transcript, position: int = 0) -> int:
    """Return the number of the policy's tokens from a position on."""
    return int(np.count_nonzero(trace.sources[position:] == Source.POLICY))


def opening_of(trace: Transcript, search: Searched, text: bytes) -> int:
    """Return where the query of a search opens in the policy's text that ends with it, in bytes.

    Well-formed episodes open a query once; of several openings the last counts.
    """
    tags = [pair.open.encode() for pair in trace.required_markup().tags if pair.tool == search.tool]
    return max([0, *(text.rfind(tag) for tag in tags)])


def plain_trace(
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    text: str | Sequence[int],
    answer: str = "",
    *,
    id: str = "",
) -> Transcript:
    """Return a reasoning trace without searches, as the transcript that revision reads.

    Args:
        tokenizer: Of the ids.
        prompt: Text or ids that were not the policy's.
        text: What the policy wrote: a text, which is encoded, or its ids.
        answer: The gold answer, for verifiers that read it from the question.
        id: Of the question; traces that are revised together need different ones.
    """
    ids = [
        np.asarray(tokenizer.encode(part) if isinstance(part, str) else part, np.int32).reshape(-1)
        for part in (prompt, text)
    ]
    sources = np.repeat(np.array([Source.PROMPT, Source.POLICY], np.int8), [len(i) for i in ids])
    question = Question(id, prompt if isinstance(prompt, str) else "", (answer,))
    return Transcript(
        question, "", np.concatenate(ids).astype(np.int32), sources, (), tokenizer.decode
    )
