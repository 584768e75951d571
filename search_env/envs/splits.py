"""What splits a dataset has, and which of them to train on, to watch and to test on.

Generated sets have the three of :data:`~search_env.types.SPLITS`. A published set has those it is
published with (:data:`~search_env.datasets.locate.DATASETS`). A file has those that its rows name.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search_env.errors import ConfigurationError, nearest
from search_env.types import SPLITS
from search_env.worlds.diagnostics import DIAGNOSTIC_DATASETS

if TYPE_CHECKING:
    from search_env.datasets.locate import DatasetEntry

GENERATED = ("world", "toy", *DIAGNOSTIC_DATASETS)
"""The datasets that need no file."""
_HELD_OUT = ("validation", "dev", "val", "test")
"""What splits that are not trained on are called, best to watch a run by first."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The splits of a dataset; what is None is no split of its own but all of its questions.

    Attributes:
        dataset: Its name, or the path of its file.
        names: All of them; () for a file whose rows name none.
        default: What an environment plays where nobody says.
        evaluation: To watch training by.
        test: To report on.
    """

    dataset: str
    names: tuple[str, ...]
    default: str | None
    evaluation: str | None
    test: str | None

    @property
    def train(self) -> str | None:
        """The split to train on.

        ``"train"`` where there is one; all of a file that names one split or none, which is then
        evaluated as well.

        Raises:
            ConfigurationError: The dataset has none.
        """
        if "train" in self.names:
            return "train"
        if self.default is None and len(self.names) < 2:
            return self.evaluation
        raise ConfigurationError(
            f"Expected a dataset with a split to train on, got {self.dataset!r} with "
            f"{', '.join(self.names)}. Train on another dataset, or name the split: "
            'split="..." among the arguments of the environment.'
        )


def splits_of(dataset: str) -> Splits:
    """Return the splits of a dataset.

    Of the names of files, ``validation``, ``dev``, ``val`` and ``test`` are looked for to evaluate,
    in this order, and in ``test``, ``validation``, ``dev``, ``val`` to test; else any other than
    ``train``. A file with one split or none is evaluated and tested on what it is trained on.

    Args:
        dataset: As ``dataset=`` of the environments. A file is read.

    Raises:
        ConfigurationError: There is no such dataset.
        DataError: The file is damaged.

    Example:
        >>> splits_of("hotpotqa").train, splits_of("hotpotqa").evaluation
        ('train', 'dev')
        >>> splits_of("toy").evaluation, splits_of("toy").test
        ('validation', 'test')
    """
    if dataset in GENERATED:
        return Splits(dataset, SPLITS, "train", "validation", "test")
    entry = published(dataset)
    if entry is not None:
        names, default = tuple(entry.files), entry.default_split
        return Splits(dataset, names, default, _first_of(_HELD_OUT, names), default)
    path = Path(dataset).expanduser()
    found = path.stat()
    names = _names_in(path, found.st_mtime_ns, found.st_size)
    test = _first_of((_HELD_OUT[-1], *_HELD_OUT[:-1]), names)
    return Splits(dataset, names, None, _first_of(_HELD_OUT, names), test)


def published(dataset: str) -> DatasetEntry | None:
    """Return where the questions of a dataset are published; None for a file.

    Raises:
        ConfigurationError: It is neither.
    """
    from search_env.datasets.locate import DATASETS

    for name, entry in DATASETS.items():
        if dataset in (name, *entry.aliases):
            return entry
    if Path(dataset).expanduser().is_file():
        return None
    names = [*GENERATED, *DATASETS, *(a for e in DATASETS.values() for a in e.aliases)]
    raise ConfigurationError(
        f"Expected dataset to be a file or one of {names}, got {dataset!r}. "
        f"{nearest(dataset, names)}"
    )


def _first_of(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the first wanted name that there is, else any that is not trained on, else any."""
    others = [name for name in names if name != "train"]
    return next((name for name in (*wanted, *others, *names) if name in names), None)


@functools.lru_cache(maxsize=8)
def _names_in(path: Path, mtime: int, size: int) -> tuple[str, ...]:
    """Return the splits that a file's rows name, in order; time and size key the cache."""
    from search_env.datasets.detect import read_questions

    return tuple(dict.fromkeys(q.split for q in read_questions(path) if q.split))
