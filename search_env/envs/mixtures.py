"""Datasets named with their splits, and mixtures of them: ``hotpotqa:train+musique:train``.

A mixture is a sum of parts ``[SHARE*]DATASET[:SPLIT]``. Without shares it has all questions of each
part. With some, 1 where a part has none, it is the largest mixture in which the parts have these
shares, its questions spread evenly over each part: ``3*hotpotqa+musique`` has three questions of
HotpotQA for one of MuSiQue.

Parts are interleaved: any prefix of a mixture has about its shares. The id of a question is
``DATASET/ID`` in a mixture, ``DATASET:SPLIT/ID`` where a dataset has two parts, and its ``dataset``
says which set it is from, so that scores can be reported for each.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from search_env.datasets.locate import dataset_name
from search_env.envs.splits import GENERATED, is_dataset, published, splits_of
from search_env.errors import ConfigurationError
from search_env.types import Question

Purpose = Literal["train", "evaluation", "test"]

_SHARE = re.compile(r"(\d+\.?\d*|\.\d+)\s*\*\s*(.+)")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a mixture; a dataset alone is a mixture of one."""

    dataset: str
    split: str | None = None
    share: float | None = None

    def __str__(self) -> str:
        share = "" if self.share is None else f"{self.share:g}*"
        return f"{share}{self.dataset}" + ("" if self.split is None else f":{self.split}")

    @property
    def set_name(self) -> str:
        """The dataset's own name, or that of its file without folder and suffixes."""
        if self.dataset in GENERATED:
            return self.dataset
        if published(self.dataset) is None:
            return Path(self.dataset).name.partition(".")[0]
        return dataset_name(self.dataset)


def parts_of(dataset: str) -> tuple[Part, ...]:
    """Return the parts of a mixture, or a dataset as the only one.

    Raises:
        ConfigurationError: There is no such dataset or file, or a share is 0.

    Example:
        >>> [str(part) for part in parts_of("2*hotpotqa:train + musique")]
        ['2*hotpotqa:train', '1*musique']
    """
    if is_dataset(dataset):  # also a file with + or : in its name
        return (Part(dataset),)
    parts = tuple(_part(text.strip(), dataset) for text in dataset.split("+"))
    shared = [part for part in parts if part.share is not None]
    if len(parts) == 1 and shared:
        raise ConfigurationError(
            f"Expected a share only in a mixture, got {dataset!r}. Add others with +, or leave it "
            "out."
        )
    if shared:
        parts = tuple(replace(part, share=part.share or 1.0) for part in parts)
    return parts


def _part(text: str, dataset: str) -> Part:
    if not text:
        raise ConfigurationError(
            f"Expected the name of a dataset on both sides of +, got {dataset!r}. Write for "
            "example 'hotpotqa+musique'."
        )
    found = None if is_dataset(text) else _SHARE.fullmatch(text)
    share = None if found is None else float(found[1])
    name = text if found is None else found[2]
    if share is not None and not 0.0 < share < math.inf:
        raise ConfigurationError(
            f"Expected a share above 0, got {text!r} in {dataset!r}. Leave that part out."
        )
    split = None
    if not is_dataset(name):
        before, colon, after = name.rpartition(":")
        if colon and is_dataset(before):
            name, split = before, after
    if not is_dataset(name):
        published(name)  # raises, with the nearest name
    if split == "":
        raise ConfigurationError(
            f"Expected a split after the colon, got {text!r}. Write for example '{name}:train'."
        )
    return Part(name, split, share)


def for_purpose(dataset: str, purpose: Purpose, *, keep: bool) -> tuple[str, str | None]:
    """Return the arguments ``dataset`` and ``split`` to train, evaluate or test on a mixture.

    Each part has its own split for the purpose, as
    :func:`~search_env.envs.splits.splits_of` knows it; with ``keep``, a part that names a split
    keeps it.

    Example:
        >>> for_purpose("hotpotqa", "evaluation", keep=True)
        ('hotpotqa', 'dev')
        >>> for_purpose("nq:train+bamboogle", "test", keep=False)
        ('nq:test+bamboogle:test', None)
    """
    parts = tuple(
        part if keep and part.split is not None else replace(part, split=_split(part, purpose))
        for part in parts_of(dataset)
    )
    if len(parts) == 1:
        return parts[0].dataset, parts[0].split
    return "+".join(map(str, parts)), None


def _split(part: Part, purpose: Purpose) -> str | None:
    splits = splits_of(part.dataset)
    if purpose == "train":
        return splits.train
    return splits.test if purpose == "test" else splits.evaluation


def mix(parts: Sequence[tuple[Part, Sequence[Question]]]) -> tuple[Question, ...]:
    """Return the questions of a mixture, from those of its parts.

    Raises:
        ConfigurationError: The same part twice, or a share that leaves no question.

    Example:
        >>> one = [Question("1", "?", ("a",)), Question("2", "?", ("a",))]
        >>> mixed = mix([(Part("nq", share=2), one), (Part("popqa", share=1), one)])
        >>> [question.id for question in mixed]
        ['nq/1', 'popqa/1', 'nq/2']
    """
    names = _names([part for part, _ in parts])
    total = sum(part.share or 0.0 for part, _ in parts)
    size = min((len(found) * total / part.share for part, found in parts if part.share), default=0)
    placed = []
    for number, ((part, found), name) in enumerate(zip(parts, names, strict=True)):
        count = len(found) if part.share is None else int(size * part.share / total + 1e-9)
        if not count:
            raise ConfigurationError(
                f"Expected questions of every part of a mixture, got none of {part}. Change the "
                "shares, or what is left out (dataset_options)."
            )
        for i in range(count):
            question = found[i * len(found) // count]
            marked = replace(
                question,
                id=f"{name}/{question.id}",
                dataset=question.dataset or part.set_name,
            )
            placed.append(((i + 0.5) / count, number, marked))
    placed.sort(key=lambda place: place[:2])
    return tuple(question for _, _, question in placed)


def _names(parts: Sequence[Part]) -> list[str]:
    """Return a name for each part, all different."""
    names = [part.set_name for part in parts]
    if len(set(names)) < len(names):
        counts = Counter(names)
        names = [
            name if counts[name] == 1 else f"{name}:{part.split or 'all'}"
            for name, part in zip(names, parts, strict=True)
        ]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ConfigurationError(
            f"Expected different parts of a mixture, got {twice} twice. Leave one out, give it "
            "another split, or rename one of two files of the same name."
        )
    return names
