"""A corpus's vectors in files: written block by block, by several processes, resumed after a stop.

A folder holds ``embeddings.json``, which says what the vectors were made with, and one array for
each block of passages::

    vectors-00000003-5a1c9d20e4b7f361.npy     block 3, float16 or float32 (rows, dimension)

The last part of the name is the beginning of the :func:`~search_env.retrieval.digests.digest` of
the block's passages. A file appears when it is whole, so that a process that is killed at any time
is resumed at the first missing block, and a corpus that has changed meanwhile is noticed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from search_env.paths import atomic_path
from search_env.retrieval.dense.card import EncoderCard, card_from
from search_env.retrieval.dense.encoder import Encoder
from search_env.retrieval.digests import digest
from search_env.types import Document
from search_env.validation import check_choice, check_count

T = TypeVar("T")

STORED = ("float16", "float32")
"""Types that vectors may be stored in."""
FORMAT = "search-env embeddings"
VERSION = 1
BLOCK = 4096
"""Passages in a block: what a killed process loses at most."""

_CARD = "embeddings.json"
_NAME = re.compile(r"vectors-(\d{8,})-([0-9a-f]{16})\.npy")
_DIGITS = 16


class Shard(NamedTuple):
    """One of ``total`` processes that embed a corpus together; ``number`` is from 1.

    Example:
        >>> Shard.parse("2/8").has(1), Shard.parse("2/8").has(2)
        (True, False)
    """

    number: int = 1
    total: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard of a text such as ``"2/8"``."""
        fields = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(int(fields[1]), int(fields[2])) if fields else cls(0, 0)
        if not 1 <= shard.number <= shard.total:
            raise ConfigurationError(
                f"Expected a shard from 1/N to N/N, got {text!r}. Pass 1/1, or 1/8 to 8/8 to "
                "eight processes."
            )
        return shard

    def has(self, block: int) -> bool:
        """Return whether a block is this process's to embed."""
        return block % self.total == self.number - 1


@dataclass(frozen=True, slots=True)
class EmbeddingsCard:
    """What the vectors of a folder were made with.

    Attributes:
        encoder: Pooling, prefixes and length.
        model: Folder of the model.
        fingerprint: See :func:`search_env.retrieval.dense.card.fingerprint`.
        dimension: Numbers in a vector.
        computed: Type that the model computed in.
        stored: Type of the files, one of :data:`STORED`.
        corpus: Where the passages were read from; "" where nothing says it.
        block: Passages in a block; the last one may have fewer.
    """

    encoder: EncoderCard
    model: str
    fingerprint: str
    dimension: int
    computed: str
    stored: str = "float16"
    corpus: str = ""
    block: int = BLOCK


_WHERE = ("model", "corpus")  # folders may be moved between two runs


class Embeddings:
    """The vectors of a folder, read block by block.

    Raises:
        DataNotFoundError: The folder has no card.
        DataFormatError: The card is damaged, or of another version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.card = _read_card(self.folder)
        self._files: dict[int, tuple[Path, str]] = {}
        for path in sorted(self.folder.glob("vectors-*.npy")):
            if name := _NAME.fullmatch(path.name):
                self._files[int(name[1])] = path, name[2]

    @property
    def blocks(self) -> list[int]:
        """Numbers of the blocks that are there."""
        return sorted(self._files)

    def has(self, block: int, documents: Sequence[Document]) -> bool:
        """Return whether a block is there.

        Raises:
            DataFormatError: It is, but is one of other passages.
        """
        if block not in self._files:
            return False
        path, expected = self._files[block]
        if digest(documents)[:_DIGITS] != expected:
            raise DataFormatError(
                f"{path}: expected vectors of passages {block * self.card.block:,} to "
                f"{block * self.card.block + len(documents) - 1:,} of the corpus, got those of "
                "other passages: the corpus has changed. Pass the corpus that was embedded, or "
                "embed this one into a new folder."
            )
        return True

    def vectors(self, block: int, documents: Sequence[Document]) -> NDArray[Any]:
        """Return the vectors of a block of these passages, memory-mapped.

        Raises:
            DataNotFoundError: The block is missing.
            DataFormatError: It is damaged, or one of other passages.
        """
        if not self.has(block, documents):
            raise DataNotFoundError(
                f"Expected the vectors of block {block} in {self.folder}, got {len(self._files)} "
                "blocks without it. Run `search-env embed` again, for every shard, until each "
                "says that it is complete."
            )
        path, _ = self._files[block]
        shape = (len(documents), self.card.dimension)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # the parser of a damaged header raises whatever it comes upon
            raise _damaged(path, str(error)) from error
        if array.shape != shape or array.dtype != self.card.stored:
            raise _damaged(
                path, f"{array.dtype} {array.shape}, expected {self.card.stored} {shape}"
            )
        return np.asarray(array)


def in_blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of this size; the last may be shorter.

    Example:
        >>> list(in_blocks("abcde", 2))
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block


def embed(
    documents: Iterable[Document],
    folder: str | Path,
    encoder: Encoder,
    *,
    shard: Shard = Shard(),  # noqa: B008 (a tuple)
    stored: str = "float16",
    corpus: str = "",
    block: int = BLOCK,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write the vectors of passages that a folder does not have yet; return how many those are.

    Args:
        documents: All passages of the corpus, whichever the shard, in the order of the index.
        folder: A new folder, or one that was begun with the same encoder and settings.
        encoder: Encodes the passages.
        shard: Which blocks are this process's; the others may write to the same folder, or to
            folders whose files are put together later.
        stored: One of :data:`STORED`.
        corpus: Where the passages come from, for the card.
        block: Passages in a block.
        progress: Called with the number of passages read so far, after each block.

    Raises:
        ConfigurationError: The folder was begun with other settings.
        DataFormatError: The corpus has changed since.
        StorageError: A file cannot be written.
    """
    check_choice("stored", stored, STORED)
    card = EmbeddingsCard(
        encoder.card,
        str(encoder.folder),
        encoder.fingerprint,
        encoder.dimension,
        encoder.dtype,
        stored,
        corpus,
        check_count("block", block, 1),
    )
    folder = Path(folder)
    _begin(folder, card)
    embeddings, count, read = Embeddings(folder), 0, 0
    for number, passages in enumerate(in_blocks(documents, block)):
        if shard.has(number) and not embeddings.has(number, passages):
            vectors = encoder.encode_passages(passages)
            _write(folder, number, passages, vectors.astype(stored))
            count += len(passages)
        read += len(passages)
        if progress is not None:
            progress(read)
    return count


def _write(folder: Path, block: int, passages: Sequence[Document], vectors: NDArray[Any]) -> None:
    if not np.isfinite(vectors).all():
        raise ConfigurationError(
            f"Expected vectors that fit into {vectors.dtype}, got larger numbers. Store float32."
        )
    path = folder / f"vectors-{block:08d}-{digest(passages)[:_DIGITS]}.npy"
    with atomic_path(path) as new, new.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)


def _begin(folder: Path, card: EmbeddingsCard) -> None:
    """Write the card of a new folder, or check that an old one was begun with the same."""
    path = folder / _CARD
    if not path.exists():
        content = {"format": FORMAT, "version": VERSION, **asdict(card)}
        with atomic_path(path) as new:
            new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return
    old, new_card = asdict(_read_card(folder)), asdict(card)
    for name in new_card:
        if name not in _WHERE and old[name] != new_card[name]:
            raise ConfigurationError(
                f"Expected {name} {old[name]!r}, with which {folder} was begun, got "
                f"{new_card[name]!r}. Embed into a new folder, or go on with the same settings."
            )


def _read_card(folder: Path) -> EmbeddingsCard:
    path = folder / _CARD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.pop("format"), content.pop("version")
    except (FileNotFoundError, NotADirectoryError):
        raise DataNotFoundError(
            f"Expected embeddings in {folder}, got no {_CARD}. Make them with `search-env embed "
            "CORPUS OUT --model FOLDER`."
        ) from None
    except (OSError, ValueError, AttributeError, KeyError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if kind != (FORMAT, VERSION):
        raise _damaged(path, f"format {kind}, expected {(FORMAT, VERSION)}")
    try:
        return EmbeddingsCard(**content | {"encoder": card_from(content["encoder"], path)})
    except (TypeError, KeyError, ConfigurationError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> DataFormatError:
    return DataFormatError(
        f"{path}: expected embeddings (format version {VERSION}), got {reason}. Remove this file "
        "and run `search-env embed` again, which writes what is missing."
    )
