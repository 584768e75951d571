"""Token ids and their exact bytes, and the rules of the tokenizer's owner about sequences.

A tokenizer is reduced to an encoder (for the environment's texts), a table of the bytes of each id
(for reading the policy's tokens), the ids that begin and end a sequence, and a chat template. The
bytes of a sequence are always the joined bytes of its ids; there is no context-dependent decoding.

Such a table exists for byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM, ...) and for
SentencePiece-style vocabularies with byte fallback (Llama 2, Gemma, Mistral, ...); other kinds
raise an error. Normalisers and pre-tokenisers are unchanged, except those that add a space in front
of every text. A vocabulary may lack rare single bytes (SmolLM2 lacks 21): encoding drops them, as
the library does; the table is still exact.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.errors import TokenizerError, nearest
from search_env.paths import FileKey, file_key
from search_env.tokens.chat_template import ChatTemplate
from search_env.tokens.files import SIDE_FILES, VOCABULARY_FILE, from_hub, read_files, side_facts
from search_env.tokens.json_vocabulary import BYTE_ALPHABET, JsonVocabulary, read_vocabulary

BUNDLED = ("world-1k", "byte", "toy")
"""Tokenizers included in the package."""

END_OF_TEXT = "<|endoftext|>"

# Names under which published tokenizers list their end of sequence or end of turn. They count only
# where the vocabulary calls them special: Gemma's </s> is HTML.
_ENDS = frozenset(
    [
        *(END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>"),
        *("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>", "<|end|>"),
    ]
)
# <|end|> ends a turn of Phi, but only a message of gpt-oss, whose turns of several end with this.
_END_OF_MESSAGE, _END_OF_MESSAGES = "<|end|>", "<|return|>"

_FIRST_PREFIX = 1024  # characters
_LOOK_AHEAD = 256  # ids

Encoder = Callable[[str, bool], Sequence[int]]
Overrides: TypeAlias = tuple["str | None", "tuple[str, ...] | None"]  # of bos_token and eos_token


@dataclass(frozen=True)
class TokenizerRules:
    """What a tokenizer's owner says of sequences.

    Attributes:
        bos_ids: Ids in front of a base prompt: of the beginning of a sequence, if it has one.
        control: The id of each control token, by its name. None comes out of outside text.
        chat_template: How a chat is written, or None.
    """

    bos_ids: tuple[int, ...] = ()
    control: Mapping[str, int] = field(default_factory=dict)
    chat_template: ChatTemplate | None = None


class Tokenizer:
    """Ids to bytes by a table, text to ids by the tokenizer's own rules.

    Args:
        name: The argument of :func:`load_tokenizer`; pickling keeps only this and the arguments
            after it.
        token_bytes: The bytes of each id, in order; b"" for ids without text (padded logits).
        encode: ``(text, special) -> ids``; ``special`` says whether the names of control tokens
            in the text become those tokens.
        eos_ids: Ids that end a sequence or a turn.
        files: Texts of the files, by name, that make a folder loadable as this tokenizer; none for
            ``"toy"``, which no ``tokenizer.json`` can express.
        rules: What the owner says of sequences beside their ends.
        overrides: The arguments ``bos_token`` and ``eos_token`` of :func:`load_tokenizer`.

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
        *,
        rules: TokenizerRules = TokenizerRules(),
        overrides: Overrides = (None, None),
    ) -> None:
        self.name = name
        self.token_bytes = tuple(token_bytes)
        self.eos_ids = frozenset(eos_ids)
        self.files = files
        self.rules = rules
        self._encode = encode
        self._overrides = overrides

    @property
    def size(self) -> int:
        """The number of ids: the ``n`` of ``Discrete(n)``."""
        return len(self.token_bytes)

    @property
    def bos_ids(self) -> tuple[int, ...]:
        """The ids in front of a base prompt, usually one or none."""
        return self.rules.bos_ids

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """The id of each control token, by its name in the vocabulary."""
        return self.rules.control

    @functools.cached_property
    def control_ids(self) -> frozenset[int]:
        """The ids that outside text never becomes, whatever it spells."""
        return frozenset(self.rules.control.values())

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The model's own chat template; its ``text`` is Jinja."""
        return self.rules.chat_template

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the byte table, the end ids and the ids in front of a prompt.

        Equal digests mean equal actions, and equal prompts of equal texts.
        """
        sha = hashlib.sha256(repr(sorted(self.eos_ids)).encode())
        sha.update(np.array([len(b) for b in self.token_bytes], np.int64).tobytes())
        sha.update(b"".join(self.token_bytes))
        if self.bos_ids:
            sha.update(f"bos {self.bos_ids}".encode())
        return sha.hexdigest()

    def encode(
        self, text: str, *, special: bool = False, limit: int | None = None
    ) -> NDArray[np.int32]:
        """Return the ids of a text, int32 ``(T,)``, without added special tokens.

        Args:
            text: Any text; lone surrogates become question marks.
            special: Whether a control token's name in the text becomes that token. Must be False
                for external text such as documents, which could otherwise inject one.
            limit: The number of ids to return at most; of a long text, only as much is encoded as
                they need. They are the first ids of the whole text, provided that no id depends on
                text that is more than 256 ids away, within one word of that length for example.
        """
        if limit is None:
            return self._ids(text, special)
        length = _FIRST_PREFIX + 8 * limit
        while length < len(text):
            ids = self._ids(text[:length], special)
            if len(ids) >= limit + _LOOK_AHEAD:
                return ids[:limit].copy()
            length *= 4
        return self._ids(text, special)[:limit].copy()

    def _ids(self, text: str, special: bool) -> NDArray[np.int32]:
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
        return Tokenizer(
            self.name,
            self.token_bytes + (b"",) * (size - self.size),
            self._encode,
            self.eos_ids,
            self.files,
            rules=self.rules,
            overrides=self._overrides,
        )

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, size={self.size})"

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[object, ...]]:
        return _load, (self.name, self.size, self._overrides)


def load_tokenizer(
    name: str,
    size: int | None = None,
    *,
    bos_token: str | None = None,
    eos_token: str | Sequence[str] | None = None,
) -> Tokenizer:
    """Return a tokenizer by bundled name, path or hub id.

    The same arguments return the same object until one of its files changes.

    Args:
        name: ``"world-1k"`` (byte-level BPE of about 1,000 ids trained on the procedural world),
            ``"byte"`` (an id for each byte) or ``"toy"``; a ``tokenizer.json`` (also ``.xz`` or
            ``.gz``) or a folder that holds one; a ``.gguf`` file (read by transformers); or a hub
            id such as ``"Qwen/Qwen2.5-7B"``.
        size: Number of ids to pad to, see :meth:`Tokenizer.padded`.
        bos_token: The token in front of a base prompt, ``""`` for none. None: as the files say.
        eos_token: The token or tokens that end a sequence, ``()`` for none. None: those that the
            files name.

    Raises:
        TokenizerError: No such tokenizer, a file that cannot be read, or no such token.
        UnsupportedTokenizerError: A kind whose ids have no exact bytes.

    Warns:
        UserWarning: No file says which token ends a sequence.
    """
    if bos_token is not None and not isinstance(bos_token, str):
        raise TokenizerError(
            f"Expected bos_token to be the name of a token or None, got {bos_token!r}. Pass '' for "
            "none."
        )
    ends: object = (eos_token,) if isinstance(eos_token, str) else eos_token
    if ends is None:
        return _load(name, size, (bos_token, None))
    if not isinstance(ends, Sequence) or not all(isinstance(end, str) for end in ends):
        raise TokenizerError(
            f"Expected eos_token to be a name, a sequence of names or None, got {eos_token!r}. "
            "Pass the tokens that end a turn, such as '<|im_end|>'."
        )
    return _load(name, size, (bos_token, tuple(ends)))


def _load(name: str, size: int | None, overrides: Overrides) -> Tokenizer:
    if name in BUNDLED:
        return _cached(name, size, overrides, None, ())
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / VOCABULARY_FILE
    if not path.is_file():
        path = from_hub(name, BUNDLED)
    sides = [path.parent / side for side in SIDE_FILES]
    return _cached(name, size, overrides, path.absolute(), file_key(path, *sides))


@functools.lru_cache(maxsize=8)
def _cached(
    name: str, size: int | None, overrides: Overrides, path: Path | None, files: FileKey
) -> Tokenizer:
    """Return a tokenizer, read once; ``path`` is None for a bundled one."""
    if size is not None:
        return _cached(name, None, overrides, path, files).padded(size)
    if name == "toy":
        if overrides != (None, None):
            raise TokenizerError(
                f"Expected no bos_token and eos_token for tokenizer 'toy', whose symbols are "
                f"fixed, got {overrides}. Omit them."
            )
        return _symbol_tokenizer("toy", TOY_SYMBOLS)
    if name == "byte":
        texts = {VOCABULARY_FILE: json.dumps(_BYTES)}
    elif path is None:
        asset = importlib.resources.files("search_env.tokens") / "world_1k.json"
        texts = {VOCABULARY_FILE: asset.read_text("utf-8")}
    else:
        texts = read_files(path)
    return _from_files(name, texts, overrides)


def _from_files(name: str, files: Mapping[str, str], overrides: Overrides) -> Tokenizer:
    """Build a tokenizer from the texts of its files."""
    facts = side_facts(files)
    vocabulary = read_vocabulary(
        name, files[VOCABULARY_FILE], facts.added_tokens, facts.special_names
    )
    bos_token, eos_tokens = overrides
    bos_ids = vocabulary.prefix_ids
    if bos_token is not None:
        bos_ids = (_id_of("bos_token", name, vocabulary, bos_token),) if bos_token else ()
    elif facts.adds_bos is not None:
        own = vocabulary.ids.get(facts.tokens.get("bos_token", ""))
        bos_ids = (own,) if facts.adds_bos and own is not None else ()
    if eos_tokens is None:
        eos_ids = _ends(name, vocabulary, facts.tokens.get("eos_token", ""), facts.end_ids)
    else:
        eos_ids = {_id_of("eos_token", name, vocabulary, token) for token in eos_tokens}
    template = None
    if facts.chat_template is not None:
        template = ChatTemplate(
            facts.chat_template, facts.tokens, vocabulary.encoder, vocabulary.control
        )
    return Tokenizer(
        name,
        vocabulary.token_bytes,
        vocabulary.encoder,
        eos_ids,
        files,
        rules=TokenizerRules(bos_ids, vocabulary.control, template),
        overrides=overrides,
    )


def _id_of(argument: str, name: str, vocabulary: JsonVocabulary, token: str) -> int:
    if token not in vocabulary.ids:
        raise TokenizerError(
            f"Expected {argument} to be a token of {name!r}, got {token!r}. "
            f"{nearest(token, vocabulary.control)}Pass a name from its tokenizer.json."
        )
    return vocabulary.ids[token]


def _ends(
    name: str, vocabulary: JsonVocabulary, configured: str, listed: Iterable[int]
) -> set[int]:
    """Return all ids that end a sequence or a turn."""
    names = _ENDS & vocabulary.special
    if _END_OF_MESSAGES in vocabulary.special:
        names -= {_END_OF_MESSAGE}
    if configured in vocabulary.ids:
        names |= {configured}
    ends = {vocabulary.ids[token] for token in names}
    ends |= {i for i in listed if i < len(vocabulary.token_bytes)}
    if not ends:
        warnings.warn(
            f"No file of tokenizer {name!r} says which token ends a sequence, so episodes end by "
            "their tags and budgets only. Pass eos_token= with the token's name, or put the "
            "model's tokenizer_config.json and generation_config.json beside the file.",
            UserWarning,
            stacklevel=2,
        )
    return ends


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
_BYTE_LEVEL |= {"trim_offsets": True, "use_regex": False}
_FLAGS = dict.fromkeys(("normalized", "single_word", "lstrip", "rstrip"), False)
_BYTES = {
    "version": "1.0",
    "added_tokens": [{"id": 256, "content": END_OF_TEXT, "special": True, **_FLAGS}],
    "pre_tokenizer": _BYTE_LEVEL,
    "decoder": _BYTE_LEVEL,
    "model": {"type": "BPE", "vocab": BYTE_ALPHABET, "merges": []},
}

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
