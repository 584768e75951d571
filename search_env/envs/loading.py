"""Loading of questions and retrievers by name or path, once per process.

Environments take only small JSON values; this module loads the objects that they name and caches
them, so that another ``gym.make`` with the same corpus is cheap. Data from files is cached by
:func:`~search_env.paths.file_key`: a file that has changed is read again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search_env.envs.mixtures import Part, mix, parts_of
from search_env.envs.question_filters import QuestionFilter
from search_env.envs.splits import GENERATED, published, splits_of
from search_env.errors import (
    ConfigurationError,
    DataFormatError,
    DataNotFoundError,
    IndexFormatError,
)
from search_env.metrics.answers import is_empty_gold
from search_env.paths import FileKey, cache_dir, file_key
from search_env.retrieval.base import Retriever
from search_env.retrieval.composites import parts_of_name
from search_env.retrieval.digests import file_digest
from search_env.retrieval.registry import (
    CorpusChoice,
    check_retriever_name,
    get_retriever,
    register_corpus_retriever,
)
from search_env.types import Document, Question
from search_env.validation import check_choice, check_count
from search_env.worlds.diagnostics import (
    DIAGNOSTIC_DATASETS,
    diagnostic_questions,
    diagnostic_retriever,
)
from search_env.worlds.toy import ToyOptions, toy_questions, toy_retriever

if TYPE_CHECKING:
    from search_env.worlds.encyclopaedia import World

WORLD_OPTIONS: dict[str, Any] = {
    "articles": 1000,
    "questions": 1000,
    "hops": (1, 2, 3, 4),
    "kinds": None,
    "seed": 0,
    "known": 0.0,
}
"""The ``dataset_options`` of the procedural world, with their defaults."""

TOY_OPTIONS = tuple(field.name for field in fields(ToyOptions))
"""The ``dataset_options`` of the toy."""

_LOOKUP = ("toy", *DIAGNOSTIC_DATASETS)  # their retriever answers exact queries
_CHECKED_WHEN_BUILT = ("cassette:", "faiss:", "http:", "https:", "mcp:")  # fast to open
_CACHE_INDEX_FROM = 20_000  # passages; fewer are indexed in a moment


def load_questions(
    dataset: str, split: str | None, options: Mapping[str, Any] | None
) -> Sequence[Question]:
    """Return a dataset's questions, in an order that never changes; arguments as of EnvConfig."""
    parts = parts_of(dataset)
    if options and not any(part.dataset in GENERATED for part in parts):
        return _filtered_questions(parts, split, QuestionFilter.of(dataset, options))
    if len(parts) == 1:
        return _load_one(parts[0].dataset, _split_of(parts[0], split), options)
    worlds = [part for part in parts if part.dataset == "world"]
    if options and not worlds:
        raise _no_options(dataset, options)
    return mix(
        [
            (
                part,
                _load_one(part.dataset, part.split or split, options if part in worlds else None),
            )
            for part in parts
        ]
    )


def _filtered_questions(
    parts: Sequence[Part], split: str | None, chosen: QuestionFilter
) -> Sequence[Question]:
    """Return what a filter keeps of a dataset of files, or of each part of a mixture of them."""
    is_one = len(parts) == 1
    splits = [_split_of(part, split) if is_one else part.split or split for part in parts]
    loaded = [_load_one(part.dataset, of, None) for part, of in zip(parts, splits, strict=True)]
    chosen.check_kinds([question for questions in loaded for question in questions])
    others = () if chosen.apart_from is None else load_questions(chosen.apart_from, None, None)
    kept = [chosen.select(questions, others) for questions in loaded]
    return kept[0] if is_one else mix(list(zip(parts, kept, strict=True)))


def _split_of(part: Part, split: str | None) -> str | None:
    """Return the split of the only part of a dataset's name."""
    if part.split is not None and split not in (None, part.split):
        raise ConfigurationError(
            f"Expected one split of {part.dataset}, got {str(part)!r} and split={split!r}. Leave "
            "one of them out."
        )
    return part.split or split


def _no_options(dataset: str, options: Mapping[str, Any]) -> ConfigurationError:
    return ConfigurationError(
        f"Expected no dataset_options for dataset {dataset!r}, got {dict(options)}. Only 'world', "
        "'toy' and datasets of files have options."
    )


def _load_one(
    dataset: str, split: str | None, options: Mapping[str, Any] | None
) -> Sequence[Question]:
    """Return the questions of one dataset."""
    if dataset == "world":
        return _world_questions(_generated_split(dataset, split), _world_options(options))
    if dataset == "toy":
        return toy_questions(_generated_split(dataset, split), _toy_options(options))
    if options:
        raise _no_options(dataset, options)
    if dataset in DIAGNOSTIC_DATASETS:
        return diagnostic_questions(dataset, _generated_split(dataset, split))
    return _questions_from_files(dataset, split)


def load_retriever(
    name: str | None,
    *,
    dataset: str,
    split: str | None,
    options: Mapping[str, Any] | None,
    corpus: str | None,
) -> Retriever:
    """Return the retriever of a registered name or scheme (None: the dataset's own) over a corpus.

    ``corpus`` is a file of documents or an index made by ``search-env index``; None stands for the
    dataset's own. ``cassette:PATH`` only replays.
    """
    name, choice = _choice(name, dataset, split, options, corpus)
    return get_retriever(name, choice)


def check_retriever(
    name: str | None,
    *,
    dataset: str,
    split: str | None,
    options: Mapping[str, Any] | None,
    corpus: str | None,
) -> None:
    """Check the arguments of :func:`load_retriever` without loading documents.

    Raises:
        ConfigurationError: An unknown retriever, or one that does not go with these documents.
        DataNotFoundError: There is no such corpus.
    """
    name, choice = _choice(name, dataset, split, options, corpus)
    check_retriever_name(name)
    for part in parts_of_name(name):
        check_retriever_name(part)
        if part == "lookup":
            _check_lookup(choice)
        elif part == "bm25":
            _corpus_of(choice)
        elif part.startswith(_CHECKED_WHEN_BUILT):
            get_retriever(part, choice)


def _choice(
    name: str | None,
    dataset: str,
    split: str | None,
    options: Mapping[str, Any] | None,
    corpus: str | None,
) -> tuple[str, CorpusChoice]:
    """Return the name of a retriever, and the documents that it is chosen for."""
    parts = parts_of(dataset)
    if len(parts) == 1:
        dataset, split = parts[0].dataset, _split_of(parts[0], split)
    if name is None:
        name = "lookup" if dataset in _LOOKUP else "bm25"
    return name, CorpusChoice(dataset, split, options, corpus)


def _bm25_over(choice: CorpusChoice) -> Retriever:
    path = _corpus_of(choice)
    if path is None:
        options = json.loads(_world_options(choice.options))
        split = _generated_split(choice.dataset, choice.split)
        return _bm25_of_world(options["articles"], options["seed"], split, options["known"])
    return _bm25_from_files(path, file_key(path))


def _corpus_of(choice: CorpusChoice) -> Path | None:
    """Return the file or folder that BM25 searches; None for a world's own articles."""
    from search_env.datasets.locate import find_corpus

    dataset, corpus = choice.dataset, choice.corpus
    if corpus is not None:
        path = Path(corpus).expanduser().absolute()
        if not path.exists():
            raise DataNotFoundError(
                f"Expected a corpus at {corpus}, got no such file or folder. Check the path."
            )
        return path
    if dataset == "world":
        return None
    generated = [part.dataset for part in parts_of(dataset) if part.dataset in GENERATED]
    if generated:
        raise ConfigurationError(
            f"Expected a corpus for retriever='bm25' on {dataset!r}, got none: "
            f"{', '.join(generated)} has no documents in common with others. Pass corpus=, or omit "
            "retriever where the dataset is one of these alone."
        )
    return find_corpus().expanduser().absolute()


def _check_lookup(choice: CorpusChoice) -> None:
    if choice.corpus is not None:
        raise ConfigurationError(
            f"Expected no corpus for retriever='lookup' on {choice.dataset!r}, got "
            f"{choice.corpus!r}, which it would not search. Pass retriever='bm25' to search it."
        )
    if choice.dataset not in _LOOKUP:
        raise ConfigurationError(
            f"Expected one of the datasets {list(_LOOKUP)} for retriever='lookup', got "
            f"{choice.dataset!r}. Omit retriever."
        )


def _lookup(choice: CorpusChoice) -> Retriever:
    _check_lookup(choice)
    split = _generated_split(choice.dataset, choice.split)
    if choice.dataset == "toy":
        return toy_retriever(split, _toy_options(choice.options))
    return diagnostic_retriever(choice.dataset, split)


register_corpus_retriever("bm25", _bm25_over)
register_corpus_retriever("lookup", _lookup)


def _generated_split(dataset: str, split: str | None) -> str:
    splits = splits_of(dataset)
    chosen = str(splits.default if split is None else split)
    check_choice(f"split of dataset {dataset!r}", chosen, splits.names)
    return chosen


def _world_options(options: Mapping[str, Any] | None) -> str:
    """Return the complete options as JSON, which is hashable."""
    options = dict(options or {})
    for key in options:
        check_choice("dataset_options of 'world'", key, WORLD_OPTIONS)
    chosen = {**WORLD_OPTIONS, **options}
    chosen["articles"] = check_count("articles", chosen["articles"])
    chosen["questions"] = check_count("questions", chosen["questions"], 1)
    chosen["seed"] = check_count("seed", chosen["seed"])
    return json.dumps(chosen, sort_keys=True, default=_listed)


def _toy_options(options: Mapping[str, Any] | None) -> ToyOptions:
    """Return the checked options of the toy."""
    for key in options or {}:
        check_choice("dataset_options of 'toy'", key, TOY_OPTIONS)
    return ToyOptions(**options or {})


def _listed(value: object) -> Any:
    """Return an array of NumPy as a list; other values that JSON lacks are refused."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise ConfigurationError(
        f"Expected dataset_options of numbers, strings and lists, got {value!r}. Pass those."
    )


@functools.lru_cache(maxsize=4)
def _world(articles: int, seed: int, split: str, known: float) -> World:
    from search_env.worlds.encyclopaedia import World

    return World(articles=articles, seed=seed, split=split, known=known)


@functools.lru_cache(maxsize=8)
def _world_questions(split: str, options: str) -> Sequence[Question]:
    chosen = json.loads(options)
    count, seed = chosen["questions"], chosen["seed"]
    world = _world(chosen["articles"], seed, split, chosen["known"])
    return tuple(world.questions(count, hops=chosen["hops"], kinds=chosen["kinds"], seed=seed))


def _questions_from_files(dataset: str, split: str | None) -> Sequence[Question]:
    from search_env.datasets.locate import local_places

    if published(dataset) is not None:
        return _published_questions(dataset, split, file_key(*local_places(dataset, split)))
    path = Path(dataset).expanduser()
    return _questions_from_path(path.absolute(), split, file_key(path))


@functools.lru_cache(maxsize=8)
def _published_questions(dataset: str, split: str | None, files: FileKey) -> Sequence[Question]:
    from search_env.datasets import locate

    return _warned(locate.load_questions(dataset, split), dataset)


@functools.lru_cache(maxsize=8)
def _questions_from_path(path: Path, split: str | None, files: FileKey) -> Sequence[Question]:
    from search_env.datasets.detect import read_questions

    rows = list(read_questions(path))
    questions = tuple(q for q in rows if split is None or q.split == split)
    if not questions:
        raise ConfigurationError(
            f"Expected questions of split {split!r} in {path}, which holds "
            f"{sorted({q.split for q in rows})}. Choose one of these, or omit split."
        )
    return _warned(questions, path)


def _warned(questions: Sequence[Question], source: object) -> Sequence[Question]:
    """Return the questions, with a warning where a gold is equal to an empty answer."""
    empty = [(q.id, gold) for q in questions for gold in q.answers if is_empty_gold(gold)]
    if empty:
        first_id, first_gold = empty[0]
        warnings.warn(
            f"{source}: {len(empty)} gold answers are nothing but articles and punctuation, which "
            f"scores ignore: an empty answer is right there. The first is {first_gold!r} of the "
            f"question {first_id!r}. Leave these questions out.",
            stacklevel=2,
        )
    return tuple(questions)


@functools.lru_cache(maxsize=4)
def _bm25_of_world(articles: int, seed: int, split: str, known: float) -> Retriever:
    world = _world(articles, seed, split, known)
    # With some text: another version of the generator must not load this one's index.
    text = "".join(world.document(i).text for i in range(100))
    key = hashlib.sha256(f"{world!r}{text}".encode()).hexdigest()
    return _bm25(key, world.documents, len(world))


@functools.lru_cache(maxsize=4)
def _bm25_from_files(path: Path, files: FileKey) -> Retriever:
    from search_env.datasets.detect import corpus_files, read_documents
    from search_env.retrieval.bm25.retriever import BM25Retriever
    from search_env.retrieval.storage.array_folder import is_index

    if is_index(path):
        return BM25Retriever.load(path)
    content = [file_digest(file) for file in corpus_files(path)]
    key = content[0] if len(content) == 1 else hashlib.sha256("".join(content).encode()).hexdigest()

    def documents() -> Iterator[Document]:
        yield from read_documents(path)
        if file_key(path) != files:
            raise DataFormatError(
                f"{path}: expected a corpus that stays as it is while it is read, got another one. "
                "Load it again when its writer is done."
            )

    return _bm25(key, documents, _CACHE_INDEX_FROM)


def _bm25(key: str, documents: Callable[[], Iterable[Document]], size: int) -> Retriever:
    """Build an index, or load it from the cache; small ones are not cached on disk."""
    from search_env.retrieval.bm25.retriever import BM25Retriever

    if size < _CACHE_INDEX_FROM:
        return BM25Retriever.build(documents())
    path = cache_dir() / "indexes" / f"bm25-{key[:32]}"
    try:
        return BM25Retriever.load(path)
    except (IndexFormatError, FileNotFoundError):
        built = BM25Retriever.build(documents(), progress=True)
    try:
        built.save(path)
    except OSError as error:
        warnings.warn(
            f"The index is not cached in {path.parent}, and built again by the next process: "
            f"{error}. Set $SEARCH_ENV_CACHE to a folder with space.",
            stacklevel=2,
        )
        return built
    return BM25Retriever.load(path)
