"""The one reader of every kind of file: which files a path means, and the rows of each.

A path is a file or a folder of files of one kind (the shards of one data set). A file is JSON
lines, one JSON list, one JSON object around a list or from names to rows, CSV, TSV or Parquet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from search_env.datasets.json_stream import JsonStream
from search_env.datasets.rows import Row
from search_env.datasets.streaming import (
    file_fault,
    first_character,
    iter_json_mapping,
    iter_json_member,
    iter_json_objects,
    iter_rows,
    open_text,
    plain_name,
)
from search_env.datasets.tables import is_parquet, is_table, iter_parquet, iter_table
from search_env.errors import DataNotFoundError

MAPPING, BY_ID = "a mapping from titles to sentences", "a mapping from ids to rows"

_MEMBERS = ("data", "questions", "queries", "examples", "rows", "documents", "passages", "corpus")
_KINDS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab")
_NO_ROWS = ("dataset_info", "dataset_infos", "config", "state", "tokenizer", "tokenizer_config")
_MODEL_FILES = ("tokenizer.model", "tokenizer.json", "config.json", "model.safetensors")
_KEYS_LOOKED_AT = 32
_FIELDS_OF_ROWS = {"question", "query", "answer", "contents", "title"}
_LISTS_OF_ROWS = {
    *("answers", "golden_answers", "answer", "answer_aliases", "paragraphs", "context", "prompt"),
    *("supporting", "supporting_facts", "decomposition", "question_decomposition", "evidences"),
}
"""Lists that are fields of a row, and no sentences under a title."""


def files_of(path: Path, names: tuple[str, ...] = ()) -> list[Path]:
    """Return the files that a path means: itself, or the files of rows in a folder, by name.

    Args:
        path: A file, existing or not, or a folder.
        names: Where a folder has files of these names (endings apart), only they count.

    Raises:
        DataNotFoundError: The folder has no files of rows.
        DataFormatError: It has files of several kinds, or one that is a link to another folder.
    """
    if not os.path.isdir(path):  # also False for a path that cannot exist
        return [path]
    files = {file: _kind(file) for file in sorted(path.iterdir()) if _kind(file)}
    named = {file: kind for file, kind in files.items() if _stem(file) in names}
    chosen = named or files
    if not chosen:
        raise _no_rows(path)
    if len(set(chosen.values())) > 1:
        raise file_fault(
            path,
            "a folder with files of one kind",
            ", ".join(file.name for file in chosen),
            "Pass one of the files.",
        )
    for file in chosen:
        _check_inside(path, file)
    return list(chosen)


def _kind(file: Path) -> str:
    """Return the ending by which a file of a folder is one of rows, or ""."""
    if file.name.startswith(".") or file.is_dir() or _stem(file) in _NO_ROWS:
        return ""
    return next((kind for kind in _KINDS if plain_name(file).endswith(kind)), "")


def _stem(file: Path) -> str:
    return plain_name(file).partition(".")[0]


def _no_rows(path: Path) -> DataNotFoundError:
    names = sorted(file.name for file in path.iterdir())
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    remedy = f"Pass a file, or the folder with the files ({', '.join(_KINDS)})."
    if any(name.endswith(".arrow") for name in names):
        remedy = "It was written by save_to_disk: load it with the datasets library and write it "
        remedy += "with to_parquet or to_json."
    elif set(names) & set(_MODEL_FILES):
        remedy = "It is the folder of a model or a tokenizer: pass it as tokenizer=."
    return DataNotFoundError(
        f"Expected a folder with files of rows at {path}, got {listed or 'an empty one'}. {remedy}"
    )


def _check_inside(folder: Path, file: Path) -> None:
    """Refuse a link that leads out of its folder; the hub's cache links to its own ``blobs``."""
    root = folder.resolve()
    if root.parent.name == "snapshots":
        root = root.parents[1]
    if not file.resolve().is_relative_to(root):
        raise file_fault(
            file, f"a file inside {root}", f"a link to {file.resolve()}", "Pass that file itself."
        )


def split_of(file: Path) -> str:
    """Return the split that the name of a shard says (``train-00000-of-00002``), or ""."""
    first = _stem(file).replace("_", "-").partition("-")[0]
    return first if first in ("train", "dev", "val", "validation", "test") else ""


def rows_of(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of any kind.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: The file is of none of the kinds, or damaged.
    """
    if is_parquet(path):
        return iter_parquet(path)
    if is_table(path):
        return iter_table(path)
    kind = object_kind(path)
    if kind == MAPPING:
        return iter_json_mapping(path)
    if kind == BY_ID:
        return iter_json_objects(path)
    return _flat(iter_json_member(path, kind)) if kind else iter_rows(path)


def object_kind(path: Path) -> str:
    """Return what a ``.json`` file that is one object holds, or the name of its list of rows.

    "" stands for all others: for lists, and for objects that are rows themselves.
    """
    if not plain_name(path).endswith(".json") or first_character(path) != "{":
        return ""
    with open_text(path) as file:
        stream = JsonStream(path, file)
        stream.take("{")
        stream.number = 1
        for is_first in (True, *[False] * _KEYS_LOOKED_AT):
            if stream.peek() != '"':
                break
            key, start = stream.key(), stream.peek()
            if start == "[" and key.lower() in _MEMBERS:
                stream.take("[")
                return key if stream.peek() == "{" else ""
            value = stream.value()
            if is_first and isinstance(value, list) and key not in _LISTS_OF_ROWS:
                return MAPPING
            if isinstance(value, dict) and value.keys() & _FIELDS_OF_ROWS:
                return BY_ID
            if stream.peek() != ",":
                break
            stream.take(",")
    return ""


def _flat(articles: Iterator[Row]) -> Iterator[Row]:
    """Yield a row for each question of SQuAD's articles; other rows pass unchanged."""
    for article in articles:
        if "paragraphs" not in article.data or "title" not in article.data:
            yield article
            continue
        for paragraph in article.rows("paragraphs"):
            fields = {"title": article.data["title"], "context": paragraph.data.get("context")}
            for question in paragraph.rows("qas"):
                data = {"answers": None} | question.data | fields
                yield Row(article.path, article.line, data, question.prefix, article.place)
