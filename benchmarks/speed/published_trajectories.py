"""The trajectories that R1-Searcher published, taken apart: who wrote what, what was found.

Source: RUCAIBox/R1-Searcher@631167c, files described in the data folder's README. The documents
block has the layout of :data:`search_env.protocols.r1_searcher.R1_SEARCHER`, so an episode that
replays the policy's segments against the recorded documents must give the recorded text back.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from search_env.protocols.r1_searcher import without_quotes
from search_env.types import Document, Question

FILES = {"bamboogle": "bamboogle_qwen.jsonl.xz", "2wikimultihopqa": "2wiki_qwen.jsonl.xz"}

_BLOCK = re.compile(r"\n\n<\|begin_of_documents\|>\n(.*?)<\|end_of_documents\|>\n\n", re.DOTALL)
_QUERY = re.compile(
    r"<\|begin_of_query\|>((?:(?!<\|begin_of_query\|>).)*?)<\|end_of_query\|>", re.S
)


@dataclass(frozen=True, slots=True)
class PublishedTrajectory:
    """One recorded rollout: all after the prompt, the policy's parts of it, queries and results."""

    question: Question
    text: str
    segments: tuple[str, ...]
    queries: tuple[str, ...]
    documents: tuple[tuple[Document, ...], ...]


def read_trajectories(data: Path, dataset: str) -> Iterator[PublishedTrajectory]:
    """Yield the trajectories of one of :data:`FILES` in the data folder, in file order."""
    with lzma.open(data / "trajectories" / FILES[dataset], "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            parts = _BLOCK.split(row["gen_text_store"])
            segments, blocks = parts[::2], parts[1::2]
            yield PublishedTrajectory(
                question=Question(
                    f"{dataset}-{number}", row["question"], (row["answer"],), dataset
                ),
                text=row["gen_text_store"],
                segments=tuple(segments),
                queries=tuple(without_quotes(_QUERY.findall(s)[-1]) for s in segments[:-1]),
                documents=tuple(tuple(_documents(block)) for block in blocks),
            )


def _documents(block: str) -> Iterator[Document]:
    """Cut a block at ``(1)``, ``(2)``, ... at line starts, counting up."""
    start, rank = 0, 1
    while start < len(block):
        opening = f"({rank})"
        if not block.startswith(opening, start):
            raise ValueError(f"Expected {opening} at {start} of a documents block, got {block!r}.")
        following = block.find(f"\n({rank + 1})", start)
        end = following if following >= 0 else len(block) - 1
        title, _, text = block[start + len(opening) : end].partition("   ")
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        yield Document(f"{title}/{digest}", title, text)
        start, rank = end + 1, rank + 1
