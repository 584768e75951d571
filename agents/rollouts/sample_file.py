"""The files of rejection sampling: what was kept as recorded episodes, and what is done.

``NAME`` holds the kept episodes, nothing else. ``NAME.progress`` beside it holds the settings in
its first line, then a line for each question of which all rollouts are played, whether any was kept
or not. The line also says how long ``NAME`` is with the question's episodes, which are written
first: what a run that was killed between the two left after that is removed, and the question is
sampled again. So the same command goes on where it was, and loses or doubles nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from search_env.errors import ConfigurationError, DataFormatError, EpisodeFileError, StorageError
from search_env.metrics.answers import cover_exact_match, exact_match
from search_env.paths import append, busy, lock, storage_errors
from search_env.protocols.grammar import format_violations
from search_env.recording.files import EpisodeWriter, is_torn
from search_env.recording.record import Recordable, RecordedGroup, common_fields, decode
from search_env.rewards import Reward
from search_env.rewards.r1_searcher_plus_plus import covers_briefly, has_right_format
from search_env.types import Transcript
from search_env.validation import check_choice, check_count, check_limit, is_real

_MARK, _VERSION = "search_env_sample", 1

RULES: Mapping[str, Callable[[Transcript], bool]] = MappingProxyType(
    {
        "all": lambda episode: True,
        "right": lambda episode: exact_match(episode.answer, episode.question.answers) == 1.0,
        "cover-right": lambda episode: (
            cover_exact_match(episode.answer, episode.question.answers) == 1.0
        ),
        "well-formed": lambda episode: not format_violations(episode),
        "r1-searcher++": lambda episode: covers_briefly(episode) and has_right_format(episode),
    }
)
"""Conditions by name: every episode, exact match, cover exact match, no fault of the format, and
R1-Searcher++'s: cover exact match in few words, tags and form right, nothing garbled."""


@dataclass(frozen=True, slots=True)
class KeepRule:
    """Which rollouts of a question are kept.

    Attributes:
        keep: Names in :data:`RULES`; an episode is kept if all of them hold. Episodes in which
            retrieval failed are kept by ``all`` alone.
        least: The lowest reward that is kept; None for any.
        most: How many episodes of a question are kept; None for all. Those with the fewest searches
            come first, of these those with the fewest tokens of the policy, then the earlier ones.

    Raises:
        ConfigurationError: No name or an unknown one, a ``least`` that is no number, or no ``most``
            of at least 1.
    """

    keep: tuple[str, ...] = ("right",)
    least: float | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for name in self.keep:
            check_choice("keep", name, list(RULES))
        if not self.keep:
            raise ConfigurationError(
                f"Expected a rule to keep by, got none. Pass one of {', '.join(RULES)}."
            )
        if self.least is not None and not is_real(self.least):
            raise ConfigurationError(
                f"Expected least to be a finite number or None, got {self.least!r}. Pass the "
                "lowest reward that is kept."
            )
        check_limit("most", self.most)

    def select(self, rollouts: Sequence[Transcript], reward: Reward) -> list[Transcript]:
        """Return those of a question's finished rollouts that are kept, in the same order."""
        kept = [episode for episode in rollouts if self._keeps(episode, reward)]
        if self.most is None:
            return kept
        effort = [(len(e.searches), e.num_policy_tokens, n) for n, e in enumerate(kept)]
        return [kept[number] for number in sorted(n for _, _, n in sorted(effort)[: self.most])]

    def _keeps(self, episode: Transcript, reward: Reward) -> bool:
        if _failed(episode):
            return set(self.keep) == {"all"} and self.least is None
        if not all(RULES[name](episode) for name in self.keep):
            return False
        return self.least is None or reward(episode).total >= self.least


@dataclass(frozen=True, slots=True)
class SampledQuestion:
    """A question of which all rollouts are played; one line of the progress."""

    index: int  # among the environment's questions
    question_id: str
    kept: int  # number of its episodes in the file
    failed: int  # number of its rollouts in which retrieval failed
    size: int  # bytes of the file of episodes, these included


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """Totals of a file."""

    questions: int
    rollouts: int
    kept: int
    covered: int  # questions of which at least one episode was kept
    failed: int  # rollouts in which retrieval failed


class SampleFile(AbstractContextManager["SampleFile"]):
    """Writes the kept episodes of one question after the other, in a new file or one it began.

    Args:
        path: File of recorded episodes; the progress lies beside it.
        env: The bare environment, single or vector, that plays, or one with equal arguments.
        rule: Which rollouts are kept.
        rollouts: Number of rollouts of each question.
        settings: All else that decides what is sampled, as JSON: the model, its seed.

    Attributes:
        done: Questions whose rollouts are played, by index.

    Raises:
        ConfigurationError: The file was begun with other settings or questions, or is not one of
            this class.
        DataFormatError: The progress is damaged.
        StorageError: The files cannot be written, or another process writes them.
    """

    def __init__(
        self,
        path: str | Path,
        env: Recordable,
        rule: KeepRule,
        *,
        rollouts: int,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.path = Path(path)
        self.progress_path = self.path.with_name(f"{self.path.name}.progress")
        self._env, self._rule = env, rule
        self._rollouts = check_count("rollouts", rollouts, 1)
        self._settings = self._all_settings(settings)
        self.done: dict[int, SampledQuestion] = {}
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._progress: BinaryIO = self.progress_path.open("a+b", buffering=0)
        try:
            if not lock(self._progress):
                raise StorageError(busy(self.path))
            self._read_progress()
            self._remove_unfinished()
            self._writer = EpisodeWriter(self.path, env)
        except BaseException:
            self.close()
            raise

    @property
    def counts(self) -> SampleCounts:
        """Return the totals so far."""
        done = self.done.values()
        return SampleCounts(
            questions=len(done),
            rollouts=len(done) * self._rollouts,
            kept=sum(question.kept for question in done),
            covered=sum(question.kept > 0 for question in done),
            failed=sum(question.failed for question in done),
        )

    def write(self, index: int, rollouts: Sequence[Transcript]) -> None:
        """Write what the rule keeps of a question's rollouts, all of which are given in order.

        Raises:
            RewardError: The reward failed on an episode.
            StorageError: The files cannot be written; what was done before stays.
        """
        group = RecordedGroup(self._group_id(index), self._rollouts)
        kept = self._rule.select(rollouts, self._env.reward)
        for episode in kept:
            self._writer.write(episode, group=group)
        failed = sum(map(_failed, rollouts))
        id_ = rollouts[0].question.id
        question = SampledQuestion(index, id_, len(kept), failed, _size(self.path))
        header = [] if self.done else [{_MARK: _VERSION, **self._settings}]
        rows = [*header, dataclasses.asdict(question)]
        append(self.progress_path, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        self.done[index] = question

    def close(self) -> None:
        """Close the files; a progress without a question is removed."""
        self._progress.close()
        if not _size(self.progress_path):
            self.progress_path.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all_settings(self, further: Mapping[str, Any]) -> dict[str, Any]:
        common = common_fields(self._env)
        settings = {
            "environment": common["spec"]["id"],
            "arguments": common["spec"]["kwargs"],
            "tokenizer": common["tokenizer"]["digest"],
            "rollouts": self._rollouts,
            "keep": sorted(set(self._rule.keep)),
            "least": self._rule.least,
            "most": self._rule.most,
            **further,
        }
        result: dict[str, Any] = json.loads(json.dumps(settings))
        return result

    def _group_id(self, index: int) -> str:
        return f"{self.path.stem}/{index}"

    def _read_progress(self) -> None:
        """Read what is done; cut off an incomplete last line."""
        self._progress.seek(0)
        content = self._progress.read()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        begun = _parse_settings(self.progress_path, lines[0]) if lines else {}
        if len(lines) > 1:
            self._check_settings(begun)
        else:  # settings without a question commit to nothing
            whole = b""
        with storage_errors(self.progress_path):
            self._progress.truncate(len(whole))
        for number, line in enumerate(lines[1:], 2):
            question = _parse(self.progress_path, number, line)
            self._check_question(question)
            self.done[question.index] = question

    def _check_settings(self, begun: Mapping[str, Any]) -> None:
        for name, before, now in _differences(begun, self._settings):
            raise ConfigurationError(
                f"Expected to go on with {self.path} as it was begun, with {name} "
                f"{json.dumps(before)}, got {json.dumps(now)}. Set it back, or choose another file."
            )

    def _check_question(self, question: SampledQuestion) -> None:
        questions = self._env.components.questions
        index = question.index
        got = questions[index].id if index < len(questions) else "none"
        if got != question.question_id:
            raise ConfigurationError(
                f"Expected question {index} to be {question.question_id!r} as when {self.path} was "
                f"begun, got {got!r}. Restore the questions, or choose another file."
            )

    def _remove_unfinished(self) -> None:
        """Remove what was written of a question before the run was killed."""
        end = max((question.size for question in self.done.values()), default=0)
        size = _size(self.path)
        if size < end:
            raise ConfigurationError(
                f"Expected {self.path} to hold the {end} bytes of episodes that "
                f"{self.progress_path.name} tells of, got {size}. Restore it, or remove both to "
                "begin anew."
            )
        if size == end:
            return
        if not self._is_unfinished(end):
            raise ConfigurationError(
                f"Expected a new file or one that was begun with {self.progress_path.name} beside "
                f"it, got {self.path} with other content after byte {end}. Choose another file."
            )
        with storage_errors(self.path):
            os.truncate(self.path, end)
            if not end:
                self.path.unlink()

    def _is_unfinished(self, end: int) -> bool:
        """Return whether all that follows is of one question that is not done."""
        ids = set()
        with self.path.open("rb") as file:
            file.seek(end)
            for line in file:
                if is_torn(line):
                    break
                try:
                    group = decode(f"{self.path}", line).group
                except EpisodeFileError:
                    return False
                ids.add("" if group is None else group.id)
        left = (i for i in range(len(self._env.components.questions)) if i not in self.done)
        return len(ids) <= 1 and ids <= set(map(self._group_id, left))


def _failed(episode: Transcript) -> bool:
    """Return whether retrieval failed in a finished episode."""
    return episode.stop_reason is not None and not episode.stop_reason.valid


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _differences(
    begun: Mapping[str, Any], settings: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted name and both values of each setting that differs."""
    for name in {**begun, **settings}:
        before, now = begun.get(name), settings.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{prefix}{name}.")
        elif before != now:
            yield f"{prefix}{name}", before, now


def _parse_settings(path: Path, line: bytes) -> dict[str, Any]:
    try:
        begun = json.loads(line)
    except (ValueError, RecursionError):
        begun = None
    if not isinstance(begun, dict) or begun.pop(_MARK, None) != _VERSION:
        expected = f"the settings of a sample of version {_VERSION}"
        remedy = "Choose another file for the episodes, or remove both."
        raise DataFormatError.at(path, 1, "", expected, line, remedy)
    return begun


def _parse(path: Path, number: int, line: bytes) -> SampledQuestion:
    try:
        question = SampledQuestion(**json.loads(line))
        counts = (question.index, question.kept, question.failed, question.size)
        is_right = all(type(n) is int and n >= 0 for n in counts)
    except (ValueError, TypeError, RecursionError):
        is_right = False
    if not is_right:
        expected = "an object of index, question_id, kept, failed and size"
        remedy = "Restore the file, or remove it and the episodes."
        raise DataFormatError.at(path, number, "", expected, line, remedy)
    return question
