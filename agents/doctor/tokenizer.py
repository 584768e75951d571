"""What a run should know of its tokenizer: bytes, first and end ids, template, tags."""

from __future__ import annotations

from collections.abc import Iterator

from search_env.agents.doctor.findings import Finding, Section
from search_env.protocols.protocol import Protocol
from search_env.tokens.tokenizer import Tokenizer

_SECTION = Section("Tokenizer")
_SAMPLE = "Zürich, naïve 東京 Ελλάδα, 3.14 \u201cquoted\u201d\n\tfi  two spaces"
_SHOWN = 12  # most ids of one list


def examine_tokenizer(tokenizer: Tokenizer, protocol: Protocol, prompt: str) -> Iterator[Finding]:
    """Yield the findings on a tokenizer under a protocol with a style of prompt."""
    silent = tokenizer.token_bytes.count(b"")
    padding = f", {silent:,} of them without text" if silent else ""
    yield _SECTION.ok(f"{tokenizer.name}: {tokenizer.size:,} ids{padding}")
    yield _round_trip(tokenizer)
    yield _first_ids(tokenizer)
    yield _end_ids(tokenizer)
    yield _template(tokenizer, prompt)
    for pair in protocol.tags:
        yield _tags(tokenizer, pair.open, pair.close)


def _round_trip(tokenizer: Tokenizer) -> Finding:
    """Return whether text keeps its bytes."""
    back = tokenizer.decode(tokenizer.encode(_SAMPLE))
    lost = sorted(set(_SAMPLE) - set(back))
    return _SECTION.checked(
        back == _SAMPLE,
        "text keeps its bytes"
        if back == _SAMPLE
        else f"text does not keep its bytes: {_SAMPLE!r} is read back as {back!r}"
        + (f", without {''.join(lost)!r}" if lost else ""),
        "The tokenizer normalises text or lacks single bytes; documents reach the policy so. "
        "Answers are scored as the policy writes them, so check the golds of your dataset.",
    )


def _first_ids(tokenizer: Tokenizer) -> Finding:
    first = tokenizer.bos_ids
    if not first:
        return _SECTION.ok("prompts begin without a beginning-of-sequence token")
    return _SECTION.ok(f"prompts begin with {_ids_in_words(tokenizer, first)}")


def _end_ids(tokenizer: Tokenizer) -> Finding:
    if not tokenizer.eos_ids:
        return _SECTION.error(
            "no end id is known: an episode without an answer ends by its limits alone",
            "Pass the ids that end a turn: eos=.",
        )
    return _SECTION.ok(f"a turn ends with {_ids_in_words(tokenizer, sorted(tokenizer.eos_ids))}")


def _template(tokenizer: Tokenizer, prompt: str) -> Finding:
    if tokenizer.chat_template is None or prompt == "chat-template":
        has = "no chat template" if tokenizer.chat_template is None else "the chat template is used"
        return _SECTION.ok(f"{has}; prompt style {prompt!r}")
    return _SECTION.warning(
        f"there is a chat template, and prompt style {prompt!r} does not use it",
        "Pass --prompt chat-template for an instruct model; a base model needs nothing.",
    )


def _tags(tokenizer: Tokenizer, *tags: str) -> Finding:
    """Return the usual ids of a pair of tags; any other spelling is recognised as well."""
    return _SECTION.ok("; ".join(f"{tag} is {_pieces(tokenizer, tag)}" for tag in tags))


def _pieces(tokenizer: Tokenizer, text: str) -> str:
    ids = tokenizer.encode(text).tolist()
    pieces = [tokenizer.token_bytes[i].decode("utf-8", "replace") for i in ids]
    if "".join(pieces) != text:
        return f"not written by any sequence of ids (its bytes come back as {''.join(pieces)!r})"
    word = "id" if len(ids) == 1 else "ids"
    return f"{len(ids)} {word} ({' '.join(map(repr, pieces[:_SHOWN]))})"


def _ids_in_words(tokenizer: Tokenizer, ids: Iterator[int] | list[int] | tuple[int, ...]) -> str:
    """Return ids with their texts."""
    chosen = list(ids)
    shown = [f"{i} ({tokenizer.decode([i])})" for i in chosen[:_SHOWN]]
    more = f" and {len(chosen) - _SHOWN} more" if len(chosen) > _SHOWN else ""
    return ", ".join(shown) + more
