"""Every error this package raises, as one tree.

Each leaf also derives from the standard-library type that fits it, so ``except ValueError`` works
too. Messages say what was expected, what was passed, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import gymnasium.error


class SearchEnvError(Exception):
    """Base of every error raised by this package."""


class ConfigurationError(SearchEnvError, ValueError):
    """An argument has an impossible value."""


class ProtocolError(ConfigurationError):
    """A protocol's tags, limits or templates contradict each other."""


class TokenizerError(ConfigurationError):
    """A tokenizer could not be found, read or used."""


class UnsupportedTokenizerError(TokenizerError):
    """A tokenizer is of a kind whose ids have no exact bytes."""


class DataError(SearchEnvError):
    """Base of errors about files of questions and passages."""


class DataNotFoundError(DataError, FileNotFoundError):
    """A file is missing; the message says which file to put where."""


class DataFormatError(DataError, ValueError):
    """A file's content breaks its format."""

    @classmethod
    def at(
        cls,
        path: object,
        place: int | str | None,
        field: str,
        expected: str,
        got: object,
        remedy: str = "Fix or remove the row.",
    ) -> DataFormatError:
        """Return the error for one bad place; ``got`` is cut to 80 characters.

        ``place`` is the number of a physical line, from 1, or says in words what the row is
        (``"record 3"``), and is None for the whole file; ``field`` is a dotted name, or "" for the
        whole row; ``remedy`` is a sentence with the next step.

        Example:
            >>> print(DataFormatError.at("q.jsonl", 3, "answers", "a list", None))
            q.jsonl, line 3, field 'answers': expected a list, got None. Fix or remove the row.
        """
        where = f"{path}"
        if place is not None:
            where += f", {place}" if isinstance(place, str) else f", line {place}"
        where += f", field {field!r}" if field else ""
        return cls(f"{where}: expected {expected}, got {_shown(got)}. {remedy}")


def _shown(value: object) -> str:
    """Return a value as Python writes it, in 80 characters at most, whatever its size."""
    try:
        text = repr(value[:80] if isinstance(value, str | bytes) else value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply to show"
    is_cut = len(text) > 80 or (isinstance(value, str | bytes) and len(value) > 80)
    return text[:77] + "..." if is_cut else text


class StorageError(SearchEnvError, OSError):
    """A file cannot be written: the disk is full, read-only or gone; the old content stays."""


class EpisodeFileError(DataFormatError):
    """A file of recorded episodes is damaged, cut off or of another version."""


class ReplayMismatchError(SearchEnvError, ValueError):
    """An episode that was executed again differs from its record."""


class RewardError(SearchEnvError, ValueError):
    """A reward function raised, or did not return a finite number for each part."""


class RetrievalError(SearchEnvError, RuntimeError):
    """A retriever failed. An error is never turned into a document."""


class RetrievalTimeoutError(RetrievalError, TimeoutError):
    """A retriever did not answer in time."""


class RetrievalConnectionError(RetrievalError, ConnectionError):
    """A server was not reached, went away or is too busy, whatever the query; try again later.

    Attributes:
        retry_after: Seconds that the server asks to wait, None where it does not say.
    """

    retry_after: float | None = None


class RetrievalRefusedError(RetrievalError, ValueError):
    """A server refuses a request, as 400, 401 or 404 say: the same one would be refused again."""


class InvalidRetrievalError(RetrievalError, ValueError):
    """A retriever returned something other than lists of documents.

    Attributes:
        query: The query whose answer is wrong; None where the whole answer is.
        position: Index of the wrong document in its list, else None.
        field: Name of the document's wrong field, else "".
    """

    query: str | None = None
    position: int | None = None
    field: str = ""


class CassetteMissError(RetrievalError, LookupError):
    """A replayed cassette holds no recording of this query."""


class IndexFormatError(RetrievalError, ValueError):
    """A saved index is damaged or was written by another version."""


class InvalidActionError(SearchEnvError, gymnasium.error.InvalidAction):
    """An action is not a token id of the action space."""


class EpisodeOverError(SearchEnvError, gymnasium.error.ResetNeeded):
    """``step`` was called before ``reset`` or after the episode ended."""


class WorkerDiedError(SearchEnvError, RuntimeError):
    """A process of an asynchronous vector environment has died."""


class ConformanceError(SearchEnvError, AssertionError):
    """A check of :mod:`search_env.testing` found a broken contract."""


def nearest(word: str, names: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'? "`` for the closest name, or an empty string.

    Example:
        >>> nearest("protocl", ["protocol", "tokenizer"])
        "Did you mean 'protocol'? "
    """
    matches = difflib.get_close_matches(word, list(names), n=1)
    return f"Did you mean {matches[0]!r}? " if matches else ""
