"""Outputs of any system, read into the records that our own evaluations are made of.

===============  ================================================================================
layout           what writes it
===============  ================================================================================
``r1-searcher``  RUCAIBox/R1-Searcher@631167c ``evaluation/``: JSON lines with ``pred_ans``, the
                 whole text in ``gen_text_store`` and the judge's verdict in ``gpt4o_output``
``flashrag``     RUC-NLPIR/FlashRAG@0fc3712 ``flashrag/dataset/dataset.py``, its pipelines of
                 Search-R1 and R1-Searcher among them: ``golden_answers`` and an ``output`` with
                 ``pred`` and what was retrieved
``verl``         the validation dumps of verl, which Search-R1 trains in: JSON lines with
                 ``input``, ``output`` and ``gts``
``episodes``     this package's :class:`~search_env.wrappers.record_episodes.RecordEpisodes`
``run``          this package's ``search-env eval --out``: one object, several agents
``bench``        this package's ``search-env bench``: a header, then an episode a line
===============  ================================================================================

Answers are taken as their system extracted them, and scored anew: what a file says of its own
scores is not read. What a layout does not tell (tokens, supporting passages) is None. An answer
that a system made up for an episode without one ("I don't know.") stays an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from search_env.datasets.rows import Row
from search_env.datasets.streaming import file_fault, iter_rows, open_text
from search_env.evaluation.evaluate import (
    EpisodeMeasures,
    answer_measures,
    answer_recall_in,
    measure_episode,
)
from search_env.metrics.answers import R1_SEARCHER, ScoringRule
from search_env.protocols.r1_searcher import R1_SEARCHER as R1_SEARCHER_PROTOCOL
from search_env.protocols.search_r1 import SEARCH_R1 as SEARCH_R1_PROTOCOL
from search_env.recording.files import read_episodes
from search_env.registry import Registry
from search_env.types import TagPair, TagRole

Outputs: TypeAlias = dict[str, list[EpisodeMeasures]]
"""Records by agent; the agent of a file that names none is the file's name."""


def read_outputs(
    path: str | Path, format: str | None = None, rule: ScoringRule = R1_SEARCHER
) -> Outputs:
    """Read a file of outputs and score every answer.

    Args:
        path: The file; plain, gzip or xz.
        format: A layout of the table above; None tells it from the first record.
        rule: How answers are compared.

    Raises:
        ConfigurationError: No such layout.
        DataNotFoundError: There is no readable file.
        DataFormatError: The layout is none of the known ones, a row is bad, or the file is damaged.
        TokenizerError: The tokenizer that recorded episodes name is not there.
    """
    path = Path(path)
    return FORMATS[output_format(path) if format is None else format](path, rule)


def output_format(path: Path) -> str:
    """Return the name of a file's layout.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: It is none of those above, or the file is damaged.
    """
    if _is_one_object(path):
        return "run"
    found = frozenset(next(iter_rows(path)).data)
    for needed, name in _RULES:
        if needed <= found:
            return name
    raise file_fault(
        path,
        f"outputs in a known layout ({', '.join(FORMATS)})",
        f"a first record with the fields {', '.join(sorted(found))}",
        "Write question, golden_answers and output.pred a line, the layout flashrag.",
    )


_RULES = (
    ({"search_env_results"}, "bench"),
    ({"search_env_episode"}, "episodes"),
    ({"question", "answer", "pred_ans"}, "r1-searcher"),
    ({"golden_answers", "output"}, "flashrag"),
    ({"input", "output", "gts"}, "verl"),
)


@dataclass(frozen=True, slots=True)
class _Said:
    """What a text says that a model wrote and an environment wrote into."""

    answer: str | None
    queries: tuple[str, ...]
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """What one row tells; the rest of a record follows from it."""

    id: str
    question: str
    golds: tuple[str, ...]
    answer: str | None
    stop_reason: str
    kind: str = ""
    queries: tuple[str, ...] = ()
    searches: int | None = None
    retrieved: Sequence[str] | None = None
    judged: float | None = None

    def record(self, rule: ScoringRule) -> EpisodeMeasures:
        retrieved = self.retrieved
        return EpisodeMeasures(
            question_id=self.id,
            question=self.question,
            kind=self.kind,
            hops=None,
            answer=self.answer,
            golds=self.golds,
            **answer_measures(self.answer, self.golds, rule),
            episode_return=None,
            searches=self.searches,
            policy_tokens=None,
            stop_reason=self.stop_reason,
            valid=True,
            format_faults=(),
            queries=self.queries,
            document_ids=(),
            supporting_recall=None,
            all_supports=None,
            answer_recall=None if retrieved is None else answer_recall_in(retrieved, self.golds),
            judged=self.judged,
        )


# One reader a layout.


def _rows(read: Callable[[Row], _Found]) -> Callable[[Path, ScoringRule], Outputs]:
    """Return the reader of a layout with one row an episode."""

    def reader(path: Path, rule: ScoringRule) -> Outputs:
        records = [read(record).record(rule) for record in iter_rows(path)]
        return {path.name.split(".")[0]: records}

    return reader


def _r1_searcher(record: Row) -> _Found:
    said = _read_text(record.optional_text("gen_text_store"))
    verdict = record.optional_text("gpt4o_output").strip().lower()
    return _Found(
        id=str(record.data.get("idx", record.line)),
        question=record.text("question"),
        golds=_golds(record, "answer"),
        answer=_answer(record.data.get("pred_ans")),
        stop_reason=record.optional_text("stop_reason_final") or "unknown",
        queries=said.queries,
        searches=len(said.blocks),
        retrieved=said.blocks,
        judged={"true": 1.0, "false": 0.0}.get(verdict),
    )


def _flashrag(record: Row) -> _Found:
    output = record.data.get("output")
    if not isinstance(output, dict):
        raise record.fault("output", "an object with pred")
    metadata = record.data.get("metadata")
    kind = metadata.get("type") if isinstance(metadata, dict) else None
    searches = _flashrag_searches(output)
    return _Found(
        id=str(record.data.get("id", record.line)),
        question=record.text("question"),
        golds=_golds(record, "golden_answers"),
        answer=_answer(output.get("pred")),
        stop_reason=str(output.get("finish_reason") or "unknown"),
        kind=kind if isinstance(kind, str) else "",
        queries=tuple(query for query, _ in searches or ()),
        searches=None if searches is None else len(searches),
        retrieved=None if searches is None else [text for _, texts in searches for text in texts],
    )


def _flashrag_searches(output: Mapping[str, Any]) -> list[tuple[str, list[str]]] | None:
    """Return query and documents of each search; None where the pipeline did not keep them.

    Pipelines that search in turns keep ``retrieval_results``, numbered; those that search once for
    the question keep the documents alone, as ``retrieval_result``.
    """
    turns = output.get("retrieval_results")
    if isinstance(turns, dict):
        ordered = sorted(turns.items(), key=lambda item: (len(item[0]), item[0]))
        return [
            (str(turn.get("query", "")), _contents(turn.get("docs")))
            for _, turn in ordered
            if isinstance(turn, dict)
        ]
    once = output.get("retrieval_result")
    return [("", _contents(once))] if isinstance(once, list) else None


def _contents(documents: object) -> list[str]:
    rows = documents if isinstance(documents, list) else []
    return [str(row.get("contents", "")) for row in rows if isinstance(row, dict)]


def _verl(record: Row) -> _Found:
    said = _read_text(record.text("output"))
    asked = record.text("input").rsplit("Question:", 1)[-1]
    return _Found(
        id=str(record.line),
        question=asked.strip().partition("\n")[0],
        golds=_golds(record, "gts"),
        answer=said.answer,
        stop_reason="answered" if said.answer is not None else "unknown",
        queries=said.queries,
        searches=len(said.blocks),
        retrieved=said.blocks,
    )


def _episodes(path: Path, rule: ScoringRule) -> Outputs:
    records = [
        measure_episode(episode.transcript, episode.score.total, rule)
        for episode in read_episodes(path)
    ]
    return {path.name.split(".")[0]: records}


def _run(path: Path, rule: ScoringRule) -> Outputs:
    with open_text(path) as file:
        try:
            agents = json.load(file)["agents"]
            return {
                name: [_rescored(row, rule) for row in agent["episodes"]]
                for name, agent in agents.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise file_fault(
                path,
                "a run that search-env eval --out has written",
                f"{type(error).__name__}: {error}",
                "Write it anew if it is of an older version.",
            ) from error


def _bench(path: Path, rule: ScoringRule) -> Outputs:
    header, *rows = iter_rows(path)
    try:
        name = str(header.data["agent"]["name"])
        return {name: [_rescored(row.data, rule) for row in rows]}
    except (KeyError, TypeError) as error:
        raise file_fault(
            path,
            "results that search-env bench has written",
            f"{type(error).__name__}: {error}",
            "Write them anew if they are of an older version.",
        ) from error


def _rescored(row: Mapping[str, Any], rule: ScoringRule) -> EpisodeMeasures:
    """Return a record that was written as JSON, with its answer compared anew."""
    record = EpisodeMeasures.from_json(row)
    measures: dict[str, Any] = {**answer_measures(record.answer, record.golds, rule)}
    return replace(record, **measures)


FORMATS: Registry[Callable[[Path, ScoringRule], Outputs]] = Registry(
    "format",
    "Leave it out to detect it from the first record.",
    {
        "r1-searcher": _rows(_r1_searcher),
        "flashrag": _rows(_flashrag),
        "verl": _rows(_verl),
        "episodes": _episodes,
        "run": _run,
        "bench": _bench,
    },
)
"""Readers by layout."""


# What the rows share.


def _answer(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _golds(record: Row, name: str) -> tuple[str, ...]:
    """Return gold answers: one string, a list of them, or a list under ``target``."""
    value = record.data.get(name)
    if isinstance(value, dict):
        value = value.get("target")
    golds = [value] if isinstance(value, str) else value
    if not isinstance(golds, list) or not golds or not all(isinstance(g, str) for g in golds):
        raise record.fault(name, "a gold answer or a list of them")
    return tuple(dict.fromkeys(golds))


def _read_text(text: str) -> _Said:
    """Take a text apart by whichever published tags it holds."""
    best = max(_PROTOCOLS, key=lambda protocol: sum(text.count(t) for t in protocol.tag_texts))
    answers = re.findall(_between(best.pair(TagRole.ANSWER)), text, re.DOTALL)
    documents = re.compile(_between(best.pair(TagRole.DOCUMENTS)), re.DOTALL)
    queries, end = [], 0
    for block in documents.finditer(text):
        query = _between(best.pair(TagRole.TOOL))
        asked = re.findall(query, text[end : block.start()], re.DOTALL)
        queries.append(" ".join(asked[-1].split()) if asked else "")
        end = block.end()
    return _Said(answers[-1] if answers else None, tuple(queries), tuple(documents.findall(text)))


_PROTOCOLS = (R1_SEARCHER_PROTOCOL, SEARCH_R1_PROTOCOL)


def _between(pair: TagPair) -> str:
    """Return the pattern of what stands between two tags, the nearest opening counting."""
    start, end = re.escape(pair.open), re.escape(pair.close)
    return f"{start}((?:(?!{start}).)*?){end}"


def _is_one_object(path: Path) -> bool:
    """Return whether a file is one JSON object over several lines, as ``eval --out`` writes."""
    with open_text(path) as file:
        return file.readline().strip() == "{"
