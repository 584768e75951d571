"""What a folder with an encoder says of itself: pooling, prefixes, length; and its fingerprint.

The facts come from four places, of which the first that states one counts:

1. a card, a JSON file with fields of :class:`EncoderCard`: one that is named, or
   ``search_env_encoder.json`` in the folder;
2. the files of sentence-transformers: ``modules.json``, ``1_Pooling/config.json``,
   ``sentence_bert_config.json`` and the prompts of ``config_sentence_transformers.json``;
3. the family that the folder's name tells: E5, BGE, MiniLM, Contriever, Qwen3-Embedding;
4. defaults, but none for the pooling: a wrong one gives vectors that look right and find nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from search_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from search_env.types import Document
from search_env.validation import check_choice, check_count, check_flag, check_text

CARD_NAME = "search_env_encoder.json"
"""The card that is looked for in an encoder's folder."""
POOLINGS = ("mean", "cls", "last")
"""Means over all tokens, the first token's vector, the last one's."""

_LONGEST = 512  # tokens, where no file states a length
_EDGE = 1 << 20  # bytes of either end of a large file that count for a fingerprint


@dataclass(frozen=True, slots=True)
class EncoderCard:
    r"""How texts become vectors with one model.

    Attributes:
        pooling: One of :data:`POOLINGS`.
        normalize: Whether vectors are scaled to length 1, so that their inner product is a cosine.
        query_prefix: Text before every query, as the model was trained with.
        passage_prefix: Text before every passage.
        passage_template: A passage's text, of ``{title}`` and ``{text}``. Search-R1's index of
            Wikipedia has ``"{title}"``, with the quotes, on a line of its own.
        max_length: Tokens, special ones included; the rest of a text is cut off.

    Raises:
        ConfigurationError: A field has an impossible value.

    Example:
        >>> card = EncoderCard("mean", query_prefix="query: ", passage_prefix="passage: ")
        >>> card.query_text("where is Ulm?")
        'query: where is Ulm?'
        >>> card.passage_text(Document("1", "Ulm", "A city."))
        'passage: Ulm\nA city.'
    """

    pooling: str
    normalize: bool = True
    query_prefix: str = ""
    passage_prefix: str = ""
    passage_template: str = "{title}\n{text}"
    max_length: int = _LONGEST

    def __post_init__(self) -> None:
        check_choice("pooling", self.pooling, POOLINGS)
        check_flag("normalize", self.normalize)
        for name in ("query_prefix", "passage_prefix", "passage_template"):
            check_text(name, getattr(self, name), 'Pass "" for none.')
        if "{text}" not in self.passage_template:
            raise ConfigurationError(
                f"Expected {{text}} in passage_template, got {self.passage_template!r}. Pass "
                "'{title}\\n{text}', for example."
            )
        check_count("max_length", self.max_length, 8)

    def query_text(self, query: str) -> str:
        """Return the text that is encoded for a query."""
        return self.query_prefix + query

    def passage_text(self, document: Document) -> str:
        """Return the text that is encoded for a passage; without a title, its text alone."""
        if not document.title:
            return self.passage_prefix + document.text
        before, after = self.passage_template.split("{text}", 1)
        parts = (before.replace("{title}", document.title), document.text, after)
        return self.passage_prefix + "".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, from which :func:`card_from` makes an equal card."""
        return asdict(self)


_BGE_QUERY = "Represent this sentence for searching relevant passages: "
_QWEN_QUERY = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)
_FAMILIES: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        r"e5-(small|base|large)(?!.*instruct)",
        {"pooling": "mean", "query_prefix": "query: ", "passage_prefix": "passage: "},
    ),
    (r"bge-(small|base|large)-en", {"pooling": "cls", "query_prefix": _BGE_QUERY}),
    (r"bge-m3", {"pooling": "cls"}),
    (r"all-(minilm|mpnet)", {"pooling": "mean"}),
    (r"contriever", {"pooling": "mean", "normalize": False}),
    (r"qwen3-embedding", {"pooling": "last", "query_prefix": _QWEN_QUERY}),
)
"""What the models' own pages say, by a pattern of their names."""


def read_card(folder: Path, card: Path | None = None) -> EncoderCard:
    """Return the card of an encoder's folder; see the module for where its facts come from.

    Args:
        folder: A folder of transformers.
        card: A JSON file with fields of :class:`EncoderCard`, which count first.

    Raises:
        DataNotFoundError: There is no such folder or card.
        DataFormatError: A file is not what it should be.
        ConfigurationError: No file states the pooling, or one states what is not supported.
    """
    config = _config_of(folder)
    own = folder / CARD_NAME
    if card is None and own.is_file():
        card = own
    stated = _of_family(folder, config) | _of_sentence_transformers(folder)
    if card is not None:
        stated |= _read(card)
    if "pooling" not in stated:
        raise ConfigurationError(
            f"Expected the pooling of {folder} from a card, the files of sentence-transformers or "
            f"a known name, got none. Write {own} such as "
            '{"pooling": "mean", "normalize": true, "query_prefix": "", "passage_prefix": ""}: '
            "the model's page says what it was trained with."
        )
    longest = _longest(folder, config)
    stated["max_length"] = min(stated.get("max_length", min(longest, _LONGEST)), longest)
    return card_from(stated, card or folder)


def card_from(values: Mapping[str, Any], source: Path) -> EncoderCard:
    """Return the card of JSON values; ``source`` names their file in errors."""
    names = [field.name for field in fields(EncoderCard)]
    for name in values:
        check_choice(f"field of {source}", name, names)
    if "pooling" not in values:
        raise DataFormatError.at(source, None, "pooling", f"one of {POOLINGS}", None)
    return EncoderCard(**values)


def _config_of(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise DataNotFoundError(
            f"Expected a model of transformers (config.json and weights) in {folder}, got no "
            "config.json. Download one there, for example with `hf download`, and pass its folder."
        )
    return _read(folder / "config.json")


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataNotFoundError(
            f"Expected a JSON file at {path}, got no such file. Check the path."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        remedy = "Download the model again, or correct the file."
        raise DataFormatError.at(path, None, "", "a JSON object", str(error), remedy) from error
    if not isinstance(value, dict):
        raise DataFormatError.at(path, None, "", "a JSON object", value, "Correct the file.")
    return value


def _of_family(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of models of this name; hub caches have it two folders up."""
    names = [*folder.resolve().parts[-3:], str(config.get("_name_or_path", ""))]
    for pattern, stated in _FAMILIES:
        if any(re.search(pattern, name, re.IGNORECASE) for name in names):
            return dict(stated)
    return {}


_MODES = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
_MODULES = ("Transformer", "Pooling", "Normalize")


def _of_sentence_transformers(folder: Path) -> dict[str, Any]:
    """Return what the files of sentence-transformers state; nothing where there are none."""
    path = folder / "modules.json"
    if not path.is_file():
        return {}
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        kinds = {str(module["type"]).rpartition(".")[2]: module["path"] for module in modules}
    except (ValueError, TypeError, KeyError) as error:
        raise DataFormatError.at(path, None, "", "a list of modules", str(error)) from error
    for kind in kinds:
        check_choice(
            f"modules of {path}", kind, _MODULES, "Models with other layers are not supported."
        )
    stated: dict[str, Any] = {"normalize": "Normalize" in kinds}
    if "Pooling" in kinds:
        stated["pooling"] = _pooling(folder / kinds["Pooling"] / "config.json")
    length = folder / "sentence_bert_config.json"
    if length.is_file() and _read(length).get("max_seq_length") is not None:
        stated["max_length"] = _read(length)["max_seq_length"]
    prompts = folder / "config_sentence_transformers.json"
    if prompts.is_file():
        stated |= _prefixes(_read(prompts).get("prompts") or {})
    return stated


def _pooling(path: Path) -> str:
    """Return the pooling of a Pooling module, in its old or new spelling."""
    config = _read(path)
    if not config.get("include_prompt", True):
        raise ConfigurationError(
            f"Expected a model that pools its prompt too, got include_prompt=false in {path}. Use "
            "another model."
        )
    modes = config.get("pooling_mode")
    if modes is None:
        flags = {name: on for name, on in config.items() if name.startswith("pooling_mode_")}
        modes = [name.removeprefix("pooling_mode_") for name, on in flags.items() if on]
    modes = [modes] if isinstance(modes, str) else modes
    names = {**_MODES, **{name: name for name in POOLINGS}}
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in names:
        raise ConfigurationError(
            f"Expected one pooling among {POOLINGS} in {path}, got {modes}. Use another model."
        )
    return names[modes[0]]


def _prefixes(prompts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prefixes among named prompts; empty ones state nothing, as they are defaults."""
    stated: dict[str, Any] = {}
    for field, names in (
        ("query_prefix", ("query",)),
        ("passage_prefix", ("document", "passage", "corpus")),
    ):
        texts = [prompts[name] for name in names if prompts.get(name)]
        if texts:
            stated[field] = texts[0]
    return stated


def longest_of(folder: Path) -> int:
    """Return the tokens that a model of transformers can take, at most 512.

    Raises:
        DataNotFoundError: There is no model.
    """
    return min(_longest(folder, _config_of(folder)), _LONGEST)


def _longest(folder: Path, config: Mapping[str, Any]) -> int:
    """Return the tokens that a model can take; RoBERTa's positions hold two more than that."""
    path = folder / "tokenizer_config.json"
    of_tokenizer = _read(path).get("model_max_length") if path.is_file() else None
    lengths = [of_tokenizer, config.get("max_position_embeddings")]
    known = [int(length) for length in lengths if isinstance(length, int) and length > 0]
    return min(known, default=_LONGEST)


def fingerprint(folder: Path) -> str:
    """Return 32 hexadecimal digits that tell models apart without reading gigabytes.

    It covers names and sizes of the files of configuration, tokenizer and weights, the content of
    small ones, and the first and last MiB of large ones: another model or a model that was trained
    further has another one, a bit that flipped in the middle has not.
    """
    total = hashlib.sha256()
    names = ("config.json", "tokenizer.json", "vocab.txt", "sentencepiece.bpe.model")
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    for path in [*(folder / name for name in names), *sorted(weights)]:
        if not path.is_file():
            continue
        size = path.stat().st_size
        total.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            total.update(file.read(_EDGE))
            file.seek(max(0, size - _EDGE))
            total.update(file.read(_EDGE))
    return total.hexdigest()[:32]
