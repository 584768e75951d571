"""Gold answers as files write them: a text, a number, a list, or any of these inside a string.

Tables and dumps hold lists as text: JSON (``["a", "b"]``), Python's (``['a', 'b']``) or NumPy's,
which has no commas (``['a' 'b']``) and which Python's own parser would join. Objects hold them
under a name: ``{"text": [...]}`` of SQuAD, ``{"target": [...]}`` of Search-R1, ``{"value": ...,
"aliases": [...]}`` of TriviaQA.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = ("target", "text", "ground_truth", "golden_answers", "answers", "answer", "value")
_ALIASES = ("aliases", "answer_aliases")
_UNKNOWN = "<unk>"  # TriviaQA's test split
_LITERAL = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_CLOSING = {"[": "]", "{": "}", "a": ")", "n": ")"}  # of lists, objects, array(...), np.array(...)
_ARRAYS = ("array", "list", "tuple", "set")
_LEVELS = 8  # of lists, objects and printed ones inside each other; published files have four


def gold_texts(value: object) -> list[object] | None:
    """Return the golds of a field's value, blank ones included; None where it is of no known form.

    Numbers are returned as texts; elements that are neither are returned as they are, for the
    caller to refuse.

    Example:
        >>> gold_texts("['a' 'b']"), gold_texts({"text": ["a"]}), gold_texts(1945.0)
        (['a', 'b'], ['a'], ['1945'])
        >>> gold_texts("{'target': array(['Georges Bizet'], dtype=object)}")
        ['Georges Bizet']
    """
    return _golds(value, _LEVELS)


def _golds(value: object, levels: int) -> list[object] | None:
    if value is None:
        return []
    if isinstance(value, str):
        if not value.strip():
            return []
        printed = _printed(value)
        return [value] if printed is None else _golds(printed, levels - 1)
    if _is_number(value):
        return [text_of(value)]
    if levels < 1:
        return None
    if isinstance(value, list | tuple) and Ellipsis not in value:
        return [gold for item in value for gold in _of_item(item, levels - 1)]
    if isinstance(value, Mapping):
        return _of_object({str(name).lower(): item for name, item in value.items()}, levels - 1)
    return None


def text_of(value: object) -> str:
    """Return an answer that is a text or a number as a text.

    Raises:
        ValueError: It is anything else: a truth value, a list, NaN.

    Example:
        >>> text_of("Ulm"), text_of(1945), text_of(1945.0), text_of(2.5)
        ('Ulm', '1945', '1945', '2.5')
    """
    if isinstance(value, str):
        return value
    if not _is_number(value):
        raise ValueError("neither a text nor a number")
    number: Any = value
    return str(int(number)) if number == int(number) else str(number)


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def _of_item(item: object, levels: int) -> list[object]:
    """Return the golds of one element of a list, where "[1]" is a text and no list of numbers."""
    if isinstance(item, str) and item.strip() and _has_number(_printed(item), levels):
        return [item]
    return _golds(item, levels) or [item]


def _has_number(value: object, levels: int) -> bool:
    if levels < 1 or not isinstance(value, Mapping | list):
        return _is_number(value)
    items = value.values() if isinstance(value, Mapping) else value
    return any(_has_number(item, levels - 1) for item in items)


def _of_object(value: Mapping[str, object], levels: int) -> list[object] | None:
    name = next((name for name in _NAMES if name in value), "")
    golds = _golds(value[name], levels) if name else None
    if golds is None:
        return None
    for alias in _ALIASES:
        golds += _golds(value.get(alias), levels) or []
    return [gold for gold in golds if gold != _UNKNOWN]


def _printed(text: str) -> object:
    """Return the list or object of golds that a text was printed from; None for any other text."""
    plain = text.strip()
    if plain[-1] != _CLOSING.get(plain[0]):
        return None
    try:
        value = json.loads(plain)
    except (ValueError, RecursionError):
        value = _evaluated(plain)
    if isinstance(value, Mapping):
        return value if _of_object(value, _LEVELS) else None
    is_list = isinstance(value, list) and all(
        isinstance(item, str | Mapping) or item is ... or _is_number(item) for item in value
    )
    return value if is_list else None


def _evaluated(text: str) -> object:
    """Return the value of a printed list, object or array; None where it is none."""
    try:
        return _value(ast.parse("".join(_with_commas(text)), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _with_commas(text: str) -> Iterator[str]:
    """Yield the parts of a text, with commas between strings that only white space separates."""
    end, is_after_string = 0, False
    for literal in _LITERAL.finditer(text):
        between = text[end : literal.start()]
        elided = between.strip() == "..."  # NumPy leaves out the middle of a long array
        yield ", ...," if elided and is_after_string else between
        yield "," if is_after_string and not between.strip() else ""
        yield literal[0]
        end, is_after_string = literal.end(), True
    yield text[end:]


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            names = [None if key is None else _value(key) for key in keys]
            return dict(zip(names, map(_value, values), strict=True))
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[items]):
            if name in _ARRAYS:
                return _value(items)
    raise ValueError(f"{type(node).__name__} in a printed list")
