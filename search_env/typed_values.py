"""Values of plain types, such as those of JSON, checked against the annotations of dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

from search_env.errors import ConfigurationError, nearest
from search_env.validation import check_choice

T = TypeVar("T")


def annotations_of(annotated: Any) -> dict[str, Any]:
    """Return the annotations of a class or function by name, resolved."""
    return _annotations(annotated)


_annotations: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def check_type(name: str, value: Any, annotation: Any) -> Any:
    """Return a value of an annotation's type, lists as tuples where it says so.

    Known are ``None``, bool, int, float, str, ``Literal``, unions, tuples, sequences, mappings and
    ``Any``; any other class takes objects, but no plain values. Integers are taken for float, never
    a bool for a number; NaN is no number.

    Raises:
        ConfigurationError: It is of another type.

    Example:
        >>> check_type("hops", [[0, 1], [50, 2]], tuple[tuple[int, int], ...])
        ((0, 1), (50, 2))
        >>> check_type("steps", "12", int | None)
        Traceback (most recent call last):
        ...
        search_env.errors.ConfigurationError: Expected steps to be an integer or null, got '12'. \
Change steps.
    """
    converted = _convert(value, annotation)
    if converted is not _WRONG:
        return converted
    choices = typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()
    advice = _SPELLINGS.get(value, "") if isinstance(value, str) else ""
    advice = nearest(str(value), choices) if choices else advice
    raise ConfigurationError(
        f"Expected {name} to be {_in_words(annotation)}, got {value!r}. {advice}Change {name}."
    )


def fits(value: Any, annotation: Any) -> bool:
    """Return whether :func:`check_type` takes a value."""
    return _convert(value, annotation) is not _WRONG


def check_fields(instance: Any) -> None:
    """Check the fields of a frozen dataclass by their annotations; store them as these have them.

    Raises:
        ConfigurationError: A field has a value of another type.
    """
    annotations = annotations_of(type(instance))
    for field in dataclasses.fields(instance):
        value = check_type(field.name, getattr(instance, field.name), annotations[field.name])
        object.__setattr__(instance, field.name, value)


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Return a dataclass from plain values, its nested dataclasses too.

    ``where`` is what errors put before the names of fields, for example ``"phases.0."``.

    Raises:
        ConfigurationError: A field that does not exist, is missing or has a value of another type.
    """
    if not isinstance(values, Mapping):
        raise ConfigurationError(
            f"Expected {where.rstrip('.')} to be an object with the fields of {cls.__name__}, got "
            f"{values!r}. Write its fields."
        )
    declared: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in declared]
    for name in values:
        check_choice(f"a field of {where.rstrip('.') or cls.__name__}", name, names)
    for field in declared:
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in values:
            raise ConfigurationError(f"Expected a value of {where}{field.name}, got none. Add it.")
    annotations = annotations_of(cls)
    return cls(
        **{name: _built(where + name, value, annotations[name]) for name, value in values.items()}
    )


def _built(name: str, value: Any, annotation: Any) -> Any:
    inner = typing.get_args(annotation)
    if dataclasses.is_dataclass(annotation):
        return build(annotation, value, f"{name}.")  # type: ignore[arg-type]
    if len(inner) == 2 and inner[1] is ... and dataclasses.is_dataclass(inner[0]):
        items = check_type(name, value, tuple[Any, ...])
        return tuple(_built(f"{name}.{i}", item, inner[0]) for i, item in enumerate(items))
    return check_type(name, value, annotation)


_WRONG = object()
_PLAIN = (type(None), bool, int, float, str, list, tuple, dict)
_SPELLINGS = {"None": "Write null for None. ", "True": "Write true. ", "False": "Write false. "}
_WORDS = {
    type(None): "null",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
}


def _is_number(kind: type) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        return is_number and not math.isnan(value)

    return check


_SCALARS: dict[Any, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    bool: (lambda value: isinstance(value, bool), bool),
    int: (_is_number(numbers.Integral), int),
    float: (_is_number(numbers.Real), float),
    str: (lambda value: isinstance(value, str), str),
    type(None): (lambda value: value is None, lambda value: None),
    None: (lambda value: value is None, lambda value: None),
}


def _convert(value: Any, annotation: Any) -> Any:
    """Return the value as an annotation has it, or ``_WRONG``."""
    if annotation is Any:
        return value
    if annotation in _SCALARS:
        is_right, convert = _SCALARS[annotation]
        try:
            return convert(value) if is_right(value) else _WRONG
        except OverflowError:  # an integer that no float can hold
            return _WRONG
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        # An integer stays one where both are taken.
        converted = (_convert(value, member) for member in inner)
        return next((one for one in converted if one is not _WRONG), _WRONG)
    if origin is Literal:
        return value if isinstance(value, str | int | None) and value in inner else _WRONG
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _convert_mapping(value, *inner)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return _convert_sequence(value, origin, inner)
    return _WRONG if isinstance(value, _PLAIN) else value


def _convert_mapping(value: Any, key: Any, item: Any) -> Any:
    if not isinstance(value, Mapping):
        return _WRONG
    converted = {_convert(name, key): _convert(entry, item) for name, entry in value.items()}
    return _WRONG if _WRONG in (*converted, *converted.values()) else converted


def _convert_sequence(value: Any, origin: type, inner: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _WRONG
    repeats = len(inner) == 1 or inner[-1] is ...
    if not repeats and len(value) != len(inner):
        return _WRONG
    converted = [_convert(v, inner[0 if repeats else i]) for i, v in enumerate(value)]
    if any(one is _WRONG for one in converted):
        return _WRONG
    return converted if origin is list else tuple(converted)


def _in_words(annotation: Any) -> str:
    """Return what an annotation takes, for an error."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(member) for member in inner)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "an object of named values"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if len(inner) == 1 or inner[-1] is ...:
            return f"a list ({_in_words(inner[0])} each)"
        return f"a list of {len(inner)} ({', '.join(map(_in_words, inner))})"
    return getattr(annotation, "__name__", str(annotation))
