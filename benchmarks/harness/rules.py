"""The rules that a protocol id stands for, as a digest of facts about what they do.

The facts are renderings and return values for fixed inputs. Renaming a function or adding a field
leaves them alone; another prompt, cleaning, layout, limit or consequence of a fault does not. What
the environment makes of these facts token by token is held by golden episodes in the tests.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from search_env.core.document_block import DocumentBlockWriter
from search_env.metrics.answers import R1_SEARCHER, contiguous_cover_exact_match, score_answer
from search_env.protocols.protocol import Consequence, Protocol
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Document, FaultKind, TagPair

DIGITS = 12  # hexadecimal digits of a digest that ids and tables show

RULES_VERSION = 1
"""Counts up with every change of :func:`rules_facts`; all pinned digests change with it."""

FORMER_RULES_DIGESTS = MappingProxyType(
    {
        "6a4544ea191747542d0b2c0110c30d9fed769813a5a1a876141f8931b30885e2": (
            "f675523638d54aa4f42f6fed84d92dc2c2e655ff91ac71994088b20a28be1b84"
        ),
        "c686c953a66d2f71b638cdea9328d717740af3437e323078705ab54f4d0a6b92": (
            "0a06d5002349b30fd22995b55da2af7eef3ff8577cb922e01f372dbd6f50ab2d"
        ),
        "7b046ae1a97e10d1d88e398074875a22e38c6a1b3480e465bc1b93af531aa380": (
            "ddd29bd83a0f562135925346e3ef320ff0ab36860fcc7a00bfb07451657197d9"
        ),
    }
)
"""From digests of the time before :data:`RULES_VERSION`, which covered the names of functions and
fields, to digests of the same rules today."""

_STYLES = ("base", "chatml", "llama-3")
_QUESTION = ' Who wrote "Zoë\'s {rank} <answer> Tales"?\n'
_PROBES = (
    *("", " ", "\n\t ", '"', "'", '""'),
    *(" two  words\n", "tab\there", "no\u00a0break", "wide\u3000space"),
    *('"quoted"', 'a "b" c', "'single'", "\u201ccurly\u201d", "?", "Who?", "Who ? ", "why"),
    *("Zo\u00eb", "Zoe\u0308", "\u6771\u4eac", "\U0001f30d", "UPPER lower", "a-b, c; d. e!"),
    *("<search> x </search>", "<|begin_of_query|>x", "</answer>", "{question}", "\\n"),
)
_ANSWER_PROBES = (
    *(r"\text{ two words }", r"\textbf{a} b", r"\mathrm{x}", "{a}", r"\boxed{a}"),
    *("The end.", "a, b", "1,000"),
)
_DOCUMENTS = (
    Document("1", "Zo\u00eb {text}", "First {title} \u201cline\u201d.\nSecond <answer> line.  "),
    Document("2", "", "Untitled, ends in \u6771\u4eac"),
)
_CUTS = (1, 2, 16)
_ANSWERS = (
    *(("The Paris!", "paris"), ("in Paris, France", "Paris"), ("True", "yes"), ("no", "no")),
    *(("Yes, he is", "yes"), ("", "Paris"), ("France Paris in", "Paris, France")),
    ("1,000", "1000"),
)


def rules_facts(protocol: Protocol, max_tokens: int) -> tuple[tuple[str, Any], ...]:
    """Return what a protocol's rules do, as named JSON values in a fixed order."""
    return (
        ("version", RULES_VERSION),
        ("tags", [_tag_facts(pair) for pair in protocol.tags]),
        ("prompts", [protocol.prompt_pieces(_QUESTION, style) for style in _STYLES]),
        ("documents", _blocks(protocol)),
        ("notice", protocol.notice),
        ("faults", _consequences(protocol)),
        ("first opening counts", protocol.first_opening),
        ("documents per query", protocol.top_k),
        ("tokens", max_tokens),
        ("policy tokens", protocol.max_policy_tokens),
        ("segment tokens", protocol.max_segment_tokens),
        ("document block tokens", protocol.max_documents_tokens),
        ("searches", protocol.max_searches),
        ("turns", protocol.max_turns),
        ("cleaned questions", list(map(protocol.clean_question, _PROBES))),
        ("cleaned queries", list(map(protocol.clean_query, _PROBES))),
        ("scores", _scores()),
        *_answer_facts(protocol),
    )


def rules_digest(protocol: Protocol, max_tokens: int) -> str:
    """Return the SHA-256 over :func:`rules_facts`, as 64 hexadecimal digits."""
    return json_digest(rules_facts(protocol, max_tokens))


def json_digest(content: object) -> str:
    """Return the SHA-256 over a value's JSON text, as 64 hexadecimal digits."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _tag_facts(pair: TagPair) -> list[str]:
    """Return what a pair is; a bracket only where there is one, as digests before it had none."""
    return [pair.role.value, pair.open, pair.close, pair.tool, *filter(None, [pair.bracket])]


def _answer_facts(protocol: Protocol) -> tuple[tuple[str, list[str]], ...]:
    """Return cleaned answers where more than white space is taken off."""
    cleaned = [protocol.clean_answer(probe) for probe in (*_PROBES, *_ANSWER_PROBES)]
    stripped = [probe.strip() for probe in (*_PROBES, *_ANSWER_PROBES)]
    return () if cleaned == stripped else (("cleaned answers", cleaned),)


def _blocks(protocol: Protocol) -> list[str]:
    """Return the block of both documents, that of none, and the first one cut."""
    # The byte tokenizer needs more tokens than others for a frame; the limit is a fact of its own.
    tokenizer = load_tokenizer("byte")
    write = DocumentBlockWriter(replace(protocol, max_documents_tokens=None), tokenizer).write
    room = 1_000_000
    full, empty = write(_DOCUMENTS, room), write((), room)
    assert full is not None  # there is room for the frame
    cut = [write(_DOCUMENTS, len(full) - count) for count in _CUTS]
    return [tokenizer.decode(block) for block in (full, empty, *cut) if block is not None]


def _consequences(protocol: Protocol) -> list[list[str]]:
    """Return the faults that lead to something, each with what it leads to."""
    # The dynamics end a segment without an action unless it leads to a notice.
    consequences = {FaultKind.NO_ACTION: Consequence.END} | {
        kind: then for kind, then in protocol.faults.items() if then is not Consequence.IGNORE
    }
    return sorted([kind.value, then.value] for kind, then in consequences.items())


def _scores() -> list[list[float]]:
    """Return the scores of fixed answers, rounded so that the last bits do not matter."""
    return [
        [
            *(round(score, 6) for score in score_answer(answer, [gold], R1_SEARCHER)),
            contiguous_cover_exact_match(answer, [gold], R1_SEARCHER),
        ]
        for answer, gold in _ANSWERS
    ]
