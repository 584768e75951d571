"""Reading of what came over the wire: values of the right types at their places, or an error."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from search_env.types import Document
from search_env.validation import shown

T = TypeVar("T")

_WORDS: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}


class WrongReplyError(ValueError):
    """A reply is not what the dialect says; ``expected`` and ``got`` are parts of a sentence."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected, self.got = expected, got


class WrongRequestError(ValueError):
    """A request to our server is not what its dialect says."""


def read_json(body: bytes) -> Any:
    """Return a JSON value; a page of HTML in its place is named as such."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        start = body.lstrip()[:80]
        kind = "HTML" if start[:1] == b"<" else "something else"
        raise WrongReplyError(
            "JSON", f"{kind}: {shown(start.decode('utf-8', 'replace'))}"
        ) from None


def write_json(value: Any) -> bytes:
    """Return a value as JSON in ASCII, in which also lone surrogates can be sent."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def member(value: Any, name: str, kind: type[T], place: str = "") -> T:
    """Return a field of an object, of this type."""
    if not isinstance(value, Mapping):
        raise WrongReplyError(f"an object at {place or 'the top'}", shown(value))
    place = f"{place}.{name}".lstrip(".")
    if name not in value:
        raise WrongReplyError(f"a field {place}", f"the fields {shown(sorted(map(str, value)))}")
    return item(value[name], kind, place)


def item(value: Any, kind: type[T], place: str) -> T:
    """Return a value that must be of this type; ``place`` says where it stands."""
    if not isinstance(value, kind):
        raise WrongReplyError(f"{place} to be {_WORDS[kind]}", shown(value))
    return value


def lists(value: Any, count: int, place: str) -> list[list[Any]]:
    """Return a list of ``count`` lists, one for each query."""
    outer = item(value, list, place)
    if len(outer) != count:
        raise WrongReplyError(f"{count} lists in {place}, one for each query", f"{len(outer)}")
    return [item(inner, list, f"{place}[{i}]") for i, inner in enumerate(outer)]


def text(value: Any, place: str) -> str:
    """Return a string; None, as engines send where there is nothing, is an empty one."""
    return "" if value is None else item(value, str, place)


def identifier(value: Any, content: str, place: str) -> str:
    """Return a document's id as text: the server's, or else one that its content determines."""
    if value is None or value == "":
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise WrongReplyError(f"{place} to be a string or an integer", shown(value))
    return str(value)


def score(value: Any, place: str) -> float:
    """Return a score, 0 where there is none."""
    if value is None:
        return 0.0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise WrongReplyError(f"{place} to be a finite number", shown(value))
    return number


def distinct(documents: Iterable[Document]) -> list[Document]:
    """Return the documents, of those with the same id the first."""
    found: dict[str, Document] = {}
    for document in documents:
        found.setdefault(document.id, document)
    return list(found.values())


def scores_that_fall(documents: Sequence[Document]) -> list[Document]:
    """Return web results in the engine's order; scores that contradict it are left out, all."""
    numbers = [document.score for document in documents]
    if numbers == sorted(numbers, reverse=True) and (0.0 not in numbers or not any(numbers)):
        return list(documents)
    return [Document(d.id, d.title, d.text) for d in documents]


def split_contents(contents: str) -> tuple[str, str]:
    r"""Return title and text of ``contents``: the title in double quotes, a newline, the text.

    Example:
        >>> split_contents('"Ulm"\nA city.'), split_contents("No title.")
        (('Ulm', 'A city.'), ('', 'No title.'))
    """
    title, newline, rest = contents.partition("\n")
    if not newline:
        return "", contents
    quoted = len(title) >= 2 and title[0] == title[-1] == '"'
    return (title[1:-1] if quoted else title), rest


def join_contents(document: Document) -> str:
    """Return a document as ``contents``; :func:`split_contents` gives it back."""
    title = " ".join(document.title.splitlines())
    return f'"{title}"\n{document.text}'


def asked_queries(fields: Mapping[str, Any], name: str) -> list[str]:
    """Return the queries of a request to our server: a list of strings under this name."""
    queries = fields.get(name)
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise WrongRequestError(f"{name} to be a list of strings, got {shown(queries)}")
    return queries


def asked_query(fields: Mapping[str, Any], name: str) -> str:
    """Return the query of a request to our server: a string under this name."""
    query = fields.get(name)
    if not isinstance(query, str):
        raise WrongRequestError(f"{name} to be a string, got {shown(query)}")
    return query


def asked_count(fields: Mapping[str, Any], name: str, default: int) -> int:
    """Return the number of documents that a request asks for, or the dialect's own default."""
    count = fields.get(name)
    if count is None:
        return default
    if type(count) is not int or not 1 <= count <= MOST_DOCUMENTS:
        raise WrongRequestError(
            f"{name} to be an integer from 1 to {MOST_DOCUMENTS}, got {shown(count)}"
        )
    return count


def asked_flag(fields: Mapping[str, Any], name: str) -> bool:
    """Return a flag of a request, by default False."""
    flag = fields.get(name, False)
    if not isinstance(flag, bool):
        raise WrongRequestError(f"{name} to be true or false, got {shown(flag)}")
    return flag


MOST_DOCUMENTS = 10_000
"""Documents for one query that our server answers."""
