"""The splits of a dataset, and which of them to train, evaluate and test on.

Generated datasets have the splits of :data:`~search_env.types.SPLITS`, published ones those of
:data:`~search_env.datasets.locate.DATASETS`, files those that their rows name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search_env.errors import ConfigurationError, nearest
from search_env.paths import FileKey, file_key
from search_env.types import SPLITS
from search_env.worlds.diagnostics import DIAGNOSTIC_DATASETS

if TYPE_CHECKING:
    from search_env.datasets.locate import DatasetEntry

GENERATED = ("world", "toy", *DIAGNOSTIC_DATASETS)
"""The datasets without files."""
_HELD_OUT = ("validation", "dev", "val", "test")
"""Common names of held-out splits, in the order of preference for evaluation."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The splits of a dataset; None in place of a name stands for all of its questions.

    Attributes:
        dataset: Name, or path of the file.
        names: All splits; () for a file whose rows name none.
        default: The split of an environment without ``split=``.
        evaluation: The split to evaluate on during training.
        test: The split to report results on.
    """

    dataset: str
    names: tuple[str, ...]
    default: str | None
    evaluation: str | None
    test: str | None

    @property
    def train(self) -> str | None:
        """``"train"`` if there is one; for a file with one split or none, all questions.

        Raises:
            ConfigurationError: The dataset has no such split.
        """
        if "train" in self.names:
            return "train"
        if self.default is None and len(self.names) < 2:
            return self.evaluation
        raise ConfigurationError(
            f"Expected a dataset with a split to train on, got {self.dataset!r} with "
            f"{', '.join(self.names)}. Train on another dataset, or name the split: --split "
            '(split="..." among the arguments of the environment).'
        )


def splits_of(dataset: str) -> Splits:
    """Return the splits of a dataset.

    The evaluation split of a file is the first of ``validation``, ``dev``, ``val`` and ``test``,
    its test split the first of ``test``, ``validation``, ``dev`` and ``val``; else any other than
    ``train``. A file with one split or none is evaluated and tested on its training questions.

    Args:
        dataset: Name of a dataset or path of a file, which is read; the parts of a mixture have
            splits of their own (:func:`~search_env.envs.mixtures.for_purpose`).

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
    path = Path(dataset).expanduser().absolute()
    names = _names_in(path, file_key(path))
    test = _first_of((_HELD_OUT[-1], *_HELD_OUT[:-1]), names)
    return Splits(dataset, names, None, _first_of(_HELD_OUT, names), test)


def is_dataset(name: str) -> bool:
    """Return whether a name is that of one dataset: generated, published or a file."""
    from search_env.datasets.locate import DATASETS

    names = {*GENERATED, *DATASETS, *(a for entry in DATASETS.values() for a in entry.aliases)}
    return name in names or Path(name).expanduser().is_file()


def published(dataset: str) -> DatasetEntry | None:
    """Return the entry of a published dataset; None for a path; an error for anything else."""
    from search_env.datasets.locate import DATASETS

    for name, entry in DATASETS.items():
        if dataset in (name, *entry.aliases):
            return entry
    if os.path.exists(Path(dataset).expanduser()):  # also False for a path that cannot exist
        return None
    names = [*GENERATED, *DATASETS, *(a for e in DATASETS.values() for a in e.aliases)]
    raise ConfigurationError(
        f"Expected dataset to be a file or one of {names}, got {dataset!r}. "
        f"{nearest(dataset, names)}Choose one of them."
    )


def _first_of(preferred: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the first preferred name that exists, else any but ``"train"``, else any."""
    held_out = [name for name in names if name != "train"]
    return next((name for name in (*preferred, *held_out, *names) if name in names), None)


@functools.lru_cache(maxsize=8)
def _names_in(path: Path, files: FileKey) -> tuple[str, ...]:
    """Return the splits that the rows of a file or folder name, in order."""
    from search_env.datasets.detect import read_questions

    return tuple(dict.fromkeys(q.split for q in read_questions(path) if q.split))
