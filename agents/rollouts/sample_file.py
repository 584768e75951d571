"""The files of rejection sampling: what was kept as recorded episodes, and what is done.

``NAME`` holds the kept episodes, nothing else; ``NAME.progress`` beside it
(:mod:`search_env.agents.rollouts.progress_file`) has a line for each question of which all rollouts
are played, whether any was kept or not.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from search_env.agents.rollouts.progress_file import ProgressFile, size_of
from search_env.errors import ConfigurationError, DataFormatError, EpisodeFileError
from search_env.metrics.answers import cover_exact_match, exact_match
from search_env.protocols.grammar import format_violations
from search_env.recording.files import EpisodeWriter, is_torn
from search_env.recording.record import Recordable, RecordedGroup, common_fields, decode
from search_env.rewards import Reward
from search_env.rewards.r1_searcher_plus_plus import covers_briefly, has_right_format
from search_env.types import Transcript
from search_env.validation import check_choice, check_count, check_limit, is_real

_KIND = ("search_env_sample", 1)

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
        self._env, self._rule = env, rule
        self._rollouts = check_count("rollouts", rollouts, 1)
        self.done: dict[int, SampledQuestion] = {}
        self._progress = ProgressFile(self.path, _KIND, self._all_settings(settings))
        try:
            for question in self._progress.items(_parse):
                self._check_question(question)
                self.done[question.index] = question
            end = max((question.size for question in self.done.values()), default=0)
            self._progress.remove_unfinished(end, self._is_unfinished)
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
        question = SampledQuestion(index, id_, len(kept), failed, size_of(self.path))
        self._progress.append(dataclasses.asdict(question), is_first=not self.done)
        self.done[index] = question

    def close(self) -> None:
        """Close the files; a progress without a question is removed."""
        self._progress.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all_settings(self, further: Mapping[str, Any]) -> dict[str, Any]:
        common = common_fields(self._env)
        return {
            "environment": common["spec"]["id"],
            "arguments": common["spec"]["kwargs"],
            "tokenizer": common["tokenizer"]["digest"],
            "rollouts": self._rollouts,
            "keep": sorted(set(self._rule.keep)),
            "least": self._rule.least,
            "most": self._rule.most,
            **further,
        }

    def _group_id(self, index: int) -> str:
        return f"{self.path.stem}/{index}"

    def _check_question(self, question: SampledQuestion) -> None:
        questions = self._env.components.questions
        index = question.index
        got = questions[index].id if index < len(questions) else "none"
        if got != question.question_id:
            raise ConfigurationError(
                f"Expected question {index} to be {question.question_id!r} as when {self.path} was "
                f"begun, got {got!r}. Restore the questions, or choose another file."
            )

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
