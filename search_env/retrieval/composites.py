"""Names of retrievers that are made of others: ``hybrid:bm25+faiss:FOLDER``, ``rerank:...``.

==============================================  ===================================================
name                                            retriever
==============================================  ===================================================
``hybrid:A+B``                                  reciprocal rank fusion (k 60) of A and B
``hybrid:2*A+B``                                the same with weights
``hybrid-minmax:0.3*A+0.7*B``                   weighted scores, each list's from 0 to 1
``hybrid-zscore:0.3*A+0.7*B``                   weighted scores in standard deviations
``rerank:FOLDER:A``                             the first 10 documents of A by a cross-encoder
``rerank:FOLDER?depth=50&device=cpu:A``         the same with options
==============================================  ===================================================

A and B are names of retrievers, composites in brackets: ``hybrid:bm25+(rerank:FOLDER:bm25)``. A
``+`` separates two names only where a known name (or a bracket) follows, and a ``:`` ends
the reranker's folder only there, so paths may contain both.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path

from search_env.errors import ConfigurationError
from search_env.paths import FileKey, file_key
from search_env.retrieval.base import Retriever
from search_env.retrieval.dense.cross_encoder import CrossEncoder
from search_env.retrieval.dense.names import split_options
from search_env.retrieval.hybrid import METHODS, HybridRetriever
from search_env.retrieval.registry import (
    CorpusChoice,
    get_retriever,
    is_retriever_name,
    register_composite_scheme,
)
from search_env.retrieval.reranking import DEPTH, RerankingRetriever

_WEIGHT = re.compile(r"([^*:+()/]+)\*(.*)", re.DOTALL)
_OPTIONS = {"depth": int, "device": str, "dtype": str, "max_length": int}


def parts_of_name(name: str) -> list[str]:
    """Return the names of the retrievers that one is made of, itself where it is no composite.

    Raises:
        ConfigurationError: A composite's name is not complete.

    Example:
        >>> parts_of_name("hybrid:bm25+(rerank:models/ms-marco:bm25)+cassette:a+b")
        ['bm25', 'bm25', 'cassette:a+b']
    """
    scheme, _, rest = name.partition(":")
    if scheme in _HYBRIDS:
        inner = [part for _, part in _hybrid_parts(name, rest)]
    elif scheme == "rerank":
        inner = [_rerank_parts(name, rest)[1]]
    else:
        return [name]
    return [leaf for part in inner for leaf in parts_of_name(part)]


def _hybrid(method: str, rest: str, choice: CorpusChoice) -> Retriever:
    name = f"{_SCHEMES[method]}:{rest}"
    weights, names = zip(*_hybrid_parts(name, rest), strict=True)
    retrievers = [get_retriever(part, choice) for part in names]
    return HybridRetriever(retrievers, method=method, weights=weights)


def _hybrid_parts(name: str, rest: str) -> list[tuple[float, str]]:
    """Return weight and name of each part of a hybrid."""
    parts = [_weighted(name, part) for part in _split(rest)]
    if len(parts) < 2:
        raise ConfigurationError(
            f"Expected two retrievers or more in {name!r}, got {[part for _, part in parts]}. "
            "Join known names by +, as in 'hybrid:bm25+faiss:FOLDER'."
        )
    return parts


def _split(text: str) -> Iterator[str]:
    """Yield the parts of a hybrid: a + separates them outside brackets, before a known name."""
    start = depth = 0
    for i, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "+" and depth <= 0 and _starts_a_name(text[i + 1 :]):
            yield text[start:i]
            start = i + 1
    yield text[start:]


def _starts_a_name(text: str) -> bool:
    """Return whether a known name begins here, perhaps after a weight or a bracket."""
    if weighted := _WEIGHT.fullmatch(text):
        text = weighted[2]
    head = re.split(r"[+]", text, maxsplit=1)[0]
    return text.startswith("(") or is_retriever_name(head)


def _weighted(name: str, part: str) -> tuple[float, str]:
    weight = 1.0
    if found := _WEIGHT.fullmatch(part):
        try:
            weight = float(found[1])
        except ValueError:
            weight = math.nan
        part = found[2]
        if not 0 <= weight < math.inf:
            raise ConfigurationError(
                f"Expected a weight of at least 0 before '*' in {name!r}, got {found[1]!r}. Write "
                "0.3*bm25, for example."
            )
    return weight, _without_brackets(name, part)


def _without_brackets(name: str, part: str) -> str:
    if part.startswith("("):
        if not part.endswith(")"):
            raise ConfigurationError(
                f"Expected a closing bracket in {name!r}, got {part!r}. Close it."
            )
        part = part[1:-1]
    if not part:
        raise ConfigurationError(
            f"Expected the name of a retriever in {name!r}, got an empty one. Write one there, "
            "such as bm25 or faiss:FOLDER."
        )
    return part


def _rerank_parts(name: str, rest: str) -> tuple[str, str]:
    """Return folder (with options) and inner name: the first colon before a known name."""
    for i, character in enumerate(rest):
        inner = rest[i + 1 :]
        if character == ":" and (inner.startswith("(") or is_retriever_name(inner)):
            if not i:
                break
            return rest[:i], _without_brackets(name, inner)
    raise ConfigurationError(
        f"Expected 'rerank:FOLDER:RETRIEVER' with the folder of a cross-encoder and a known "
        f"retriever, got {name!r}. Write rerank:models/ms-marco-MiniLM-L12-v2:bm25, for example."
    )


def _rerank(rest: str, choice: CorpusChoice) -> Retriever:
    text, inner = _rerank_parts(f"rerank:{rest}", rest)
    folder, options = split_options(f"rerank:{rest}", text, _OPTIONS)
    depth = options.pop("depth", DEPTH)
    scorer = _cross_encoder(folder, tuple(sorted(options.items())), file_key(Path(folder)))
    return RerankingRetriever(get_retriever(inner, choice), scorer, depth=depth)


@functools.lru_cache(maxsize=4)
def _cross_encoder(
    folder: str, options: tuple[tuple[str, str | int], ...], files: FileKey
) -> CrossEncoder:
    return CrossEncoder(folder, **dict(options))  # type: ignore[arg-type]


_SCHEMES = {"rrf": "hybrid", "minmax": "hybrid-minmax", "zscore": "hybrid-zscore"}
_HYBRIDS = tuple(_SCHEMES.values())

for _method in METHODS:
    register_composite_scheme(_SCHEMES[_method], functools.partial(_hybrid, _method))
register_composite_scheme("rerank", _rerank)
