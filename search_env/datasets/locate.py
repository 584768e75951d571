"""Locates the questions of a known dataset, and a corpus, on this machine or on the hub.

Places, in order; the first that has the file wins:

1. the path that the caller passes, a file in any layout or a folder to look in;
2. ``$SEARCH_ENV_DATA``, then ``<cache>/datasets`` (``$SEARCH_ENV_CACHE``): in the folder itself and
   in ``official/``, first ``questions.jsonl``, then the published names; plain, ``.xz``, ``.gz``;
3. for questions, the hub's ``RUC-NLPIR/FlashRAG_datasets``, through huggingface_hub and its cache
   (``HF_HUB_OFFLINE=1`` keeps it off the network). These rows have no evidence.

A corpus is never downloaded: those of the hub are tens of gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType

from search_env.datasets.detect import question_format, read_questions
from search_env.errors import ConfigurationError, DataNotFoundError, nearest
from search_env.hub import hub_file
from search_env.paths import CACHE_VARIABLE, DATA_VARIABLE, cache_dir, data_dir
from search_env.types import Question

HUB_REPOSITORY = "RUC-NLPIR/FlashRAG_datasets"
COMBINED_NAME = "questions.jsonl"
CORPUS_NAME = "passages.jsonl"
_SUFFIXES = ("", ".xz", ".gz")
_SUBFOLDERS = ("", "official")


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """Published files of a dataset's questions by split, of which the first is the default.

    File names are relative to a data folder; the last is also the path in :data:`HUB_REPOSITORY`.
    """

    files: Mapping[str, tuple[str, ...]]
    aliases: tuple[str, ...] = ()

    @property
    def default_split(self) -> str:
        """The split of ``split=None``."""
        return next(iter(self.files))


def _hub_files(
    dataset: str, *splits: str, suffixes: tuple[str, ...] = ("jsonl",)
) -> dict[str, tuple[str, ...]]:
    return {split: tuple(f"{dataset}/{split}.{s}" for s in suffixes) for split in splits}


DATASETS: Mapping[str, DatasetEntry] = MappingProxyType(
    {
        "2wikimultihopqa": DatasetEntry(
            _hub_files("2wikimultihopqa", "dev", "train", suffixes=("json", "jsonl")),
            aliases=("2wiki", "2wikimultihop", "2wikimqa", "twowiki"),
        ),
        "bamboogle": DatasetEntry(
            {"test": ("bamboogle.csv", "bamboogle.jsonl", "bamboogle/test.jsonl")}
        ),
        "hotpotqa": DatasetEntry(
            {
                "dev": (
                    *("hotpot_dev_distractor_v1.json", "hotpot_dev_fullwiki_v1.json"),
                    "hotpotqa/dev.jsonl",
                ),
                "train": ("hotpot_train_v1.1.json", "hotpotqa/train.jsonl"),
            },
            aliases=("hotpot", "hotpot_qa"),
        ),
        "musique": DatasetEntry(
            {
                "dev": ("musique_ans_v1.0_dev.jsonl", "musique/dev.jsonl"),
                "train": ("musique_ans_v1.0_train.jsonl", "musique/train.jsonl"),
            },
            aliases=("musique_ans",),
        ),
        "nq": DatasetEntry(
            _hub_files("nq", "test", "dev", "train"), aliases=("nq_open", "natural_questions")
        ),
        "popqa": DatasetEntry(_hub_files("popqa", "test")),
        "triviaqa": DatasetEntry(
            _hub_files("triviaqa", "test", "dev", "train"), aliases=("tqa", "trivia_qa")
        ),
    }
)
"""The known datasets. Any other file is read with ``read_questions``."""


def load_questions(
    dataset: str, split: str | None = None, path: str | Path | None = None
) -> list[Question]:
    """Return the questions of a dataset's split, with both names filled in.

    Args:
        dataset: A key or alias of :data:`DATASETS`.
        split: For example ``"dev"``; None is the dataset's default (``test`` for Bamboogle).
        path: A file or folder to read instead of the usual places.

    Raises:
        ConfigurationError: The dataset or split is unknown, or the file at ``path`` has others.
        DataNotFoundError: No place has them; the message lists the places.
        DataFormatError: The file is damaged or in no known layout.
    """
    name, chosen = _dataset_and_split(dataset, split, path)
    file, layout = find_questions(name, chosen, path)
    sources: set[tuple[str, str]] = set()
    questions = []
    for question in read_questions(file, layout):
        sources.add((question.dataset, question.split))
        # A name that the file leaves out is taken from the caller.
        if question.dataset in ("", name) and question.split in ("", chosen):
            questions.append(replace(question, dataset=name, split=chosen))
    if not questions:
        listed = ", ".join(sorted(f"{d or 'any'} ({s or 'any'})" for d, s in sources))
        raise ConfigurationError(
            f"Expected questions of {name} ({chosen}) in {file}, got {listed}. "
            "Pass one of these as dataset and split, or another path."
        )
    return questions


def find_questions(
    dataset: str, split: str | None = None, path: str | Path | None = None
) -> tuple[Path, str]:
    """Return the file with a dataset's split, and its layout.

    A combined file counts if its rows name the dataset and the split. Arguments and errors as for
    :func:`load_questions`; of a file at ``path`` only the first row is read.
    """
    name, chosen = _dataset_and_split(dataset, split, path)
    tried: list[str] = []
    if path is not None and not Path(path).is_dir():
        return Path(path), question_format(Path(path))
    published = DATASETS[name].files.get(chosen, ())
    for folder in _folders(path, tried):
        for candidate in _candidates(folder, (COMBINED_NAME,)):
            splits = _splits_until(candidate, name, chosen)
            if chosen in splits:
                return candidate, question_format(candidate)
            tried.append(f"{candidate}: has {', '.join(splits) or 'nothing'} of {name}")
        for candidate in _candidates(folder, published):
            return candidate, question_format(candidate)
        tried.append(f"{folder}: no {' or '.join((COMBINED_NAME, *published))} [.xz, .gz]")
    if path is None and (downloaded := _download(published[-1], tried)):
        return downloaded, question_format(downloaded)
    remedy = f"Put {published[0] if published else COMBINED_NAME} into a folder"
    raise _not_found(f"questions of {name} ({chosen})", tried, remedy)


def local_places(dataset: str, split: str | None = None) -> list[Path]:
    """Return every path at which this machine may have a dataset's split, existing or not."""
    name, chosen = _dataset_and_split(dataset, split, None)
    names = (COMBINED_NAME, *DATASETS[name].files.get(chosen, ()))
    return [place for folder in _folders(None, []) for place in _places(folder, names)]


def find_corpus(path: str | Path | None = None) -> Path:
    """Return the file of passages to search in.

    Args:
        path: A file, or a folder with ``passages.jsonl``; None looks in the usual places.

    Raises:
        DataNotFoundError: No place has one; the message lists the places.
    """
    tried: list[str] = []
    if path is not None and Path(path).is_file():
        return Path(path)
    if path is not None and not Path(path).exists():
        raise DataNotFoundError(f"Expected a corpus at {path}, got no such file. Check the path.")
    for folder in _folders(path, tried):
        for candidate in _candidates(folder, (CORPUS_NAME,)):
            return candidate
        tried.append(f"{folder}: no {CORPUS_NAME} [.xz, .gz]")
    raise _not_found(
        "a corpus of passages",
        tried,
        f"No small corpus is published on the hub: build your own index with `search-env "
        f"index`, or put {CORPUS_NAME} (one {{id, title, text}} a line) into a folder",
    )


def dataset_name(name: str) -> str:
    """Return the key of :data:`DATASETS` for a name or alias, whatever its case and hyphens."""
    normalized = name.lower().replace("-", "_")
    for key, entry in DATASETS.items():
        if normalized == key or normalized in entry.aliases:
            return key
    raise ConfigurationError(
        f"Expected dataset to be one of {', '.join(DATASETS)}, got {name!r}. "
        f"{nearest(normalized, DATASETS)}Any other file is read with read_questions(path)."
    )


def _dataset_and_split(dataset: str, split: str | None, path: str | Path | None) -> tuple[str, str]:
    """Return both names checked; a file at ``path`` may have splits that are unknown here."""
    name = dataset_name(dataset)
    entry = DATASETS[name]
    chosen = entry.default_split if split is None else split
    if path is None and chosen not in entry.files:
        raise ConfigurationError(
            f"Expected split of {name} to be one of {', '.join(entry.files)}, got {chosen!r}. "
            f"{nearest(chosen, entry.files)}Other splits are read from a path."
        )
    return name, chosen


def _folders(path: str | Path | None, tried: list[str]) -> Iterator[Path]:
    """Yield the folders to look in."""
    if path is not None:
        yield Path(path)
        return
    data = data_dir()
    if data is None:
        tried.append(f"${DATA_VARIABLE}: not set")
    else:
        yield data
    yield cache_dir() / "datasets"


def _candidates(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Yield the files of a folder that have one of the names, first name first."""
    return (place for place in _places(folder, names) if place.is_file())


def _places(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    for name, subfolder, suffix in product(names, _SUBFOLDERS, _SUFFIXES):
        yield folder / subfolder / f"{name}{suffix}"


def _splits_until(path: Path, dataset: str, split: str) -> list[str]:
    """Return the splits that a combined file names for a dataset, up to ``split``."""
    splits: dict[str, None] = {}
    for question in read_questions(path):
        if question.dataset == dataset:
            splits[question.split] = None
            if question.split == split:
                break
    return list(splits)


def _download(filename: str, tried: list[str]) -> Path | None:
    """Return the hub's file from its cache or the network, or None with the reason in ``tried``."""
    where = f"hub {HUB_REPOSITORY}, {filename}"
    try:
        return hub_file(HUB_REPOSITORY, filename, repo_type="dataset")
    except ImportError:
        tried.append(f"{where}: huggingface_hub is not installed")
    except OSError as error:
        tried.append(f"{where}: {type(error).__name__}")
    return None


def _not_found(what: str, tried: list[str], remedy: str) -> DataNotFoundError:
    places = "".join(f"\n  - {place}" for place in tried)
    return DataNotFoundError(
        f"Expected {what}, got none. Looked in:{places}\n{remedy} and set ${DATA_VARIABLE} to "
        f"it (or use {cache_dir() / 'datasets'}, moved by ${CACHE_VARIABLE}), or pass its path."
    )
