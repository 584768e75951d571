"""Token ids and their exact bytes, which is all that this package needs from a tokenizer.

A tokenizer is reduced to two parts: an encoder (for the environment's texts) and a table of the
bytes of each id (for reading the policy's tokens). The bytes of a sequence are always the joined
bytes of its ids; there is no context-dependent decoding.

Such a table exists for byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM, ...) and for
SentencePiece-style vocabularies with byte fallback (Llama 2, Gemma, Mistral, ...); other kinds
raise an error. Normalisers and pre-tokenisers are unchanged, except those that add a space in front
of every text. A vocabulary may lack rare single bytes (SmolLM2 lacks 21): encoding drops them, as
the library does; the table is still exact.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import importlib.resources
import json
import lzma
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from search_env.errors import TokenizerError, UnsupportedTokenizerError, nearest
from search_env.hub import hub_file
from search_env.paths import FileKey, file_key

BUNDLED = ("world-1k", "byte", "toy")
"""Tokenizers included in the package."""

END_OF_TEXT = "<|endoftext|>"

# Names under which published tokenizers list their end of sequence or end of turn.
_SEQUENCE_ENDS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>")
_TURN_ENDS = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>", "<|end|>")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name, so that a misspelt name fails at once
_KINDS = "byte-level BPE, or BPE/Unigram with byte_fallback and all 256 <0x..> tokens"

# Files that transformers and inference servers read beside a tokenizer.json.
_SIDE_FILES = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")

Encoder = Callable[[str, bool], Sequence[int]]


class Tokenizer:
    """Ids to bytes by a table, text to ids by the tokenizer's own rules.

    Args:
        name: The argument of :func:`load_tokenizer`; pickling keeps only this.
        token_bytes: The bytes of each id, in order; b"" for ids without text (padded logits).
        encode: ``(text, special) -> ids``; ``special`` says whether the names of special tokens
            in the text become those tokens.
        eos_ids: Ids that end a sequence.
        files: Texts of the files, by name, that make a folder loadable as this tokenizer; none for
            ``"toy"``, which no ``tokenizer.json`` can express.

    Example:
        >>> tokenizer = load_tokenizer("byte")
        >>> tokenizer.encode("Hi").tolist(), tokenizer.bytes_of([72, 105])
        ([72, 105], b'Hi')
    """

    def __init__(
        self,
        name: str,
        token_bytes: Sequence[bytes],
        encode: Encoder,
        eos_ids: Iterable[int],
        files: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.token_bytes = tuple(token_bytes)
        self.eos_ids = frozenset(eos_ids)
        self.files = files
        self._encode = encode

    @property
    def size(self) -> int:
        """The number of ids: the ``n`` of ``Discrete(n)``."""
        return len(self.token_bytes)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the byte table and the end ids; equal digests mean equal actions."""
        sha = hashlib.sha256(repr(sorted(self.eos_ids)).encode())
        sha.update(np.array([len(b) for b in self.token_bytes], np.int64).tobytes())
        sha.update(b"".join(self.token_bytes))
        return sha.hexdigest()

    def encode(self, text: str, *, special: bool = False) -> NDArray[np.int32]:
        """Return the ids of a text, int32 ``(T,)``, without added special tokens.

        Args:
            text: Any text; lone surrogates become question marks.
            special: Whether a special token's name in the text becomes that token. Must be False
                for external text such as documents, which could otherwise inject one.
        """
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode("utf-8")
        return np.array(self._encode(text, special), dtype=np.int32)

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """Return the exact bytes of a sequence of ids."""
        table = self.token_bytes
        return b"".join([table[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of a sequence of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.bytes_of(ids).decode("utf-8", "replace")

    def padded(self, size: int | None) -> Tokenizer:
        """Return this tokenizer with ``size`` ids, as many as the model has logits.

        Raises:
            TokenizerError: ``size`` is smaller than the number of ids.
        """
        if size is None or size == self.size:
            return self
        if size < self.size:
            raise TokenizerError(
                f"Expected vocab_size of at least {self.size} for tokenizer {self.name!r}, got "
                f"{size}. Pass the model's number of logits, or omit it."
            )
        table = self.token_bytes + (b"",) * (size - self.size)
        return Tokenizer(self.name, table, self._encode, self.eos_ids, self.files)

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, size={self.size})"

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[str, int]]:
        return load_tokenizer, (self.name, self.size)


def load_tokenizer(name: str, size: int | None = None) -> Tokenizer:
    """Return a tokenizer by bundled name, path or hub id.

    The same arguments return the same object until one of its files changes.

    Args:
        name: ``"world-1k"`` (byte-level BPE of about 1,000 ids trained on the procedural world),
            ``"byte"`` (an id for each byte) or ``"toy"``; a ``tokenizer.json`` (also ``.xz`` or
            ``.gz``) or a folder that holds one; or a hub id such as ``"Qwen/Qwen2.5-7B"``.
        size: Number of ids to pad to, see :meth:`Tokenizer.padded`.

    Raises:
        TokenizerError: No such tokenizer, or the file cannot be read.
        UnsupportedTokenizerError: A kind whose ids have no exact bytes.
    """
    if name in BUNDLED:
        return _cached(name, size, None, ())
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        path = _from_hub(name)
    sides = [path.parent / side for side in _SIDE_FILES]
    return _cached(name, size, path.absolute(), file_key(path, *sides))


@functools.lru_cache(maxsize=8)
def _cached(name: str, size: int | None, path: Path | None, files: FileKey) -> Tokenizer:
    """Return a tokenizer, read once; ``path`` is None for a bundled one."""
    if size is not None:
        return _cached(name, None, path, files).padded(size)
    if name == "byte":
        return _byte_tokenizer()
    if name == "toy":
        return _symbol_tokenizer("toy", TOY_SYMBOLS)
    if path is None:
        asset = importlib.resources.files("search_env.tokens") / "world_1k.json"
        return _from_json(name, asset.read_text("utf-8"))
    sides = {side: path.parent / side for side in _SIDE_FILES}
    texts = {side: _read_text(file) for side, file in sides.items() if file.is_file()}
    return _from_json(name, _read_text(path), _configured_ends(path.parent), texts)


def _byte_tokenizer() -> Tokenizer:
    table = [bytes([b]) for b in range(256)] + [END_OF_TEXT.encode()]

    def encode(text: str, special: bool) -> list[int]:
        if not special:
            return list(text.encode())
        ids: list[int] = []
        for i, part in enumerate(text.split(END_OF_TEXT)):
            ids += ([256] if i else []) + list(part.encode())
        return ids

    end = {"id": 256, "content": END_OF_TEXT, "normalized": False, "special": True}
    spec = {
        "version": "1.0",
        "added_tokens": [{**end, "single_word": False, "lstrip": False, "rstrip": False}],
        "pre_tokenizer": _BYTE_LEVEL,
        "decoder": _BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": _BYTE_OF_CHARACTER, "merges": []},
    }
    return Tokenizer("byte", table, encode, [256], {"tokenizer.json": json.dumps(spec)})


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
_BYTE_LEVEL |= {"trim_offsets": True, "use_regex": False}

# One id per symbol; words include the following space, so that decoded text is readable.
TOY_SYMBOLS = (
    END_OF_TEXT,
    *("<q>", "</q>", "<a>", "</a>", "<d>", "</d>"),
    *(f"key{i} " for i in range(8)),
    *(f"value{i} " for i in range(8)),
    "find ",
)


def _symbol_tokenizer(name: str, symbols: Sequence[str]) -> Tokenizer:
    """Return a tokenizer with one id per symbol, which drops all other text."""
    index = {symbol.strip(): i for i, symbol in enumerate(symbols)}
    pattern = re.compile("|".join(map(re.escape, list(index)[1:])))

    def encode(text: str, special: bool) -> list[int]:
        return [index[symbol] for symbol in pattern.findall(text)]

    return Tokenizer(name, [s.encode() for s in symbols], encode, [0])


def _from_json(
    name: str,
    text: str,
    ends: frozenset[str] = frozenset(),
    files: Mapping[str, str] = MappingProxyType({}),
) -> Tokenizer:
    """Build a tokenizer from the text of a ``tokenizer.json`` and of the files beside it."""
    try:
        spec = json.loads(text)
        added, vocabulary = spec.get("added_tokens") or [], spec["model"]["vocab"]
        if isinstance(vocabulary, list):  # of a Unigram model, with scores
            vocabulary = [(token, i) for i, (token, _) in enumerate(vocabulary)]
        vocabulary = dict(vocabulary)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(
            f"Expected {name!r} to be a tokenizers JSON with a 'model' and its 'vocab', got "
            f"{type(error).__name__}: {error}. Save it with tokenizer.save('tokenizer.json')."
        ) from error
    to_bytes = _byte_rule(name, spec, vocabulary)
    added_ids = {entry["id"] for entry in added}
    size = 1 + max([*vocabulary.values(), *added_ids])
    table = [b""] * size
    for token, i in vocabulary.items():
        if i not in added_ids:
            table[i] = to_bytes(token)
    for entry in added:
        table[entry["id"]] = entry["content"].encode()
    end_names = {*_SEQUENCE_ENDS, *_TURN_ENDS, *ends}
    eos = [entry["id"] for entry in added if entry["content"] in end_names]
    return Tokenizer(name, table, _encoder(name, spec), eos, {**files, "tokenizer.json": text})


def _byte_rule(
    name: str, spec: dict[str, Any], vocabulary: dict[str, int]
) -> Callable[[str], bytes]:
    """Return the function from a vocabulary entry to its bytes, or raise where there is none."""
    model = spec["model"]
    # Old files omit the type; only BPE has merges.
    kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
    components = json.dumps([spec.get("pre_tokenizer"), spec.get("decoder")])
    if kind == "BPE" and '"ByteLevel"' in components:
        return functools.partial(_byte_level_bytes, name)
    if kind in ("BPE", "Unigram") and model.get("byte_fallback"):
        if all(f"<0x{b:02X}>" in vocabulary for b in range(256)):
            return _fallback_bytes
        kind = f"{kind} with byte_fallback but without all 256 <0x..> tokens"
    raise UnsupportedTokenizerError(
        f"Expected {name!r} to be {_KINDS}; got {kind}, whose ids have no exact bytes. "
        f"Use a tokenizer of those kinds, or a bundled one: {', '.join(BUNDLED)}."
    )


# GPT-2's printable stand-in for each byte (openai/gpt-2: src/encoder.py, bytes_to_unicode).
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = sorted({*range(256)} - {*_PRINTABLE})
_BYTE_OF_CHARACTER = {chr(b): b for b in _PRINTABLE}
_BYTE_OF_CHARACTER |= {chr(256 + i): b for i, b in enumerate(_OTHERS)}


def _byte_level_bytes(name: str, token: str) -> bytes:
    try:
        return bytes([_BYTE_OF_CHARACTER[c] for c in token])
    except KeyError as error:
        raise UnsupportedTokenizerError(
            f"Expected every token of {name!r} to be written in GPT-2's byte alphabet, got "
            f"{token!r}. List tokens of other text under 'added_tokens'."
        ) from error


def _fallback_bytes(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()  # SentencePiece writes a space as U+2581


def _encoder(name: str, spec: dict[str, Any]) -> Encoder:
    """Return the encoding function of a ``tokenizers`` JSON, without added tokens or spaces."""
    plain = {**spec, "post_processor": None, "truncation": None, "padding": None}
    for part in ("normalizer", "pre_tokenizer"):
        plain[part] = _without_prefix_space(spec.get(part))
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(
            f"Expected {name!r} to load with the tokenizers library {tokenizers.__version__}, got: "
            f"{error}. Save it again with a current version of that library."
        ) from error
    lock = threading.Lock()  # encode_special_tokens is a setting of the shared object

    def encode(text: str, special: bool) -> Sequence[int]:
        with lock:
            backend.encode_special_tokens = not special
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
            return ids

    return encode


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


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        if path.suffix == ".xz":
            raw = lzma.decompress(raw)
        elif path.suffix == ".gz":
            raw = gzip.decompress(raw)
        return raw.decode("utf-8")
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise TokenizerError(
            f"Expected {path} to be a readable tokenizer.json (plain, .gz or .xz), got "
            f"{type(error).__name__}: {error}. Download or save the file again."
        ) from error


def _configured_ends(folder: Path) -> frozenset[str]:
    """Return the end token of a ``tokenizer_config.json`` beside the tokenizer, if any."""
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return frozenset()
    try:
        token = json.loads(config.read_text("utf-8")).get("eos_token")
    except (ValueError, AttributeError) as error:
        raise TokenizerError(
            f"Expected {config} to be a JSON object, got {error}. Download the file again."
        ) from error
    content = token.get("content") if isinstance(token, dict) else token
    return frozenset({content} if isinstance(content, str) else ())


@functools.lru_cache(maxsize=8)  # a hub request takes a connection
def _from_hub(name: str) -> Path:
    """Return the path of a hub repository's ``tokenizer.json``, downloaded unless cached."""
    hint = nearest(name, BUNDLED)
    expected = f"a bundled name ({', '.join(BUNDLED)}), a path to a tokenizer.json, or a hub id"
    if not _HUB_ID.fullmatch(name) or name.endswith((".json", ".xz", ".gz")):
        raise TokenizerError(f"Expected {expected}; got {name!r}, which is no file. {hint}")
    try:
        path = hub_file(name, "tokenizer.json")
    except (ImportError, OSError, ValueError) as error:
        raise TokenizerError(
            f"Expected {expected}; got {name!r}, whose tokenizer.json could not be downloaded "
            f"({type(error).__name__}). {hint}Offline, pass the path of the file instead."
        ) from error
    for side in _SIDE_FILES:  # optional: they name the end token and the chat template
        with contextlib.suppress(OSError, ValueError):
            hub_file(name, side)
    return path
