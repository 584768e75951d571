"""Outputs of other systems, read into the measures of this package's own evaluations.

===============  ================================================================================
layout           written by
===============  ================================================================================
``r1-searcher``  RUCAIBox/R1-Searcher@631167c ``evaluation/``: JSON lines with ``pred_ans``, the
                 full text in ``gen_text_store`` and the judge's verdict in ``gpt4o_output``
``flashrag``     RUC-NLPIR/FlashRAG@0fc3712 ``flashrag/dataset/dataset.py``, including its
                 pipelines for Search-R1 and R1-Searcher: ``golden_answers`` and an ``output``
                 with ``pred`` and the retrieved documents
``verl``         the validation dumps of verl, in which Search-R1 trains: JSON lines with
                 ``input``, ``output`` and ``gts``
``episodes``     this package's :class:`~search_env.wrappers.record_episodes.RecordEpisodes`
``run``          this package's ``search-env eval --out``: one object, several agents
``bench``        this package's ``search-env bench``: a header, then one episode per line
===============  ================================================================================

Answers are taken as their system extracted them and scored again: scores in the file are not read.
Measures that a layout does not hold (tokens, supporting passages) are None. A placeholder that a
system writes for an episode without an answer ("I don't know.") counts as an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from search_env.datasets.rows import Row
from search_env.datasets.streaming import file_fault, iter_rows, open_text
from search_env.errors import DataFormatError
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
"""Measures of episodes by agent name; a file without agent names has one, named as the file."""


def read_outputs(
    path: str | Path, format: str | None = None, rule: ScoringRule = R1_SEARCHER
) -> Outputs:
    """Read a file of outputs and score every answer.

    Args:
        path: The file; plain, gzip or xz.
        format: A layout of the table above; None detects it from the first record.
        rule: Rule that compares answers.

    Raises:
        ConfigurationError: No such layout.
        DataNotFoundError: There is no readable file.
        DataFormatError: The layout is unknown, a row is bad, or the file is damaged.
        TokenizerError: The tokenizer that recorded episodes name is missing.
    """
    path = Path(path)
    return FORMATS[format or output_format(path)](path, rule)


def output_format(path: Path) -> str:
    """Return the name of a file's layout.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: The layout is unknown, or the file is damaged.
    """
    if _is_one_object(path):
        return "run"
    names = frozenset(next(iter_rows(path)).data)
    for required, layout in _REQUIRED_FIELDS:
        if required <= names:
            return layout
    raise file_fault(
        path,
        f"outputs in a known layout ({', '.join(FORMATS)})",
        f"a first record with the fields {', '.join(sorted(names))}",
        "Write question, golden_answers and output.pred per line, the layout flashrag.",
    )


_REQUIRED_FIELDS = (
    ({"search_env_results"}, "bench"),
    ({"search_env_episode"}, "episodes"),
    ({"question", "answer", "pred_ans"}, "r1-searcher"),
    ({"golden_answers", "output"}, "flashrag"),
    ({"input", "output", "gts"}, "verl"),
)


class _TaggedText(NamedTuple):
    """Contents of the tags in a full text: the answer, the queries, the blocks of documents."""

    answer: str | None
    queries: tuple[str, ...]
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _ForeignEpisode:
    """Contents of one row, from which :class:`EpisodeMeasures` follow."""

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

    def measure(self, rule: ScoringRule) -> EpisodeMeasures:
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


def _rows(read: Callable[[Row], _ForeignEpisode]) -> Callable[[Path, ScoringRule], Outputs]:
    """Return the reader of a layout with one row per episode."""
    return lambda path, rule: {_stem(path): [read(row).measure(rule) for row in iter_rows(path)]}


def _r1_searcher(record: Row) -> _ForeignEpisode:
    text = _read_tags(record.optional_text("gen_text_store"))
    verdict = record.optional_text("gpt4o_output").strip().lower()
    return _ForeignEpisode(
        id=str(record.data.get("idx", record.line)),
        question=record.text("question"),
        golds=_golds(record, "answer"),
        answer=_answer(record.data.get("pred_ans")),
        stop_reason=record.optional_text("stop_reason_final") or "unknown",
        queries=text.queries,
        searches=len(text.blocks),
        retrieved=text.blocks,
        judged={"true": 1.0, "false": 0.0}.get(verdict),
    )


def _flashrag(record: Row) -> _ForeignEpisode:
    output = record.data.get("output")
    if not isinstance(output, dict):
        raise record.fault("output", "an object with pred")
    metadata = record.data.get("metadata")
    kind = metadata.get("type") if isinstance(metadata, dict) else None
    searches = _flashrag_searches(output)
    return _ForeignEpisode(
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
    """Return query and documents of each search; None where the pipeline did not store them.

    Pipelines with several searches store numbered ``retrieval_results``; those with one search for
    the question store only its documents, as ``retrieval_result``.
    """
    turns = output.get("retrieval_results")
    if isinstance(turns, dict):
        ordered = (turns[key] for key in sorted(turns, key=lambda key: (len(key), key)))
        searches = [turn for turn in ordered if isinstance(turn, dict)]
        return [(str(turn.get("query", "")), _contents(turn.get("docs"))) for turn in searches]
    single = output.get("retrieval_result")
    return [("", _contents(single))] if isinstance(single, list) else None


def _contents(documents: object) -> list[str]:
    rows = documents if isinstance(documents, list) else []
    return [str(row.get("contents", "")) for row in rows if isinstance(row, dict)]


def _verl(record: Row) -> _ForeignEpisode:
    text = _read_tags(record.text("output"))
    question = record.text("input").rsplit("Question:", 1)[-1]
    return _ForeignEpisode(
        id=str(record.line),
        question=question.strip().partition("\n")[0],
        golds=_golds(record, "gts"),
        answer=text.answer,
        stop_reason="answered" if text.answer is not None else "unknown",
        queries=text.queries,
        searches=len(text.blocks),
        retrieved=text.blocks,
    )


def _episodes(path: Path, rule: ScoringRule) -> Outputs:
    episodes = read_episodes(path)
    return {_stem(path): [measure_episode(e.transcript, e.score.total, rule) for e in episodes]}


def _run(path: Path, rule: ScoringRule) -> Outputs:
    with open_text(path) as file:
        try:
            agents = json.load(file)["agents"].items()
            return {name: [_rescored(row, rule) for row in run["episodes"]] for name, run in agents}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(path, "a run that search-env eval --out wrote", error) from error


def _bench(path: Path, rule: ScoringRule) -> Outputs:
    header, *rows = iter_rows(path)
    try:
        name = str(header.data["agent"]["name"])
        return {name: [_rescored(row.data, rule) for row in rows]}
    except (KeyError, TypeError) as error:
        raise _unreadable(path, "results that search-env bench wrote", error) from error


def _unreadable(path: Path, expected: str, error: Exception) -> DataFormatError:
    advice = "Run the command again if the file is of an older version."
    return file_fault(path, expected, f"{type(error).__name__}: {error}", advice)


def _rescored(row: Mapping[str, Any], rule: ScoringRule) -> EpisodeMeasures:
    """Return measures that were written as JSON, with the answer compared again."""
    episode = EpisodeMeasures.from_json(row)
    scores: dict[str, Any] = {**answer_measures(episode.answer, episode.golds, rule)}
    return replace(episode, **scores)


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


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _answer(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _golds(record: Row, name: str) -> tuple[str, ...]:
    """Return gold answers from a string, a list of strings, or a list under ``target``."""
    value = record.data.get(name)
    if isinstance(value, dict):
        value = value.get("target")
    golds = [value] if isinstance(value, str) else value
    if not isinstance(golds, list) or not golds or not all(isinstance(g, str) for g in golds):
        raise record.fault(name, "a gold answer or a list of them")
    return tuple(dict.fromkeys(golds))


def _read_tags(text: str) -> _TaggedText:
    """Parse a text by the protocol whose tags occur in it most often."""
    best = max(_PROTOCOLS, key=lambda protocol: sum(text.count(t) for t in protocol.tag_texts))
    answers = re.findall(_between(best.pair(TagRole.ANSWER)), text, re.DOTALL)
    blocks = list(re.finditer(_between(best.pair(TagRole.DOCUMENTS)), text, re.DOTALL))
    queries, end = [], 0
    for block in blocks:
        query = _between(best.pair(TagRole.TOOL))
        matches = re.findall(query, text[end : block.start()], re.DOTALL)
        queries.append(" ".join(matches[-1].split()) if matches else "")
        end = block.end()
    answer = answers[-1] if answers else None
    return _TaggedText(answer, tuple(queries), tuple(block[1] for block in blocks))


_PROTOCOLS = (R1_SEARCHER_PROTOCOL, SEARCH_R1_PROTOCOL)


def _between(pair: TagPair) -> str:
    """Return the pattern of the text between two tags, starting at the last opening tag."""
    start, end = re.escape(pair.open), re.escape(pair.close)
    return f"{start}((?:(?!{start}).)*?){end}"


def _is_one_object(path: Path) -> bool:
    """Return whether a file is one JSON object on several lines, as ``eval --out`` writes."""
    with open_text(path) as file:
        return file.readline().strip() == "{"
