"""Rejection sampling: rollouts of each question by any engine, the good ones kept for imitation.

As in cold starts, and in R1-Searcher++ (arXiv 2505.17005), whose first stage imitates rollouts that
are right and in the right format. The files are those of
:mod:`search_env.agents.rollouts.sample_file`: ``search-env sft`` reads them, and a run that was
stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from search_env.agents.rollouts.collect import collect
from search_env.agents.rollouts.sample_file import KeepRule, SampleCounts, SampleFile
from search_env.agents.types import Trajectory
from search_env.types import Transcript

if TYPE_CHECKING:
    from search_env.agents.inference.rollout_engine import RolloutEngine
    from search_env.envs.search_qa_vector import SearchQAVectorEnv

_RIGHT = KeepRule()
_ROUNDS = 16  # episodes a row in one collection, which holds them all in memory


def sample_episodes(
    envs: SearchQAVectorEnv,
    engine: RolloutEngine,
    path: str | Path,
    rule: KeepRule = _RIGHT,
    *,
    rollouts: int = 8,
    indices: Sequence[int] | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] = MappingProxyType({}),
    progress: Callable[[int, int], None] | None = None,
) -> SampleCounts:
    """Play rollouts of each question and write those that the rule keeps as recorded episodes.

    Each question is written as soon as its rollouts and those of the questions before it are
    played. Questions that are done are skipped. What is sampled depends on the seed, the question
    and the rollout's number alone (in bfloat16, but for rounding, which depends on the other rows),
    so neither the number of rows nor interruptions change the files. The group of an episode has
    the size ``rollouts``, however many are kept.

    Args:
        envs: As for :func:`~search_env.agents.rollouts.collect.collect`; its arguments and its
            reward have names, since they are recorded.
        engine: Likewise.
        path: The file of episodes; one that a call with the same settings began is continued.
        rule: Which rollouts are kept.
        rollouts: Number of rollouts of each question.
        indices: Of ``envs.questions``; None for all. They may differ from those of earlier calls.
        seed: Non-negative.
        settings: What names the engine's model, as JSON; only a call with equal ones goes on.
        progress: Called with the number of these questions that are done, and of all of them.

    Returns:
        Totals of the whole file.

    Raises:
        ConfigurationError: A bad argument, or the file was begun with other settings.
        DataFormatError: The file's progress is damaged.
        StorageError: The files cannot be written; what was written before is kept.
    """
    indices = range(len(envs.questions)) if indices is None else list(dict.fromkeys(indices))
    indices = [int(index) for index in indices]  # NumPy's are no JSON
    sampling = dataclasses.asdict(engine.sampling)
    own = {"sampling": sampling, "seed": seed, **settings}
    with SampleFile(path, envs, rule, rollouts=rollouts, settings=own) as file:
        left = [index for index in indices if index not in file.done]
        before = len(file.done) + len(left) - len(indices)  # of other indices

        def written() -> None:
            if progress is not None:
                progress(len(file.done) - before, len(indices))

        written()
        batch = max(1, _ROUNDS * envs.num_envs // rollouts)
        for start in range(0, len(left), batch):
            in_order = _InOrder(file, left[start : start + batch], rollouts, written)
            collect(
                envs,
                engine,
                in_order.questions,
                group_size=rollouts,
                seed=seed,
                on_episode=in_order.played,
            )
        return file.counts


class _InOrder:
    """Writes questions in their order, each when its rollouts are complete."""

    def __init__(
        self,
        file: SampleFile,
        questions: Sequence[int],
        rollouts: int,
        written: Callable[[], None],
    ) -> None:
        self.questions = questions
        self._file, self._rollouts, self._written = file, rollouts, written
        self._groups: dict[int, dict[int, Transcript]] = {}  # by group, then by member
        self._next = 0

    def played(self, question: int, transcript: Transcript, trajectory: Trajectory) -> None:
        """Take a finished episode; an ``OnEpisode`` of ``collect``."""
        del question
        self._groups.setdefault(trajectory.group, {})[trajectory.member] = transcript
        while len(self._groups.get(self._next, ())) == self._rollouts:
            members = self._groups.pop(self._next)
            rollouts = [members[number] for number in range(self._rollouts)]
            self._file.write(self.questions[self._next], rollouts)
            self._next += 1
            self._written()
