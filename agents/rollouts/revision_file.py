"""The files of Retro-Search: revised episodes, what is done, and as many unrevised ones.

``NAME`` holds the episodes in the order of those that are revised; each line says what was made of
it (:class:`~search_env.recording.record.RecordedRevision`). ``NAME.progress`` beside it
(:mod:`search_env.agents.rollouts.progress_file`) has a line for each branch, as soon as its
roll-outs are played, and one for each episode that is written: a run that was killed takes the
branches from there, and samples none of them again. At the end the lines of branches are dropped,
and ``NAME.control`` gets the same episodes as they were before: what is imitated for comparison.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search_env.agents.rollouts.progress_file import ProgressFile, size_of
from search_env.errors import ConfigurationError, DataFormatError, EpisodeFileError
from search_env.paths import atomic_path
from search_env.recording.files import EpisodeWriter, is_torn
from search_env.recording.record import (
    Recordable,
    RecordedRevision,
    common_fields,
    decode,
    encode,
)
from search_env.recording.revise.guards import is_grounded
from search_env.recording.revise.retro_search import Branch, Outcome, RetroSearch, Revision, figures
from search_env.types import Transcript
from search_env.validation import check_choice

KEEPS = ("all", "revised")
"""Which episodes are written: all, revised or as they were, or only those that were revised."""

_KIND = ("search_env_revision", 1)


@dataclass(frozen=True, slots=True)
class RevisedEpisode:
    """An episode that is done; one line of the progress."""

    trajectory: int  # its number among those that are revised
    digest: str  # of its tokens as it came
    written: bool
    size: int  # bytes of the file of episodes, this one included


class RevisionFile(AbstractContextManager["RevisionFile"]):
    """Writes revised episodes one after the other, in a new file or one it began.

    Args:
        path: File of recorded episodes.
        env: The environment that plays, or one with equal arguments; its reward scores.
        search: What revises.
        originals: The episodes that are revised, in order; more may follow in later runs.
        reviser: Name of what samples, for the records.
        keep: One of :data:`KEEPS`.
        settings: All else that decides what is sampled, as JSON: the model, its seed.

    Attributes:
        done: Number of episodes that are done, the first ones.
        control: The file of the unrevised ones.

    Raises:
        ConfigurationError: The file was begun with other settings or episodes, or is not one of
            this class.
        DataFormatError: The progress is damaged.
        StorageError: The files cannot be written, or another process writes them.
    """

    def __init__(
        self,
        path: str | Path,
        env: Recordable,
        search: RetroSearch,
        originals: Sequence[Transcript],
        *,
        reviser: str,
        keep: str = "all",
        settings: Mapping[str, Any],
    ) -> None:
        check_choice("keep", keep, KEEPS)
        self.path = Path(path)
        self.control = self.path.with_name(f"{self.path.stem}.control{self.path.suffix}")
        self._env, self._search, self._originals = env, search, originals
        self._reviser, self._keep, self._common = reviser, keep, common_fields(env)
        self._branches: dict[tuple[int, int], Outcome] = {}
        self._done: list[RevisedEpisode] = []
        everything = {
            "environment": self._common["spec"]["id"],
            "arguments": self._common["spec"]["kwargs"],
            "tokenizer": self._common["tokenizer"]["digest"],
            "revision": search.settings.to_json(),
            "reviser": reviser,
            "keep": keep,
            **settings,
        }
        self._progress = ProgressFile(self.path, _KIND, everything)
        try:
            self._has_rows = False
            for row in self._progress.items(_parse):
                self._take(row)
            if not self._has_rows and self.control.exists():
                raise ConfigurationError(
                    f"Expected no file yet where the unrevised episodes go, got {self.control}. "
                    "Choose another output, or remove it."
                )
            end = max((episode.size for episode in self._done), default=0)
            self._progress.remove_unfinished(end, self._is_unfinished)
            self._writer = EpisodeWriter(self.path, env)
        except BaseException:
            self.close()
            raise

    @property
    def done(self) -> int:
        """Return the number of episodes that are done."""
        return len(self._done)

    def outcome(self, trajectory: int, branch: Branch) -> Outcome | None:
        """Return what came of a branch in an earlier run, None where it was not played."""
        return self._branches.get((trajectory, branch.number))

    def add_outcome(self, trajectory: int, branch: Branch, outcome: Outcome) -> None:
        """Write down what came of a branch.

        Raises:
            StorageError: It cannot be written.
        """
        row: dict[str, Any] = {"trajectory": trajectory, "branch": branch.number}
        row |= {"why": outcome.why, "right": outcome.right, "gain": outcome.gain}
        if outcome.trace is not None:
            line = encode(self._common, outcome.trace, seed=None, reward=self._env.reward)
            row["episode"] = line.decode()
        self._append(row)

    def write(self, revision: Revision) -> None:
        """Write the next episode.

        Raises:
            RewardError: The reward failed on it.
            StorageError: The files cannot be written; what was done before stays.
        """
        number = self.done
        written = bool(revision.taken) or self._keep == "all"
        if written:
            self._writer.write(revision.after, revision=self._record(number, revision))
        digest = digest_tokens(self._originals[number])
        episode = RevisedEpisode(number, digest, written, size_of(self.path))
        self._append(asdict(episode))
        self._done.append(episode)

    def finish(self) -> None:
        """Write the file of unrevised episodes, and drop what is no longer needed.

        Raises:
            StorageError: The files cannot be written; what was done before stays.
        """
        with atomic_path(self.control) as temporary, temporary.open("wb") as file:
            for episode in self._done:
                if episode.written:
                    original = self._originals[episode.trajectory]
                    line = encode(self._common, original, seed=None, reward=self._env.reward)
                    file.write(line)
        if self._has_rows:
            self._progress.rewrite([asdict(episode) for episode in self._done])

    def close(self) -> None:
        """Close the files; a progress without a line is removed."""
        self._progress.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, row: Mapping[str, Any]) -> None:
        self._progress.append(row, is_first=not self._has_rows)
        self._has_rows = True

    def _record(self, number: int, revision: Revision) -> RecordedRevision:
        counts = figures(self._search, revision)
        tried = {f"{operator} {why}": n for (operator, why), n in sorted(revision.tried.items())}
        return RecordedRevision(
            trajectory=number,
            n_search_before=counts.searches[0],
            n_search_after=counts.searches[1],
            steps_before=counts.steps[0],
            steps_after=counts.steps[1],
            tokens_before=counts.tokens[0],
            tokens_after=counts.tokens[1],
            ops_accepted=revision.taken,
            tried=tried,
            grounded=is_grounded(revision.after, revision.before, "either"),
            reviser=self._reviser,
        )

    def _take(self, row: RevisedEpisode | tuple[int, int, Outcome]) -> None:
        """Take a line of the progress."""
        self._has_rows = True
        if not isinstance(row, RevisedEpisode):
            trajectory, branch, outcome = row
            self._branches[trajectory, branch] = outcome
            return
        number, originals = row.trajectory, self._originals
        got = digest_tokens(originals[number]) if number < len(originals) else "none"
        if number != len(self._done) or got != row.digest:
            raise ConfigurationError(
                f"Expected episode {number} to be the one with digest {row.digest} as when "
                f"{self.path} was begun, got {got}. Restore the episodes, or choose another file."
            )
        self._done.append(row)

    def _is_unfinished(self, end: int) -> bool:
        """Return whether all that follows is of the next episode, whole or not."""
        with self.path.open("rb") as file:
            file.seek(end)
            line, rest = file.readline(), file.read(1)
        if is_torn(line):
            return True
        try:
            revision = decode(f"{self.path}", line).revision
        except EpisodeFileError:
            return False
        return not rest and revision is not None and revision.trajectory == self.done


def digest_tokens(episode: Transcript) -> str:
    """Return the first 12 hexadecimal digits of a digest of an episode's question and tokens."""
    total = hashlib.sha256(episode.question.id.encode("utf-8", "surrogatepass"))
    total.update(episode.tokens.tobytes())
    return total.hexdigest()[:12]


def _parse(path: Path, number: int, line: bytes) -> RevisedEpisode | tuple[int, int, Outcome]:
    try:
        row = json.loads(line)
        if "branch" in row:
            return _parse_branch(path, number, row)
        episode = RevisedEpisode(**row)
        is_right = all(type(n) is int and n >= 0 for n in (episode.trajectory, episode.size))
        if is_right and isinstance(episode.digest, str) and isinstance(episode.written, bool):
            return episode
    except (LookupError, ValueError, TypeError, RecursionError):
        pass
    expected = "an episode that is done or the outcome of a branch"
    remedy = "Restore the file, or remove it and the episodes."
    raise DataFormatError.at(path, number, "", expected, line, remedy)


def _parse_branch(path: Path, number: int, row: Mapping[str, Any]) -> tuple[int, int, Outcome]:
    trace = None
    if "episode" in row:
        trace = decode(f"{path}, line {number}", row["episode"].encode()).transcript
    outcome = Outcome(str(row["why"]), int(row["right"]), float(row["gain"]), trace)
    return int(row["trajectory"]), int(row["branch"]), outcome
