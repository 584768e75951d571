"""The dense retrievers that published systems were evaluated with, as settings of protocols.

Their indexes are the user's to bring: 64.6 GB of vectors for wiki-18, 119 GB for KILT. What an
index folder's card says is compared with the setting, and only an index that agrees is scored under
the published id. The encoder's weights are known by its vectors' dimension alone: nobody publishes
checksums of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from search_env.benchmarks.harness.errors import DigestMismatchError


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseSetting:
    """A published dense retriever: encoder, corpus and exact search by inner product.

    Attributes:
        name: The part of an id, such as ``e5-wiki18``.
        model: The encoder's name on the hub.
        corpus: What was indexed, in words.
        dimension: Numbers in a vector.
        pooling: How token vectors become one.
        query_prefix: Text before every query.
        passages: How many there are; None where no source says it exactly.
    """

    name: str
    model: str
    corpus: str
    dimension: int
    pooling: str
    query_prefix: str
    passages: int | None = None

    @property
    def remedy(self) -> str:
        """Return how to bring it, as the end of an error."""
        return (
            f"Pass --retriever faiss:FOLDER with an exact index of {self.corpus} by {self.model}, "
            "or the address of a server that holds one."
        )

    def check(self, card: Mapping[str, Any], where: str) -> None:
        """Raise unless an index's card agrees with the setting.

        Args:
            card: ``format.json`` of an index that ``search-env index --dense`` or ``--faiss`` made.
            where: The index, for the error.

        Raises:
            DigestMismatchError: It is another retriever; names all that differs.
        """
        parameters = card["parameters"]
        facts = {**parameters, **parameters["encoder"], **card["counts"]}
        expected: dict[str, Any] = {
            "pooling": self.pooling,
            "normalize": True,
            "query_prefix": self.query_prefix,
            "metric": "inner_product",
            "dimension": self.dimension,
            "settings": {},  # an exact index has neither lists nor a graph to search in part
        }
        if self.passages is not None:
            expected["passages"] = self.passages
        differences = [
            f"{name} {facts.get(name)!r} for {value!r}"
            for name, value in expected.items()
            if facts.get(name) != value
        ]
        if differences:
            raise DigestMismatchError(
                f"Expected the retriever {self.name} in {where}, got {', '.join(differences)}. "
                f"{self.remedy} Without the published retriever, start from a bm25 id: yours gets "
                "an id of its own."
            )


E5_WIKI18 = DenseSetting(
    name="e5-wiki18",
    model="intfloat/e5-base-v2",
    corpus="wiki-18 (PeterJinGo/wiki-18-corpus)",
    dimension=768,
    pooling="mean",
    query_prefix="query: ",
    passages=21_015_324,
)
"""Search-R1's (``search_r1/search/retrieval_server.py`` of PeterGriffinJin/Search-R1@a14dc3a)."""

BGE_KILT = DenseSetting(
    name="bge-kilt",
    model="BAAI/bge-large-en-v1.5",
    corpus="KILT's Wikipedia of 2019 in chunks of 100 words",
    dimension=1024,
    pooling="cls",
    query_prefix="Represent this sentence for searching relevant passages: ",
)
"""R1-Searcher's for 2Wiki, MuSiQue, Bamboogle (``train/wiki_corpus_load.py`` of
RUCAIBox/R1-Searcher@631167c)."""
BGE_ABSTRACTS = replace(BGE_KILT, name="bge-abstracts2017", corpus="HotpotQA's abstracts of 2017")
"""R1-Searcher's for HotpotQA: its released outputs hold these abstracts, not KILT's chunks."""
