"""Actions that search and answer often: tags whole, cut and misplaced, and ids of every kind."""

from __future__ import annotations

import random

from search_env.protocols.protocol import Protocol
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Question, TagRole

_WORDS = ("so ", "key1 ", "key2 ", "value3 ", "Norway", "東京", "\U0001f701", "<", "</", ">", "\n")
_WORDS += ("{", "}", "\\text{")


class Writer:
    """Writes phrases of a protocol, token by token; now and then it breaks one off."""

    def __init__(self, rng: random.Random, protocol: Protocol, tokenizer: Tokenizer) -> None:
        self._rng, self._protocol, self._tokenizer = rng, protocol, tokenizer
        self._noise = rng.choice((0.0, 0.0, 0.0, 0.01, 0.1))
        self._patience = rng.choice((0.02, 0.05, 0.2))  # the share of phrases that end an episode
        self._queue: list[int] = []
        table = tokenizer.token_bytes
        self._control = [*tokenizer.eos_ids] or [0]
        self._odd = [i for i, text in enumerate(table[:4096]) if not text or text[0] >= 0x80] or [0]

    def begin(self) -> None:
        """Forget the rest of a phrase: another episode begins."""
        self._queue = []

    def next(self, question: Question) -> int:
        """Return the next token id."""
        if not self._queue or self._rng.random() < self._noise:
            self._queue = self._phrase(question)
        return self._queue.pop(0)

    def _phrase(self, question: Question) -> list[int]:
        rng, size = self._rng, self._tokenizer.size
        kind = rng.random()
        if kind < 0.03:
            return [rng.randrange(size) for _ in range(rng.randint(1, 6))]
        if kind < 0.06:
            return [rng.choice(self._odd) for _ in range(rng.randint(1, 4))]
        if kind < 0.06 + 0.2 * self._patience:
            return [rng.choice(self._control)]
        text = self._text(question)
        ids: list[int] = self._tokenizer.encode(text, special=rng.random() < 0.2).tolist()
        return ids or [rng.randrange(size)]

    def _text(self, question: Question) -> str:
        rng, protocol = self._rng, self._protocol
        if rng.random() < self._patience:
            pair = protocol.pair(TagRole.ANSWER)
            answers = (*question.answers, "", " Ada ", "\\text{Ada}", question.text, _words(rng))
            answer = rng.choice(answers)
            return f"{self._close_thoughts()}{pair.open}{answer}{pair.close}"
        pair = rng.choice(protocol.pairs(TagRole.TOOL))
        kind = rng.random()
        if kind < 0.65:
            hops = [hop.query for hop in question.hops] or [question.text]
            query = rng.choice((*hops, question.text, _words(rng), " ", '""'))
            return f"{pair.open}{query}{pair.close}"
        if kind < 0.7:
            return f"{pair.open}a{pair.close}{rng.choice(protocol.tag_texts)}b{pair.close}"
        if kind < 0.8:
            return rng.choice(protocol.tag_texts)
        if kind < 0.9:
            tag = rng.choice(protocol.tag_texts)
            return tag[: rng.randint(1, len(tag))] + rng.choice(("", *_WORDS))
        return _words(rng)

    def _close_thoughts(self) -> str:
        reasons = self._protocol.pairs(TagRole.REASON)
        return "".join(pair.close for pair in reasons) if self._rng.random() < 0.7 else ""


def _words(rng: random.Random) -> str:
    return "".join(rng.choice(_WORDS) for _ in range(rng.randint(1, 3)))
