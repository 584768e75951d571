"""A ``tokenizer.json`` as exact bytes of ids, and as functions from text to ids.

The bytes of an id are those that the file's own decoder gives for it, added tokens included. A
decoder's rules for the whole text (SentencePiece strips the first space) are left out.

Tokens that are added to the vocabulary are *control tokens*: role markers, ends, tool calls, HTML
of Gemma. Only runs of white space are text. Whether the file calls a control token special makes
no difference here: none comes out of text that is not marked as special.
"""

from __future__ import annotations

import functools
import itertools
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from search_env.errors import TokenizerError, UnsupportedTokenizerError

_KINDS = "byte-level BPE, or BPE/Unigram with byte_fallback and a token for each byte"

Step = Callable[[str], "str | bytes"]


@dataclass(frozen=True)
class JsonVocabulary:
    """What a ``tokenizer.json`` says of its ids.

    Attributes:
        token_bytes: The bytes of each id, in order.
        ids: The id of each token by its name in the file.
        special: Names of the tokens that the file calls special.
        control: The id of each control token, by its name.
        prefix_ids: Ids that the post-processor puts in front of a text.
        encoder: From text to ids.
    """

    token_bytes: list[bytes]
    ids: dict[str, int]
    special: frozenset[str]
    control: dict[str, int]
    prefix_ids: tuple[int, ...]
    encoder: JsonEncoder


def read_vocabulary(
    name: str, text: str, further: Iterable[Mapping[str, Any]], named: Iterable[str]
) -> JsonVocabulary:
    """Return the vocabulary of the text of a ``tokenizer.json``.

    Args:
        name: The tokenizer's name in errors.
        text: Text of the file.
        further: Added tokens that other files of the tokenizer list.
        named: Tokens that those files give a role; they are special where the vocabulary has them.

    Raises:
        TokenizerError: No tokenizer, or one that the library cannot read.
        UnsupportedTokenizerError: A kind whose ids have no exact bytes.
    """
    try:
        spec = json.loads(text)
        vocabulary = spec["model"]["vocab"]
        if isinstance(vocabulary, list):  # of a Unigram model, with scores
            vocabulary = [(token, i) for i, (token, _) in enumerate(vocabulary)]
        vocabulary = dict(vocabulary)
        added = _all_added(spec.get("added_tokens") or [], further, named, vocabulary)
        prefix_ids = tuple(_prefix_ids(spec.get("post_processor")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TokenizerError(
            f"Expected {name!r} to be a tokenizers JSON with a 'model' and its 'vocab', got "
            f"{type(error).__name__}: {error}. Save it with tokenizer.save('tokenizer.json')."
        ) from error
    steps, is_byte_level = _steps(name, spec, vocabulary)
    table = [b""] * (1 + max([*vocabulary.values(), *(entry["id"] for entry in added)]))
    added_names = {entry["content"] for entry in added}
    for token, i in vocabulary.items():
        if token not in added_names:
            table[i] = _apply(steps, token)
            if is_byte_level and not _BYTE_OF_CHARACTER.keys() >= {*token}:
                raise UnsupportedTokenizerError(
                    f"Expected every token of {name!r} to be written in GPT-2's byte alphabet, got "
                    f"{token!r}. List tokens of other text under 'added_tokens'."
                )
    for entry in added:
        table[entry["id"]] = _apply(steps, entry["content"])
    control = {}
    for entry in added:
        is_space = not table[entry["id"]].decode("utf-8", "replace").strip()
        is_byte = not is_byte_level and _fallback_byte(entry["content"]) is not None
        if not is_byte and (entry["special"] or not is_space):
            control[entry["content"]] = entry["id"]
    marked = [{**entry, "special": entry["content"] in control} for entry in added]
    single_bytes = {table[i]: i for i in vocabulary.values() if len(table[i]) == 1}
    encoder = JsonEncoder(name, {**spec, "added_tokens": marked}, control.values(), single_bytes)
    return JsonVocabulary(
        token_bytes=table,
        ids={**vocabulary, **{entry["content"]: entry["id"] for entry in added}},
        special=frozenset(entry["content"] for entry in added if entry["special"]),
        control=control,
        prefix_ids=prefix_ids,
        encoder=encoder,
    )


def _all_added(
    listed: Sequence[dict[str, Any]],
    further: Iterable[Mapping[str, Any]],
    named: Iterable[str],
    vocabulary: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Return the added tokens of all files, in the order of their ids."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    added = {entry["content"]: {**flags, **entry} for entry in listed}
    for entry in further:
        added.setdefault(entry["content"], {**flags, **entry})
    for token in named:
        if token in added:
            added[token]["special"] = True
        elif token in vocabulary:
            added[token] = {**flags, "id": vocabulary[token], "content": token, "special": True}
    return sorted(added.values(), key=lambda entry: int(entry["id"]))


def _prefix_ids(part: dict[str, Any] | None) -> list[int]:
    """Return the ids that a post-processor puts in front of a text."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [i for inner in part["processors"] for i in _prefix_ids(inner)]
    if part["type"] in ("BertProcessing", "RobertaProcessing"):
        return [int(part["cls"][1])]
    ids: list[int] = []
    for piece in part.get("single", []):
        if "SpecialToken" not in piece:
            break
        ids += part["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return ids


# The bytes of a token, by the steps of the file's decoder.


def _steps(
    name: str, spec: dict[str, Any], vocabulary: Mapping[str, int]
) -> tuple[list[Step], bool]:
    """Return a decoder's steps for one token, and whether the vocabulary is byte-level."""
    model = spec["model"]
    # Old files omit the type; only BPE has merges.
    kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
    parts = _flat(spec.get("decoder"), "decoders")
    types = {part["type"] for part in parts}
    if kind == "BPE" and "ByteLevel" in types | {
        part["type"] for part in _flat(spec.get("pre_tokenizer"), "pretokenizers")
    }:
        others = types - {"ByteLevel", "ByteFallback", "Fuse", "Strip"}
        if not others:
            return [_byte_level_bytes], True
        kind = f"byte-level BPE with the decoder {sorted(others)}"
    elif kind in ("BPE", "Unigram") and model.get("byte_fallback"):
        others = types - {*_STEPS, "ByteFallback", "Fuse", "Strip"}
        if others:
            kind = f"{kind} with byte_fallback and the decoder {sorted(others)}"
        elif all(_has_byte(vocabulary, byte) for byte in range(256)):
            return _fallback_steps(parts), False
        else:
            kind = f"{kind} with byte_fallback but without all 256 <0x..> tokens"
    raise UnsupportedTokenizerError(
        f"Expected {name!r} to be {_KINDS}; got {kind}, whose ids have no exact bytes. "
        "Use a tokenizer of those kinds, or a bundled one: world-1k, byte, toy."
    )


def _has_byte(vocabulary: Mapping[str, int], byte: int) -> bool:
    """Return whether a byte outside of all other tokens has an id: Gemma 2 has a tab as itself."""
    return f"<0x{byte:02X}>" in vocabulary or (byte < 0x80 and chr(byte) in vocabulary)


def _flat(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Return the components of a pre-tokenizer or decoder, without their sequences."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [inner for nested in part[key] for inner in _flat(nested, key)]
    return [part]


def _fallback_steps(parts: Sequence[dict[str, Any]]) -> list[Step]:
    """Return the steps of a decoder of SentencePiece's kind."""
    steps: list[Step] = []
    fused = False  # what follows is for the whole text
    for part in parts:
        fused |= part["type"] == "Fuse"
        if part["type"] in _STEPS:
            steps.append(_STEPS[part["type"]](part))
        elif part["type"] == "Strip" and not fused:
            steps.append(_strip(part))
    if not steps:
        steps = [lambda token: token.replace("\u2581", " ")]  # how SentencePiece writes a space
    return [_byte_or_text, *steps]


def _replace(part: dict[str, Any]) -> Step:
    pattern, content = part["pattern"], part["content"]
    if "String" in pattern:
        return lambda token: token.replace(pattern["String"], content)
    decoder = tokenizers.decoders.Replace(tokenizers.Regex(pattern["Regex"]), content)
    return lambda token: str(decoder.decode([token]))


def _metaspace(part: dict[str, Any]) -> Step:
    return lambda token: token.replace(part["replacement"], " ")


def _strip(part: dict[str, Any]) -> Step:
    def strip(token: str) -> str:
        for _ in range(part["start"]):
            token = token.removeprefix(part["content"])
        for _ in range(part["stop"]):
            token = token.removesuffix(part["content"])
        return token

    return strip


_STEPS: dict[str, Callable[[dict[str, Any]], Step]] = {"Replace": _replace, "Metaspace": _metaspace}


def _apply(steps: Iterable[Step], token: str) -> bytes:
    for step in steps:
        result = step(token)
        if isinstance(result, bytes):
            return result
        token = result
    return token.encode()


# GPT-2's printable stand-in for each byte (openai/gpt-2: src/encoder.py, bytes_to_unicode).
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = sorted({*range(256)} - {*_PRINTABLE})
_BYTE_OF_CHARACTER = {chr(b): b for b in _PRINTABLE}
_BYTE_OF_CHARACTER |= {chr(256 + i): b for i, b in enumerate(_OTHERS)}

BYTE_ALPHABET: Mapping[str, int] = _BYTE_OF_CHARACTER
"""The byte that each character of a byte-level vocabulary stands for."""


def _byte_level_bytes(token: str) -> bytes:
    """Return a token's bytes; one with characters outside the alphabet is taken literally."""
    try:
        return bytes([_BYTE_OF_CHARACTER[c] for c in token])
    except KeyError:
        return token.encode()


def _byte_or_text(token: str) -> str | bytes:
    byte = _fallback_byte(token)
    return token if byte is None else bytes([byte])


def _fallback_byte(token: str) -> int | None:
    """Return the byte that a token of the form ``<0x0A>`` stands for."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            return None
    return None


# From text to ids.


class JsonEncoder:
    """Encodes text with a ``tokenizer.json``: in the middle of a sequence, or as its owner does.

    ``spec`` marks exactly the control tokens as special; ``single_bytes`` are ids of one byte.
    """

    def __init__(
        self,
        name: str,
        spec: dict[str, Any],
        control_ids: Iterable[int],
        single_bytes: Mapping[bytes, int],
    ) -> None:
        self._control = frozenset(control_ids)
        self._bytes = {b: i for b, i in single_bytes.items() if i not in self._control}
        self._name, self._spec = name, spec
        self._own = {**spec, "post_processor": None, "truncation": None, "padding": None}
        inner = {
            part: _without_prefix_space(spec.get(part)) for part in ("normalizer", "pre_tokenizer")
        }
        self._inner = _Backend(name, {**self._own, **inner})
        self._adds_space = any(self._own.get(part) != inner[part] for part in inner)

    def __call__(self, text: str, special: bool) -> list[int]:
        """Return the ids of a text inside other text: no space is put in front of it."""
        return self._encode(self._inner, text, special)

    def as_owner(self, text: str) -> list[int]:
        """Return the ids of a text without control tokens, as the owner encodes whole texts."""
        return self._encode(self._outer, text, special=False)

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Return the ids of a whole text, control tokens included, with their spans in it."""
        encoding = self._outer.encode(text, special=True)
        return [(i, *span) for i, span in zip(encoding.ids, encoding.offsets, strict=True)]

    @functools.cached_property
    def _outer(self) -> _Backend:
        return _Backend(self._name, self._own) if self._adds_space else self._inner

    def _encode(self, backend: _Backend, text: str, special: bool) -> list[int]:
        ids: list[int] = backend.encode(text, special).ids
        if special or self._control.isdisjoint(ids):
            return ids
        return self._without_control(backend, text)

    def _without_control(self, backend: _Backend, text: str) -> list[int]:
        """Encode a text whose characters the model itself merges into control tokens.

        The text is cut inside each, until none is left.
        """
        ids: list[int] = []
        waiting = [text]
        while waiting:
            part = waiting.pop()
            encoding = backend.encode(part, special=False)
            spans = list(zip(encoding.ids, encoding.offsets, strict=True))
            cuts = [a + 1 for i, (a, b) in spans if i in self._control and b - a > 1]
            if cuts:
                edges = [0, *cuts, len(part)]
                parts = [part[a:b] for a, b in itertools.pairwise(edges) if a < b]
                waiting += reversed(parts)
                continue
            for i, (a, b) in spans:
                if i in self._control:
                    single = [bytes([byte]) for byte in part[a:b].encode()]
                    ids += [self._bytes[byte] for byte in single if byte in self._bytes]
                else:
                    ids.append(i)
        return ids


class _Backend:
    """A tokenizer of the library, usable by several threads."""

    def __init__(self, name: str, spec: dict[str, Any]) -> None:
        try:
            self._backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(
                f"Expected {name!r} to load with the tokenizers library "
                f"{tokenizers.__version__}, got: {error}. Save it again with a current version of "
                "that library."
            ) from error
        self._lock = threading.Lock()  # encode_special_tokens is a setting of the shared object

    def encode(self, text: str, special: bool) -> tokenizers.Encoding:
        with self._lock:
            self._backend.encode_special_tokens = not special
            return self._backend.encode(text, add_special_tokens=False)


def _without_prefix_space(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """Remove components that prefix a text with a space: texts are inserted into other text."""
    if part is None:
        return None
    kind = part.get("type")
    if kind == "Sequence":
        key = "normalizers" if "normalizers" in part else "pretokenizers"
        components = [_without_prefix_space(p) for p in part[key]]
        return {**part, key: [p for p in components if p is not None]}
    if kind == "Prepend":
        return None
    if kind == "ByteLevel":
        return {**part, "add_prefix_space": False}
    if kind == "Metaspace":
        rest = {k: v for k, v in part.items() if k != "add_prefix_space"}
        return {**rest, "prepend_scheme": "never"}
    return part
