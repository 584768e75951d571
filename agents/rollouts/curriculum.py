"""Questions of each training step: all alike, by number of hops, or by recorded difficulty.

A curriculum is a list of stages, each a pool of questions from some step on. Within a stage every
question comes once before any comes twice. Draws depend only on the seed and on how many were
drawn before; that count is the whole state.

Difficulty is R1-Searcher's: how many rollouts a model needs for a right answer (arXiv 2503.05592
v2, section 2.1). :func:`label_difficulty` measures it with any model, question by question, into a
file of JSON Lines, and continues a file that is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_env.agents.rollouts.collect import collect
from search_env.agents.types import by_group
from search_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from search_env.paths import append
from search_env.types import Question
from search_env.validation import check_choice, check_count

if TYPE_CHECKING:
    from search_env.agents.inference.rollout_engine import RolloutEngine
    from search_env.envs.search_qa_vector import SearchQAVectorEnv

LEVELS = ("easy", "medium", "difficult")
"""Levels of difficulty, by the rollouts that a question needs: under 10, 10 to 20, more than 20."""

USED_LEVELS = ("medium", "difficult")
"""R1-Searcher learns nothing from easy questions."""

_FIRST_MEDIUM, _LAST_MEDIUM = 10, 20
RIGHT = ("exact_match", "cover_exact_match")


@dataclass(frozen=True, slots=True)
class Difficulty:
    """Difficulty of a question for a model; one line of the file."""

    question_id: str
    rollouts_needed: int | None  # first rollout with a right answer, from 1; None: no right one
    level: str  # one of LEVELS


@dataclass(frozen=True, slots=True)
class HopStage:
    """A pool of questions."""

    from_step: int  # the first step that draws from it
    pool: NDArray[np.intp]  # (n,), indices of questions, at least one


class Curriculum:
    """Draws questions from the stage that a step belongs to.

    Stages ascend by ``from_step``, the first from step 0; ``seed`` decides the order of questions.

    Raises:
        ConfigurationError: Stages out of order, or an empty one.

    Example:
        >>> two = Curriculum([HopStage(0, np.array([4, 5])), HopStage(10, np.arange(4))], seed=0)
        >>> sorted(two.draw(0, 4).tolist()), sorted(two.draw(10, 4).tolist())
        ([4, 4, 5, 5], [0, 1, 2, 3])
    """

    def __init__(self, stages: Sequence[HopStage], seed: int = 0) -> None:
        starts = [stage.from_step for stage in stages]
        if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
            raise ConfigurationError(
                f"Expected stages from ascending steps, the first from 0, got {starts}. Order them."
            )
        for stage in stages:
            if not len(stage.pool):
                raise ConfigurationError(
                    "Expected questions for every stage, got none for the one from step "
                    f"{stage.from_step}. Check the split, the schedule and the difficulty file."
                )
        self.stages = tuple(stages)
        self._seed = check_count("seed", seed)
        self._drawn = [0] * len(starts)

    def draw(self, step: int, count: int) -> NDArray[np.intp]:
        """Return the indices of the next ``count`` questions after so many steps."""
        number = max(i for i, stage in enumerate(self.stages) if stage.from_step <= step)
        pool, first = self.stages[number].pool, self._drawn[number]
        self._drawn[number] += count
        epochs = range(first // len(pool), (first + count - 1) // len(pool) + 1)
        orders = [
            np.random.default_rng((self._seed, number, epoch)).permutation(pool) for epoch in epochs
        ]
        skipped = first - epochs.start * len(pool)
        return np.concatenate(orders)[skipped : skipped + count]

    @property
    def state(self) -> list[int]:
        """Number of questions that were drawn in each stage."""
        return list(self._drawn)

    @state.setter
    def state(self, drawn: Sequence[int]) -> None:
        if len(drawn) != len(self.stages):
            raise ConfigurationError(
                f"Expected the state of {len(self.stages)} stages, got {len(drawn)}. Restore it in "
                "a curriculum of the same stages."
            )
        self._drawn = list(drawn)


def make_curriculum(
    questions: Sequence[Question],
    seed: int = 0,
    *,
    hops: Sequence[tuple[int, int]] = (),
    difficulties: Mapping[str, Difficulty] | None = None,
    levels: Sequence[str] = USED_LEVELS,
) -> Curriculum:
    """Return a curriculum over questions; without further arguments, all of them alike.

    ``hops`` are ``(from_step, most_hops)`` in order of steps: easy to hard. With ``difficulties``,
    by question id, only questions of these ``levels`` are used, and those without one left out.

    Raises:
        ConfigurationError: No question is left, or a question has no hops though ``hops`` is given.

    Example:
        >>> questions = [Question("a", "?", ("x",)), Question("b", "?", ("x",))]
        >>> make_curriculum(questions).stages[0].pool.tolist()
        [0, 1]
    """
    pool = np.arange(len(questions))
    if difficulties is not None:
        for level in levels:
            check_choice("levels", level, LEVELS)
        ids = {name for name, difficulty in difficulties.items() if difficulty.level in levels}
        pool = pool[[question.id in ids for question in questions]]
    if not hops:
        return Curriculum([HopStage(0, pool)], seed)
    num_hops = np.array([len(questions[i].hops) for i in pool.tolist()])
    if not num_hops.all():
        raise ConfigurationError(
            "Expected questions with known hops, got some without. Leave out the schedule of hops, "
            "or label the questions' difficulty (search-env label)."
        )
    return Curriculum([HopStage(step, pool[num_hops <= most]) for step, most in hops], seed)


def level_of(rollouts_needed: int | None) -> str:
    """Return R1-Searcher's level for a number of rollouts; None if no rollout was right.

    Example:
        >>> [level_of(needed) for needed in (1, 9, 10, 20, 21, None)]
        ['easy', 'easy', 'medium', 'medium', 'difficult', 'difficult']
    """
    if rollouts_needed is None or rollouts_needed > _LAST_MEDIUM:
        return "difficult"
    return "easy" if rollouts_needed < _FIRST_MEDIUM else "medium"


def label_difficulty(
    envs: SearchQAVectorEnv,
    engine: RolloutEngine,
    path: str | Path,
    *,
    indices: Sequence[int] | None = None,
    rollouts: int = _LAST_MEDIUM + 1,
    at_once: int = 7,
    right: str = "exact_match",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Difficulty]:
    """Measure how many rollouts each question needs, and write a line as soon as it is known.

    Questions that are in the file already are skipped, so an interrupted run can be continued; the
    labels do not depend on where it was interrupted. An episode in which retrieval failed counts
    as a rollout that was not right.

    Each question has at most ``rollouts`` of them, ``at_once`` before the next check for a right
    answer, of which the score ``right`` is 1. ``envs`` and ``engine`` are those of
    :func:`~search_env.agents.rollouts.collect.collect`; ``progress`` is called with the number of
    labelled questions and of all. Returns labels by question id, the file's former ones included.

    Raises:
        ConfigurationError: A bad argument.
        DataFormatError: The file is no file of labels.
        StorageError: The file cannot be written; labels written before are kept.
    """
    check_choice("right", right, RIGHT)
    check_count("rollouts", rollouts, 1)
    check_count("at_once", at_once, 1)
    file = Path(path)
    labels = _read_whole_lines(file) if file.exists() else {}
    indices = range(len(envs.questions)) if indices is None else list(indices)
    left = [i for i in indices if envs.questions[i].id not in labels]
    batch = max(1, envs.num_envs // at_once) * 4  # enough that few rows wait for the last ones
    for start in range(0, len(left), batch):
        chunk = left[start : start + batch]
        played = _labels(envs, engine, chunk, rollouts, at_once, right, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        for label in played:
            labels[label.question_id] = label
            append(file, (json.dumps(asdict(label), ensure_ascii=False) + "\n").encode())
        if progress is not None:
            progress(len(indices) - len(left) + start + len(chunk), len(indices))
    return labels


def read_difficulties(path: str | Path) -> dict[str, Difficulty]:
    """Read a file of :func:`label_difficulty`, in which every line is a label."""
    file = Path(path)
    if not file.is_file():
        raise DataNotFoundError(
            f"Expected a file of labelled questions at {file}, got none. Make one with "
            "search-env label."
        )
    lines = file.read_text(encoding="utf-8").splitlines()
    labels = (_parse(file, number, line) for number, line in enumerate(lines, 1))
    return {label.question_id: label for label in labels}


def _labels(
    envs: SearchQAVectorEnv,
    engine: RolloutEngine,
    indices: Sequence[int],
    rollouts: int,
    at_once: int,
    right: str,
    seed: int,
) -> list[Difficulty]:
    """Return the labels of some questions, in order."""
    needed: dict[int, int] = {}
    for number, done in enumerate(range(0, rollouts, at_once)):
        left = [index for index in indices if index not in needed]
        if not left:
            break
        size = min(at_once, rollouts - done)
        batch_seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        played = collect(envs, engine, left, group_size=size, seed=batch_seed)
        for group, members in by_group(played.trajectories).items():
            hits = [i for i, member in enumerate(members, 1) if member.scores[right] == 1.0]
            if hits:
                needed[left[group]] = done + hits[0]
    return [
        Difficulty(envs.questions[i].id, needed.get(i), level_of(needed.get(i))) for i in indices
    ]


def _read_whole_lines(file: Path) -> dict[str, Difficulty]:
    """Read the labels of an interrupted run; cut off an incomplete last line."""
    raw = file.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        with file.open("r+b") as out:
            out.truncate(len(whole))
    return read_difficulties(file)


def _parse(file: Path, number: int, line: str) -> Difficulty:
    try:
        label = Difficulty(**json.loads(line))
    except (ValueError, TypeError):
        label = None
    if label is None or label.level not in LEVELS:
        expected = "an object of question_id, rollouts_needed and level"
        raise DataFormatError.at(file, number, "", expected, line)
    return label
