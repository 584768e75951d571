"""What papers and repositories report on the same sets; never in one table with our own scores.

Metric, retriever, corpus, number of questions and turns differ from row to row, so rows may not be
compared with each other either, unless setting and metric are the same. One question of Bamboogle
is 0.8 points.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """One reported score.

    Attributes:
        system: Its name and size.
        metric: As it is called there.
        setting: Corpus, retriever, subset.
        musique: On MuSiQue, None where it is not reported.
        bamboogle: On Bamboogle, None where it is not reported.
        source: Where it is reported.
    """

    system: str
    metric: str
    setting: str
    musique: float | None
    bamboogle: float | None
    source: str


_WIKI = "wiki-18, e5, whole sets"
_R1 = "KILT 2019, BGE, 500 questions (Bamboogle: all)"
_S = "arXiv 2503.09516, main table"
_R = "arXiv 2503.05592, table 2"

PUBLISHED = (
    Published("R1-Searcher, Qwen2.5-7B", "cover EM", _R1, 0.282, 0.528, _R),
    Published("R1-Searcher, Qwen2.5-7B", "judge", _R1, 0.314, 0.544, _R),
    Published("R1-Searcher, Llama-3.1-8B", "cover EM", _R1, 0.254, 0.504, _R),
    Published("R1-Searcher, Llama-3.1-8B", "judge", _R1, 0.282, 0.544, _R),
    Published("ReARTeR, GPT-4o-mini", "cover EM", _R1, 0.296, 0.496, _R),
    Published("naive generation, GPT-4o-mini", "cover EM", _R1, 0.134, 0.240, _R),
    Published("R1-Searcher++, Qwen2.5-7B", "F1", _R1, 0.338, 0.608, "arXiv 2505.17005"),
    Published("Search-R1 PPO, Qwen2.5-7B base", "EM", _WIKI, 0.196, 0.432, _S),
    Published("Search-R1 PPO, Qwen2.5-7B instruct", "EM", _WIKI, 0.146, 0.368, _S),
    Published("Search-R1 GRPO, Qwen2.5-7B base", "EM", _WIKI, 0.125, 0.360, _S),
    Published("Search-R1 GRPO, Qwen2.5-7B instruct", "EM", _WIKI, 0.162, 0.400, _S),
    Published("Search-R1 GRPO, Qwen2.5-3B instruct", "EM", _WIKI, 0.124, 0.232, _S),
    Published("RAG, Qwen2.5-7B", "EM", _WIKI, 0.058, 0.208, _S),
    Published("no retrieval, Qwen2.5-7B", "EM", _WIKI, 0.031, 0.120, _S),
    Published("SkyRL recipe, 3 turns, Qwen2.5-3B", "EM", _WIKI, 0.179, 0.448, "SkyRL docs"),
    Published("StepSearch, Qwen2.5-7B base", "EM", _WIKI, 0.216, 0.467, "its README"),
    Published("Tree-GRPO, Qwen2.5-14B", "EM", _WIKI, 0.259, 0.544, "its README"),
)
"""A choice; systems whose harness is known to be wrong are left out."""
