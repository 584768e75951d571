"""Files of finished episodes, with all that is needed to score or execute each again.

A file is JSON Lines, one episode per line (:mod:`search_env.recording.record`). Lines are
independent: files may be concatenated, split between lines and sorted. Each line is appended as a
whole; a writer that is killed within one leaves the others intact.
"""

from __future__ import annotations

import json
import mmap
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from search_env.datasets.streaming import open_binary
from search_env.errors import DataError, DataFormatError, DataNotFoundError, EpisodeFileError
from search_env.paths import append
from search_env.recording.record import (
    LINE_START,
    Recordable,
    RecordedEpisode,
    RecordedGroup,
    RecordedRevision,
    common_fields,
    decode,
    encode,
    reward_name,
)
from search_env.rewards import Reward
from search_env.types import Transcript
from search_env.validation import check_choice

__all__ = ["EpisodeWriter", "RecordedEpisode", "RecordedGroup", "read_episodes"]

_LONGEST_LINE = 1 << 27
"""Bytes of a line that is still read; a compressed file can hold much longer ones."""


def read_episodes(path: str | Path, *, torn_tail: str = "raise") -> Iterator[RecordedEpisode]:
    """Read recorded episodes one at a time, each checked against its checksum.

    Args:
        path: The file; plain, gzip or xz.
        torn_tail: Treatment of a last line that its writer did not complete: ``"raise"``, or
            ``"skip"`` to read the complete lines before it. Damage elsewhere is always an error.

    Raises:
        DataNotFoundError: There is no such file.
        EpisodeFileError: A line is damaged, cut off or of another version, or the file is empty.
    """
    check_choice("torn_tail", torn_tail, ("raise", "skip"))
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(
            f"Expected a file of recorded episodes at {path}, got no such file. Write one with "
            "the wrapper RecordEpisodes(env, path)."
        )
    return _episodes(path, skip_torn=torn_tail == "skip")


def _episodes(path: Path, *, skip_torn: bool) -> Iterator[RecordedEpisode]:
    number = 0
    with _opened(path) as file:
        while line := file.readline(_LONGEST_LINE + 1):
            number += 1
            place = f"{path}, line {number}"
            if len(line) > _LONGEST_LINE:
                raise EpisodeFileError(
                    f"{place}: expected an episode of at most {_LONGEST_LINE >> 20} MiB, got a "
                    "longer line. It is no file of recorded episodes."
                )
            if is_torn(line):
                if skip_torn:
                    return
                raise EpisodeFileError(
                    f"{place}: expected a whole episode, got one that was cut off when its writer "
                    "was stopped. Read the others with torn_tail='skip' (--torn-tail skip)."
                )
            yield decode(place, line)
    if not number:
        raise EpisodeFileError(
            f"{path}: expected recorded episodes, got an empty file. Record one first."
        )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open_binary(path) as file:
            yield file
    except EpisodeFileError:
        raise
    except DataFormatError as error:  # a damaged archive
        raise EpisodeFileError(str(error)) from error


def count_lines(path: Path) -> int:
    """Return the number of lines of a file, plain or compressed; 0 where it cannot be read."""
    try:
        with open_binary(path) as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except DataError:
        return 0


class EpisodeWriter:
    """Appends finished episodes of one environment to a file.

    The file is opened for each line, so a writer may be pickled and copied. A line is a
    single write: several processes may append to one file once all of them have created their
    writers.

    Args:
        path: A new file, or an episode file to append to. Its folder is created if missing. A last
            line that is cut off is removed with a warning.
        env: The bare ``SearchQAEnv`` or ``SearchQAVectorEnv`` whose episodes are written.

    Raises:
        ConfigurationError: An argument of the environment is not JSON, or its reward is not
            registered.
        EpisodeFileError: The path is a file of another kind.
    """

    def __init__(self, path: str | Path, env: Recordable) -> None:
        self.path = Path(path)
        self._env = env
        self._common = common_fields(env)
        reward_name(env.reward)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            _repair(self.path)

    def write(
        self,
        transcript: Transcript,
        *,
        seed: int | None = None,
        reward: Reward | None = None,
        signals: Mapping[str, NDArray[np.float32]] | None = None,
        group: RecordedGroup | None = None,
        revision: RecordedRevision | None = None,
        unless_last: bool = False,
    ) -> None:
        """Append one finished episode.

        Args:
            transcript: Transcript of the episode.
            seed: Seed passed to the episode's ``reset``.
            reward: Reward in force at the end; None for the environment's current one.
            signals: Values per policy token by name, such as ``log_prob``; rounded to four
                significant digits.
            group: Group that the episode was played in; None for an episode played alone.
            revision: What Retro-Search made of it; None for an episode as it was played.
            unless_last: Append nothing if the file's last line is the same: a run that was stopped
                had recorded the episode, and plays it again.

        Raises:
            ConfigurationError: The episode has not ended, the reward is not registered, a signal
                does not fit the policy's tokens, or the group has no id or no size.
            RewardError: The reward function failed.
            StorageError: The file cannot be written; it is as before.
        """
        reward = self._env.reward if reward is None else reward
        line = encode(
            self._common,
            transcript,
            seed=seed,
            reward=reward,
            signals=signals,
            group=group,
            revision=revision,
        )
        if not (unless_last and _ends_with(self.path, line)):
            append(self.path, line)


def _ends_with(path: Path, line: bytes) -> bool:
    """Return whether a line is the last one of a file."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END) - len(line) - 1
        file.seek(max(0, start))
        return file.read() in (line, b"\n" + line)


def _repair(path: Path) -> None:
    """Check that a file holds episodes, and complete or remove an unfinished last line."""
    with path.open("r+b") as file:
        first = file.readline()
        if not first:
            return
        _check_is_episode(path, "line 1", first)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            end = view.rfind(b"\n") + 1
            tail = view[end:]
        if is_torn(tail):
            warnings.warn(
                f"Expected {path} to end with a whole episode, got {len(tail)} bytes of one whose "
                "writer was stopped. They were removed; no action is needed.",
                stacklevel=3,
            )
            file.truncate(end)
        elif tail:
            _check_is_episode(path, "last line", tail)
            file.seek(0, os.SEEK_END)
            file.write(b"\n")


def _check_is_episode(path: Path, place: str, line: bytes) -> None:
    if is_torn(line):
        return
    try:
        decode(f"{path}, {place}", line)
    except EpisodeFileError as error:
        raise EpisodeFileError(
            f"Expected a new file or one of recorded episodes to append to. {error} To record, "
            "choose another path."
        ) from error


def is_torn(line: bytes) -> bool:
    """Return whether a line is an incomplete beginning of an episode's line."""
    if not line or line.endswith(b"\n") or not line.startswith(LINE_START[: len(line)]):
        return False
    try:
        json.loads(line)
        return False
    except (ValueError, RecursionError):
        return True
