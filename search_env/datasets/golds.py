"""Gold answers as published files write them: a text, a list, or either one inside a string.

Tables hold lists as text: JSON (``["a", "b"]``), Python's (``['a', 'b']``) or NumPy's, which has no
commas (``['a' 'b']``). Objects hold them under a name: ``{"text": [...]}`` of SQuAD, ``{"target":
[...]}`` of Search-R1, ``{"value": ..., "aliases": [...]}`` of TriviaQA.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_LIST = re.compile(rf"\s*(?:array\()?\[\s*(?:(?:{_QUOTED})[\s,]*)*\](?:,\s*dtype=\w+)?\)?\s*", re.S)
_ITEM = re.compile(_QUOTED, re.S)
_ELIDED = re.compile(rf"\s*\[.*(?:{_QUOTED})\s+\.\.\.\s+(?:{_QUOTED}).*\]\s*", re.S)
_NAMES = ("target", "text", "ground_truth", "answers", "answer", "value")
_ALIASES = ("aliases", "answer_aliases")
_UNKNOWN = "<unk>"  # TriviaQA's test split


def gold_texts(value: object) -> list[object] | None:
    """Return the golds of a field's value, blank ones included; None where it is of no known form.

    Elements that are no texts are returned as they are, for the caller to refuse.

    Example:
        >>> gold_texts("['a' 'b']"), gold_texts({"text": ["a"]}), gold_texts(1945)
        (['a', 'b'], ['a'], ['1945'])
    """
    if value is None:
        return []
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return [str(value)]
    if isinstance(value, list | tuple):
        nested = [_of_element(item) for item in value]
        return [gold for golds in nested for gold in golds]
    if isinstance(value, Mapping):
        return _of_object({str(name).lower(): item for name, item in value.items()})
    return None


def _of_text(text: str) -> list[object] | None:
    start = text.lstrip()[:1]
    if start == "{":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return [text]
        return _of_object(value) or [text]
    if _ELIDED.fullmatch(text):
        return None  # NumPy left out the middle: the golds are not in the file
    if (start == "[" or text.lstrip().startswith("array(")) and _LIST.fullmatch(text):
        return [_unquoted(item) for item in _ITEM.findall(text)]
    return [text] if text.strip() else []


def _unquoted(item: str) -> str:
    """Return the text of a quoted one; JSON and Python escape in slightly different ways."""
    if item.startswith('"'):
        try:
            return str(json.loads(item))
        except ValueError:
            pass
    try:
        return str(ast.literal_eval(item))
    except (ValueError, SyntaxError):
        return item[1:-1]


def _of_element(value: object) -> list[object]:
    if isinstance(value, Mapping | str) or (isinstance(value, int) and not isinstance(value, bool)):
        golds = gold_texts(value)
        return [value] if golds is None or (isinstance(value, str) and not golds) else golds
    return [value]


def _of_object(value: Mapping[str, object]) -> list[object] | None:
    name = next((name for name in _NAMES if name in value), "")
    if not name:
        return None
    golds = gold_texts(value[name])
    if golds is None:
        return None
    for alias in _ALIASES:
        golds += gold_texts(value.get(alias)) or []
    return [gold for gold in golds if gold != _UNKNOWN]
