"""The files of a tokenizer: in a folder, on the hub, or inside a ``.gguf`` file.

``tokenizer.json`` says how text becomes ids. Only the files beside it say which token begins a
sequence, which ones end it, and how a chat is written.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import lzma
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_env.errors import TokenizerError, nearest
from search_env.hub import hub_file

VOCABULARY_FILE = "tokenizer.json"
SIDE_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files beside a ``tokenizer.json`` that this package, transformers and inference servers read."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name, so that a misspelt name fails at once
_GGUF_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True)
class SideFacts:
    """What the files beside a ``tokenizer.json`` say.

    Attributes:
        adds_bos: Whether a sequence begins with ``bos_token``; None where no file says.
        tokens: The token of each role, such as ``{"eos_token": "</s>"}``.
        end_ids: Ids of ends that the generation config lists.
        chat_template: The template as Jinja.
        added_tokens: Further added tokens, as ``tokenizer.json`` writes them.
        special_names: Names of tokens that have some role.
    """

    adds_bos: bool | None
    tokens: Mapping[str, str]
    end_ids: frozenset[int]
    chat_template: str | None
    added_tokens: tuple[Mapping[str, Any], ...]
    special_names: frozenset[str]


def side_facts(files: Mapping[str, str]) -> SideFacts:
    """Return what a tokenizer's files say beside its vocabulary.

    Raises:
        TokenizerError: A file has another form than transformers writes.
    """
    config, roles, generation, template = (
        _object(name, files.get(name))
        for name in (
            "tokenizer_config.json",
            "special_tokens_map.json",
            "generation_config.json",
            "chat_template.json",
        )
    )
    roles |= {key: value for key, value in config.items() if value is not None}
    tokens = {}
    for role in _ROLES:
        if content := _content(roles.get(f"{role}_token")):
            tokens[f"{role}_token"] = content
    adds_bos = config.get("add_bos_token")
    decoder = config.get("added_tokens_decoder")
    added = decoder.items() if isinstance(decoder, dict) else ()
    listed = roles.get("additional_special_tokens") or roles.get("extra_special_tokens") or ()
    others = [_content(t) for t in (listed.values() if isinstance(listed, dict) else listed)]
    return SideFacts(
        adds_bos=adds_bos if isinstance(adds_bos, bool) else None,
        tokens=tokens,
        end_ids=_end_ids(generation),
        chat_template=files.get("chat_template.jinja") or _default_template(template, config),
        added_tokens=tuple(
            {**entry, "id": int(i)} for i, entry in added if isinstance(entry, dict) and i.isdigit()
        ),
        special_names=frozenset([*tokens.values(), *filter(None, others)]),
    )


def _object(name: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        content = error
    if not isinstance(content, dict):
        raise TokenizerError(
            f"Expected {name} to be a JSON object, got {str(content)[:200]!r}. Download the file "
            "again."
        )
    return content


def _content(token: object) -> str | None:
    """Return the text of a token that is written as a string or as an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) and content else None


def _end_ids(generation: Mapping[str, Any]) -> frozenset[int]:
    value = generation.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise TokenizerError(
            f"Expected eos_token_id of generation_config.json to be an id or a list of ids, got "
            f"{value!r}. Correct the file, or remove the entry."
        )
    return frozenset(i for i in ids if i >= 0)  # some files write -1 for none


def _default_template(*files: Mapping[str, Any]) -> str | None:
    """Return the default chat template of the first file that has any."""
    value = next((file["chat_template"] for file in files if file.get("chat_template")), None)
    if isinstance(value, list):  # named templates
        value = {e.get("name"): e.get("template") for e in value if isinstance(e, dict)}
    if isinstance(value, dict):
        value = value.get("default")
    return value if isinstance(value, str) else None


def read_files(path: Path) -> dict[str, str]:
    """Return the texts of a ``tokenizer.json`` or ``.gguf`` file and of the files beside it."""
    if path.suffix == ".gguf":
        return _read_gguf(path)
    sides = {side: path.parent / side for side in SIDE_FILES}
    texts = {side: read_text(file) for side, file in sides.items() if file.is_file()}
    return {**texts, VOCABULARY_FILE: read_text(path)}


def read_text(path: Path) -> str:
    """Return the text of a file, which may be compressed."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".xz":
            raw = lzma.decompress(raw)
        elif path.suffix == ".gz":
            raw = gzip.decompress(raw)
        return raw.decode("utf-8")
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise TokenizerError(
            f"Expected {path} to be a readable text file (plain, .gz or .xz), got "
            f"{type(error).__name__}: {error}. Download or save the file again."
        ) from error


def _read_gguf(path: Path) -> dict[str, str]:
    """Return the files that transformers writes for the tokenizer inside a ``.gguf`` file."""
    try:
        import gguf  # transformers reads the file with it
        from transformers import AutoTokenizer
    except ImportError as error:
        raise TokenizerError(
            f"Expected transformers and gguf to read {path}, got no {error.name}. Run: "
            'pip install "search-env[gguf]"'
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            files = _without_invented_tokens(read_files(Path(folder) / VOCABULARY_FILE))
        # Transformers keeps neither whether a sequence has a beginning nor the ends of turns.
        fields = gguf.GGUFReader(path).fields
        facts = {
            name: fields[f"tokenizer.ggml.{name}"].contents()
            for name in ("add_bos_token", *_GGUF_ENDS)
            if f"tokenizer.ggml.{name}" in fields
        }
        ends = sorted({facts[name] for name in _GGUF_ENDS if name in facts})
        if "add_bos_token" in facts:
            config = json.loads(files.get("tokenizer_config.json", "{}"))
            config["add_bos_token"] = bool(facts["add_bos_token"])
            files["tokenizer_config.json"] = json.dumps(config, indent=2)
        if ends:
            files["generation_config.json"] = json.dumps({"eos_token_id": ends})
        return files
    except Exception as error:  # several kinds, by what is wrong with the file
        raise TokenizerError(
            f"Expected a tokenizer in {path}, got {type(error).__name__}: {error}. Pass the "
            "tokenizer.json of the same model."
        ) from error


def _without_invented_tokens(files: Mapping[str, str]) -> dict[str, str]:
    """Return files without the added tokens that transformers appends to a ``.gguf`` file's own.

    Its class for Llama adds ``<unk>`` to vocabularies without one: an id that the model lacks.
    """
    spec = json.loads(files[VOCABULARY_FILE])
    size = len(spec["model"]["vocab"])
    spec["added_tokens"] = [entry for entry in spec["added_tokens"] if entry["id"] < size]
    config = json.loads(files.get("tokenizer_config.json", "{}"))
    decoder = config.get("added_tokens_decoder", {})
    names = {entry["content"] for entry in spec["added_tokens"]} | set(spec["model"]["vocab"])
    config = {
        key: value
        for key, value in config.items()
        if not key.endswith("_token") or not isinstance(value, str) or value in names
    }
    if decoder:
        config["added_tokens_decoder"] = {i: e for i, e in decoder.items() if int(i) < size}
    texts = {VOCABULARY_FILE: json.dumps(spec, ensure_ascii=False)}
    if "tokenizer_config.json" in files:
        texts["tokenizer_config.json"] = json.dumps(config, ensure_ascii=False, indent=2)
    return {**files, **texts}


@functools.lru_cache(maxsize=8)  # a hub request takes a connection
def from_hub(name: str, bundled: tuple[str, ...]) -> Path:
    """Return the path of a hub repository's ``tokenizer.json``, downloaded unless cached."""
    hint = nearest(name, bundled)
    expected = (
        f"a bundled name ({', '.join(bundled)}), a path to a tokenizer.json or .gguf file, or a "
        "hub id"
    )
    if not _HUB_ID.fullmatch(name) or name.endswith((".json", ".xz", ".gz", ".gguf")):
        raise TokenizerError(f"Expected {expected}; got {name!r}, which is no file. {hint}")
    try:
        path = hub_file(name, VOCABULARY_FILE)
    except (ImportError, OSError, ValueError) as error:
        raise TokenizerError(
            f"Expected {expected}; got {name!r}, whose tokenizer.json could not be downloaded "
            f"({type(error).__name__}). {hint}Offline, pass the path of the file instead."
        ) from error
    for side in SIDE_FILES:  # optional
        with contextlib.suppress(OSError, ValueError):
            hub_file(name, side)
    return path
