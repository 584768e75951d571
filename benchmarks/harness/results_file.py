"""Files of results: who played what, then one line for each finished episode.

The first line says everything that a score depends on; every further line is one finished episode,
written whole as soon as it is finished, so a run that was stopped goes on where it was and scores
nothing twice. A line that was cut off with its writer is dropped, and its episode played again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from search_env.benchmarks.harness.errors import ResultsError, ResultsMismatchError
from search_env.benchmarks.harness.rules import DIGITS, FORMER_RULES_DIGESTS
from search_env.datasets.streaming import open_binary
from search_env.errors import SearchEnvError
from search_env.evaluation.evaluate import EpisodeMeasures
from search_env.paths import append_to, atomic_path, busy, lock, storage_errors

VERSION = 1
_MARK = "search_env_results"

LONGEST_LINE = 1 << 26
"""Bytes of a line that is still read; a compressed file can hold much longer ones."""

IDENTITY = ("protocol", "digests", "agent", "decoding", "ablation", "seed")
"""Fields of a header that two runs must share for one to go on with the other's file."""


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """One finished episode: sample ``sample``, from 0, of the set's question ``index``.

    ``seconds`` run from its first token to its end; ``cost`` is in an endpoint's tokens by kind.
    """

    index: int
    sample: int
    record: EpisodeMeasures
    seconds: float = 0.0
    cost: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Results:
    """A file that was read: its first line, and the others by question and sample."""

    path: Path
    header: dict[str, Any]
    episodes: tuple[EpisodeResult, ...]

    @property
    def records(self) -> list[EpisodeMeasures]:
        """Return the episodes' records in order."""
        return [result.record for result in self.episodes]


class ResultsWriter(AbstractContextManager["ResultsWriter"]):
    """Appends episodes to a file, new or begun by a run with the same :data:`IDENTITY`.

    A block that fails before its first episode leaves no file.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("a+b", buffering=0)
        try:
            if not lock(self._file):
                raise ResultsError(busy(path))
            self.done = {(result.index, result.sample) for result in self._begun(header)}
        except BaseException:
            self.close()
            raise

    def write(self, result: EpisodeResult) -> None:
        """Append an episode; one that is there already is refused."""
        key = (result.index, result.sample)
        if key in self.done:
            raise ResultsError(
                f"Expected an episode that {self.path} does not hold, got question {key[0]}, "
                f"sample {key[1]} again. Write only what is not in `done`."
            )
        self._append(_row(result))
        self.done.add(key)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not self.done:
            self.path.unlink(missing_ok=True)
        self.close()

    def _begun(self, header: Mapping[str, Any]) -> tuple[EpisodeResult, ...]:
        """Return what the file holds; write the header where it holds nothing."""
        self._file.seek(0)
        content = self._file.read()
        whole = _whole_lines(self.path, content, "removed; that episode is played again", 5)
        with storage_errors(self.path):
            self._file.truncate(len(whole))
        if not whole:
            self._append({_MARK: VERSION, **header})
            return ()
        results = _parse(self.path, whole)
        _check_same(self.path, results.header, header)
        return results.episodes

    def _append(self, row: Mapping[str, Any]) -> None:
        with storage_errors(self.path):
            append_to(self._file, _line(row))


def read_results(path: Path) -> Results:
    """Read a file of results; a last line that is cut off is left out with a warning.

    Raises:
        DataNotFoundError: There is no readable file.
        ResultsError: A line is damaged or of another kind.
    """
    lines: list[bytes] = []
    with open_binary(path) as file:
        while line := file.readline(LONGEST_LINE + 1):
            if len(line) > LONGEST_LINE:
                raise ResultsError(
                    f"{path}, line {len(lines) + 1}: expected a line of at most "
                    f"{LONGEST_LINE >> 20} MiB, got a longer one. It is no file of results."
                )
            if not lines:
                _check_mark(path, line)
            lines.append(line)
    content = b"".join(lines)
    return _parse(path, _whole_lines(path, content, "left out; run the same command again", 3))


def agent_of(path: Path) -> dict[str, Any]:
    """Return a file's description of its agent; empty where there is none to read."""
    try:
        with open_binary(path) as file:
            agent = json.loads(file.readline(LONGEST_LINE))["agent"]
    except (SearchEnvError, ValueError, LookupError, TypeError, RecursionError):
        return {}  # whoever opens the file to go on with it says what is wrong
    return agent if isinstance(agent, dict) else {}


def _check_mark(path: Path, line: bytes) -> None:
    """Refuse another kind of file by its first line, before all of it is read."""
    if not line.lstrip().startswith(b"{"):
        raise ResultsError(
            f"Expected {path} to be a file of results of version {VERSION}, got another kind of "
            "file. Write one with search-env bench."
        )


def _whole_lines(path: Path, content: bytes, consequence: str, stacklevel: int) -> bytes:
    """Return all but a last line that was cut off with its writer; warn of that."""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        warnings.warn(
            f"Expected {path} to end with a whole line, got {len(content) - whole} bytes of one "
            f"whose writer was stopped. They were {consequence}.",
            stacklevel=stacklevel,
        )
    return content[:whole]


def with_verdicts(
    results: Results, records: Sequence[EpisodeMeasures], judge: Mapping[str, Any]
) -> Results:
    """Put a judge's verdicts into a file of results, whole or not at all, and return them."""
    episodes = [
        dataclasses.replace(result, record=record)
        for result, record in zip(results.episodes, records, strict=True)
    ]
    rows = [{**results.header, "judge": dict(judge)}, *map(_row, episodes)]
    with atomic_path(results.path) as temporary:
        temporary.write_bytes(b"".join(map(_line, rows)))
    return read_results(results.path)


def _parse(path: Path, content: bytes) -> Results:
    lines = content.splitlines()
    header = _decode(path, 1, lines[0]) if lines else {}
    if header.get(_MARK) != VERSION:
        raise ResultsError(
            f"Expected {path} to be a file of results of version {VERSION}, got "
            f"{header.get(_MARK, 'another kind of file')}. Write one with search-env bench."
        )
    check_header(f"{path}, line 1", header)
    header = with_current_rules(path, header)
    episodes = [_played(path, n, _decode(path, n, line)) for n, line in enumerate(lines[1:], 2)]
    by_key = {(result.index, result.sample): result for result in episodes}
    if len(by_key) < len(episodes):
        raise ResultsError(
            f"Expected every question and sample once in {path}, got {len(episodes)} lines of "
            f"{len(by_key)} episodes. It was joined from several files; delete the copies."
        )
    return Results(path, header, tuple(by_key[key] for key in sorted(by_key)))


_HEADER: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "protocol": ("a protocol id", lambda value: isinstance(value, str)),
    "digests": ("an object of texts", lambda value: _is_object(value, str)),
    "agent": ("an object with a name", lambda value: isinstance(value.get("name"), str)),
}
_OPTIONAL: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "ablation": ("a name", lambda value: isinstance(value, str)),
    "command": ("a text", lambda value: isinstance(value, str)),
    "date": ("a text", lambda value: isinstance(value, str)),
    "formerly": ("an object of texts", lambda value: _is_object(value, str)),
    "judge": ("an object with a model", lambda value: isinstance(value.get("model"), str)),
}


def check_header(place: str, header: Mapping[str, Any]) -> None:
    """Check the fields of a header that readers use; ``place`` is for the message."""
    for name, (expected, is_right) in {**_HEADER, **_OPTIONAL}.items():
        value = header.get(name)
        if value is None and name in _OPTIONAL:
            continue
        try:
            right = is_right(value)
        except AttributeError:
            right = False
        if not right:
            raise ResultsError(
                f"{place}, field {name!r}: expected {expected}, got {value!r:.80}. Restore the "
                "line, or run anew into another file."
            )


def _is_object(value: object, kind: type) -> bool:
    return isinstance(value, dict) and all(isinstance(each, kind) for each in value.values())


def with_current_rules(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """Return a header with the digest that its rules have today, and the former one beside it."""
    former = str((header.get("digests") or {}).get("rules"))
    if former not in FORMER_RULES_DIGESTS:
        return header
    current = FORMER_RULES_DIGESTS[former]
    warnings.warn(
        f"{path} names its rules by a former digest, {former[:DIGITS]}; the same rules now have "
        f"the digest {current[:DIGITS]}. Its scores are read under that one.",
        stacklevel=4,
    )
    digests = {**header["digests"], "rules": current}
    return {**header, "digests": digests, "formerly": {"rules": former}}


def _decode(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ResultsError(
            f"{path}, line {number}: expected JSON, got {line[:60]!r} ({error}). Delete the line; "
            "its episode is played again."
        ) from error
    if not isinstance(row, dict):
        raise ResultsError(f"{path}, line {number}: expected an object, got {line[:60]!r}.")
    return row


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _row(result: EpisodeResult) -> dict[str, Any]:
    row = {"index": result.index, "sample": result.sample, "seconds": round(result.seconds, 3)}
    cost = {"cost": dict(result.cost)} if result.cost else {}
    return {**row, **cost, **dataclasses.asdict(result.record)}


def _played(path: Path, number: int, row: dict[str, Any]) -> EpisodeResult:
    names = [field.name for field in fields(EpisodeMeasures)]
    missing = [name for name in ("index", "sample", "seconds", *names) if name not in row]
    if missing:
        raise ResultsError(
            f"{path}, line {number}: expected a finished episode, got a line without "
            f"{', '.join(missing)}. Delete the line, or run anew into another file."
        )
    try:
        record = EpisodeMeasures.from_json(row)
        counts = {"index": row["index"], "sample": row["sample"], **row.get("cost", {})}
        for name, count in counts.items():
            if type(count) is not int or count < 0:
                raise TypeError(f"{count!r:.80} as {name}, which is a count")
        if type(row["seconds"]) not in (int, float) or not math.isfinite(row["seconds"]):
            raise TypeError(f"{row['seconds']!r:.80} as seconds, which is a number")
    except (TypeError, ValueError) as error:
        raise ResultsError(
            f"{path}, line {number}: expected the measures of an episode, got {error}. Delete the "
            "line, or run anew into another file."
        ) from error
    return EpisodeResult(row["index"], row["sample"], record, row["seconds"], row.get("cost", {}))


def _check_same(path: Path, header: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name in IDENTITY:
        if header.get(name) != expected.get(name):
            values = [json.dumps(each.get(name), ensure_ascii=False) for each in (expected, header)]
            raise ResultsMismatchError(
                f"Expected {path} to hold results of {name} {values[0]}, got {values[1]}. Choose "
                "another file, or delete this one."
            )


def by_question(episodes: Iterable[EpisodeResult]) -> dict[int, list[EpisodeResult]]:
    """Return the episodes of each question, samples in order."""
    samples: dict[int, list[EpisodeResult]] = {}
    for result in episodes:
        samples.setdefault(result.index, []).append(result)
    return samples
