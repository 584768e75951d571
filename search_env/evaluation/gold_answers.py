"""Gold answers as other systems write them: texts, lists, dictionaries, and these as printed text.

Data frames and arrays print lists in ways that no parser reads: ``['a' 'b']`` is numpy's, and
Python's own parser would join the two.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator
from typing import Any

_KEYS = ("target", "ground_truth", "golden_answers", "answers", "answer")
"""Keys under which dictionaries hold gold answers, in the order in which they are looked up."""

_LITERAL = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_BRACKETS = {"[": "]", "{": "}", "(": ")", "a": ")", "n": ")"}
_ARRAYS = ("array", "list", "tuple", "set")


def gold_answers(value: object) -> tuple[str, ...]:
    """Return the gold answers that a value holds, without repetitions; () where it holds none.

    Raises:
        ValueError: The value, or a part of it, is no gold answer.

    Example:
        >>> gold_answers({"target": ["Ulm", 1945]}), gold_answers("['a' 'b']")
        (('Ulm', '1945'), ('a', 'b'))
        >>> gold_answers("{'target': array(['Georges Bizet'], dtype=object)}")
        ('Georges Bizet',)
    """
    return tuple(dict.fromkeys(_answers(value)))


def answer_text(value: object) -> str:
    """Return an answer that is a text or a number as a text.

    Raises:
        ValueError: It is anything else: a truth value, a list, NaN.

    Example:
        >>> answer_text("Ulm"), answer_text(1945), answer_text(1945.0), answer_text(2.5)
        ('Ulm', '1945', '1945', '2.5')
    """
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("neither a text nor a number")
    return str(int(value)) if value == int(value) else str(value)


def whole_text(text: str) -> str:
    """Return a text with U+FFFD for half characters, which JSON can hold and files cannot.

    Example:
        >>> whole_text("a" + chr(0xD83D) + chr(0xDE00) + chr(0xD83D)) == "a" + chr(0x1F600) + "�"
        True
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _answers(value: object) -> Iterator[str]:
    value = _unprinted(value) if isinstance(value, str) else value
    if isinstance(value, dict):
        key = next((key for key in _KEYS if key in value), None)
        if key is None:
            raise ValueError(f"a dictionary without any of {', '.join(_KEYS)}")
        yield from _answers(value[key])
        return
    items = value if isinstance(value, list | tuple) else [value]
    if len(items) == 1 and isinstance(items[0], str):  # a list of one printed list
        items = [_unprinted(items[0])]
    for item in items:
        for text in item if isinstance(item, list | tuple) else [item]:
            yield answer_text(text)


def _unprinted(text: str) -> object:
    """Return the list or dictionary that a text was printed from; else the text."""
    plain = text.strip()
    if not plain or plain[-1] != _BRACKETS.get(plain[0]):
        return text
    try:
        value = json.loads(plain)
    except (ValueError, RecursionError):
        value = _evaluated(plain)
    if isinstance(value, dict):
        return value if any(key in value for key in _KEYS) else text
    return value if isinstance(value, list) and value else text


def _evaluated(text: str) -> object:
    """Return the value of a printed list, dictionary or array; None where it is none."""
    try:
        return _value(ast.parse(_with_commas(text), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _with_commas(text: str) -> str:
    """Put commas between texts that only white space separates, as numpy prints them."""
    parts, end, is_after_text = [], 0, False
    for literal in _LITERAL.finditer(text):
        between = text[end : literal.start()]
        parts += [between, "," if is_after_text and not between.strip() else "", literal[0]]
        end, is_after_text = literal.end(), True
    return "".join([*parts, text[end:]])


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
