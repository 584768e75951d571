"""Outputs of other systems, read into the measures of this package's own evaluations.

===============  ================================================================================
layout           written by
===============  ================================================================================
``r1-searcher``  RUCAIBox/R1-Searcher@631167c ``evaluation/``: JSON lines with ``pred_ans``, the
                 full text in ``gen_text_store`` and the judge's verdict in ``gpt4o_output``
``flashrag``     RUC-NLPIR/FlashRAG@0fc3712 ``flashrag/dataset/dataset.py``, including its
                 pipelines for Search-R1 and R1-Searcher: ``golden_answers`` and an ``output``
                 with ``pred`` and the retrieved documents, or the whole text as
                 ``final_response``
``verl``         the validation dumps of verl, in which Search-R1 trains: JSON lines with
                 ``input``, ``output`` and ``gts``; searches in tags or as tool calls
``episodes``     this package's :class:`~search_env.wrappers.record_episodes.RecordEpisodes`
``run``          this package's ``search-env eval --out``: one object, several agents
``bench``        this package's ``search-env bench``: a header, then one episode per line
===============  ================================================================================

Answers are taken as their system extracted them and scored again, by the rule that the system
itself publishes its scores with (:data:`RULES`): scores in the file are not read. What a layout or
an episode does not say (tokens, supporting passages, searches of an unknown form) is None, and a
value of a wrong type is an error. A placeholder that a system writes for an episode without an
answer ("I don't know.") counts as an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from search_env.datasets.golds import gold_texts, text_of
from search_env.datasets.rows import Row, whole_text
from search_env.datasets.streaming import file_fault, iter_rows, open_text
from search_env.errors import DataFormatError
from search_env.evaluation.evaluate import (
    EpisodeMeasures,
    answer_measures,
    answer_recall_in,
    measure_episode,
)
from search_env.evaluation.trajectory_text import Search, read_trajectory
from search_env.metrics.answers import HOTPOTQA, R1_SEARCHER, SQUAD, ScoringRule
from search_env.recording.files import read_episodes
from search_env.registry import Registry

Outputs: TypeAlias = dict[str, list[EpisodeMeasures]]
"""Measures of episodes by agent name; a file without agent names has one, named as the file."""


def read_outputs(
    path: str | Path, format: str | None = None, rule: ScoringRule | None = None
) -> Outputs:
    """Read a file of outputs and score every answer.

    Args:
        path: The file; plain, gzip or xz.
        format: A layout of the table above; None detects it from the first record.
        rule: Rule that compares answers; None for that of :func:`published_rule`.

    Raises:
        ConfigurationError: No such layout.
        DataNotFoundError: There is no readable file.
        DataFormatError: The layout is unknown, a row is bad, or the file is damaged.
        TokenizerError: The tokenizer that recorded episodes name is missing.
    """
    path = Path(path)
    layout = format or output_format(path)
    return FORMATS[layout](path, rule or published_rule(path, layout))


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
        f"a first record with the fields {_listed(names)}",
        "Write question, golden_answers and output.pred per line, the layout flashrag.",
    )


_REQUIRED_FIELDS = (
    ({"search_env_results"}, "bench"),
    ({"search_env_episode"}, "episodes"),
    ({"agents"}, "run"),
    ({"question", "answer", "pred_ans"}, "r1-searcher"),
    ({"golden_answers", "output"}, "flashrag"),
    ({"input", "output", "gts"}, "verl"),
)

RULES: Mapping[str, ScoringRule] = {"flashrag": HOTPOTQA, "verl": SQUAD}
"""Rules of layouts, R1-Searcher's for all others.

FlashRAG's ``evaluator/metrics.py`` has SQuAD's words and, in F1, no partial credit for yes and no,
which is the rule of HotpotQA. verl's ``search_r1_like_qa_em`` has SQuAD's exact match.
"""


def published_rule(path: Path, layout: str) -> ScoringRule:
    """Return the rule of a layout; of a run that says by which one it was scored, that one."""
    if layout == "run":
        agents = _read_run(path).get("agents")
        runs = agents.values() if isinstance(agents, dict) else ()
        names = {run.get("rule") for run in runs if isinstance(run, dict)}
        return next((rule for rule in (SQUAD, HOTPOTQA) if names == {rule.name}), R1_SEARCHER)
    return RULES.get(layout, R1_SEARCHER)


def rescored(episode: EpisodeMeasures, rule: ScoringRule) -> EpisodeMeasures:
    """Return measures with the answer compared again."""
    scores: dict[str, Any] = {**answer_measures(episode.answer, episode.golds, rule)}
    return replace(episode, **scores)


@dataclass(frozen=True, slots=True)
class _ForeignEpisode:
    """Contents of one row, from which :class:`EpisodeMeasures` follow; None where unknown."""

    id: str
    question: str
    golds: tuple[str, ...]
    answer: str | None
    stop_reason: str
    kind: str = ""
    searches: Sequence[Search] | None = None
    judged: float | None = None

    def measure(self, rule: ScoringRule) -> EpisodeMeasures:
        searches = self.searches
        texts = [text for _, documents in searches or () for text in documents]
        return EpisodeMeasures(
            question_id=self.id,
            question=self.question,
            kind=self.kind,
            hops=None,
            answer=self.answer,
            golds=self.golds,
            **answer_measures(self.answer, self.golds, rule),
            episode_return=None,
            searches=None if searches is None else len(searches),
            policy_tokens=None,
            stop_reason=self.stop_reason,
            valid=True,
            format_faults=(),
            queries=tuple(query for query, _ in searches or ()),
            document_ids=(),
            supporting_recall=None,
            all_supports=None,
            answer_recall=None if searches is None else answer_recall_in(texts, self.golds),
            judged=self.judged,
        )


def _rows(read: Callable[[Row], _ForeignEpisode]) -> Callable[[Path, ScoringRule], Outputs]:
    """Return the reader of a layout with one row per episode."""
    return lambda path, rule: {_stem(path): [read(row).measure(rule) for row in iter_rows(path)]}


def _r1_searcher(record: Row) -> _ForeignEpisode:
    text = _text(record, "gen_text_store") if record.data.get("gen_text_store") else None
    verdict = record.optional_text("gpt4o_output").strip().lower()
    return _ForeignEpisode(
        id=_id(record, "idx"),
        question=_question(record),
        golds=_golds(record, "answer"),
        answer=_answer(record, "pred_ans"),
        stop_reason=record.optional_text("stop_reason_final") or "unknown",
        searches=None if text is None else read_trajectory(text).searches,
        judged={"true": 1.0, "false": 0.0}.get(verdict),
    )


def _flashrag(record: Row) -> _ForeignEpisode:
    output = record.data.get("output")
    if not isinstance(output, dict):
        raise record.fault("output", "an object with pred")
    inner = Row(record.path, record.line, output, "output.")
    metadata = record.data.get("metadata")
    kind = metadata.get("type") if isinstance(metadata, dict) else None
    reason = output.get("finish_reason") or output.get("stop_reason")
    return _ForeignEpisode(
        id=_id(record, "id"),
        question=_question(record),
        golds=_golds(record, "golden_answers"),
        answer=_answer(inner, "pred"),
        stop_reason=reason if isinstance(reason, str) else "unknown",
        kind=kind if isinstance(kind, str) else "",
        searches=_flashrag_searches(inner),
    )


def _flashrag_searches(output: Row) -> Sequence[Search] | None:
    """Return the searches; None where the pipeline did not store them.

    Pipelines with several searches store numbered ``retrieval_results``, one
    ``retrieval_result_iter_0`` and so on, or the whole text as ``final_response``; those with one
    search for the question store only its documents, as ``retrieval_result``.
    """
    data = output.data
    turns = data.get("retrieval_results")
    if isinstance(turns, dict):
        keys = sorted(turns, key=lambda key: (len(key), key))
        return [_turn(output, f"retrieval_results.{key}", turns[key]) for key in keys]
    if isinstance(turns, list):
        return [_turn(output, f"retrieval_results[{n}]", turn) for n, turn in enumerate(turns)]
    if turns is not None:
        raise output.fault("retrieval_results", "an object or a list of searches")
    if data.get("final_response") is not None:
        return read_trajectory(_text(output, "final_response"), str(data.get("query", ""))).searches
    names = sorted((n for n in data if n.startswith(_ITERATION)), key=lambda n: (len(n), n))
    names = names or [name for name in ("retrieval_result",) if data.get(name) is not None]
    return [Search("", _contents(output, name, data[name])) for name in names] or None


_ITERATION = "retrieval_result_iter_"


def _turn(output: Row, name: str, turn: object) -> Search:
    if isinstance(turn, dict):
        query = turn.get("query", "")
        documents = turn.get("docs", [])
        query = query if isinstance(query, str) else ""
        return Search(query, _contents(output, name, documents))
    return Search("", _contents(output, name, turn))


def _contents(output: Row, name: str, documents: object) -> tuple[str, ...]:
    texts = []
    for document in documents if isinstance(documents, list) else [documents]:
        fields = document if isinstance(document, dict) else {}
        text = fields.get("contents", fields.get("text"))
        if not isinstance(text, str):
            expected = "documents with their contents"
            raise DataFormatError.at(
                output.path, output.line, f"{output.prefix}{name}", expected, document
            )
        title = fields.get("title")
        texts.append(f"{title} {text}" if isinstance(title, str) else text)
    return tuple(texts)


def _verl(record: Row) -> _ForeignEpisode:
    prompt, output = _text(record, "input"), _text(record, "output")
    text = read_trajectory(output, prompt)
    return _ForeignEpisode(
        id=str(record.line),
        question=_question_of_prompt(record, prompt),
        golds=_golds(record, "gts"),
        answer=text.answer,
        stop_reason="answered" if text.answer is not None else "unknown",
        searches=text.searches,
    )


_TURN_END = re.compile(
    r"<\|(?:im_end|eot_id|end|endoftext)\|>|<end_of_turn>|</s>|\[/INST\]"
    r"|\n\s*(?:assistant|model|Assistant:)\s*(?:<think>\s*)?\Z"
)


def _question_of_prompt(record: Row, prompt: str) -> str:
    """Return the question at the end of a prompt, of one line or of several."""
    label = next((label for label in ("Question:", "User:", "user\n") if label in prompt), "")
    question = _TURN_END.split(prompt.rpartition(label)[2] if label else prompt)[0].strip()
    if not question:
        raise record.fault("input", "a prompt with a question")
    return question


def _episodes(path: Path, rule: ScoringRule) -> Outputs:
    episodes = read_episodes(path)
    return {_stem(path): [measure_episode(e.transcript, e.score.total, rule) for e in episodes]}


def _run(path: Path, rule: ScoringRule) -> Outputs:
    agents = _read_run(path).get("agents")
    if not isinstance(agents, dict) or not agents:
        raise _unreadable(path, "a run that search-env eval --out wrote", "no agents")
    outputs = {}
    for name, run in agents.items():
        rows = run.get("episodes") if isinstance(run, dict) else None
        if not isinstance(rows, list):
            raise _unreadable(path, f"a list of episodes of agent {name!r}", repr(run)[:80])
        outputs[name] = [
            _rescored(path, f"agent {name!r}, episode {n}", row, rule) for n, row in enumerate(rows)
        ]
    return outputs


def _read_run(path: Path) -> dict[str, Any]:
    with open_text(path) as file:
        try:
            content = json.load(file)
        except (ValueError, RecursionError) as error:
            expected = "a run that search-env eval --out wrote"
            raise _unreadable(path, expected, f"{type(error).__name__}: {error}") from error
    return content if isinstance(content, dict) else {}


def _bench(path: Path, rule: ScoringRule) -> Outputs:
    header, *rows = iter_rows(path)
    agent = header.data.get("agent")
    if not isinstance(agent, dict) or not isinstance(agent.get("name"), str):
        raise header.fault("agent", "an agent with a name, as search-env bench writes it")
    places = [(f"line {row.line}", row.data) for row in rows]
    return {agent["name"]: [_rescored(path, place, row, rule) for place, row in places]}


def _unreadable(path: Path, expected: str, got: str) -> DataFormatError:
    advice = "Run the command again if the file is of an older version."
    return file_fault(path, expected, got, advice)


def _rescored(path: Path, place: str, row: object, rule: ScoringRule) -> EpisodeMeasures:
    """Return measures that were written as JSON, with the answer compared again."""
    try:
        if not isinstance(row, dict):
            raise TypeError(f"{row!r:.60} where an object belongs")
        return rescored(EpisodeMeasures.from_json(row), rule)
    except (KeyError, TypeError) as error:
        got = f"one without {error}" if isinstance(error, KeyError) else str(error)
        expected = "episodes as search-env bench and eval write them"
        raise _unreadable(path, expected, f"{got} ({place})") from error


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


def _listed(names: Iterable[str]) -> str:
    """Return names for a message, a few of many."""
    ordered = sorted(names)
    rest = f" and {len(ordered) - 12} more" if len(ordered) > 12 else ""
    return (", ".join(name[:40] for name in ordered[:12]) or "none") + rest


def _fault(record: Row, name: str, expected: str) -> DataFormatError:
    """Return the error about a field, with the fields that there are where it is missing."""
    if name not in record.data:
        expected += f" (the record has the fields {_listed(record.data)})"
    return record.fault(name, expected)


def _text(record: Row, name: str) -> str:
    """Return a text, which may be empty: a policy may write nothing."""
    value = record.data.get(name)
    if not isinstance(value, str):
        raise _fault(record, name, "a text")
    return whole_text(value)


def _question(record: Row) -> str:
    if not _text(record, "question").strip():
        raise record.fault("question", "a question")
    return _text(record, "question")


def _id(record: Row, name: str) -> str:
    value = record.data.get(name)
    return str(record.line) if value is None else record.identifier(name)


def _answer(record: Row, name: str) -> str | None:
    """Return an answer, a number as its text; None where the value is null."""
    value = record.data.get(name)
    if value is None and name in record.data:
        return None
    try:
        return whole_text(text_of(value))
    except ValueError:
        raise _fault(record, name, "an answer: a text, a number, or null for none") from None


def _golds(record: Row, name: str) -> tuple[str, ...]:
    """Return gold answers from a text or number, a list, or a dictionary; also printed ones."""
    try:
        golds = gold_texts(record.data.get(name)) or []
    except RecursionError:
        golds = []
    texts = [whole_text(gold) for gold in golds if isinstance(gold, str)]
    if len(texts) < len(golds) or not any(text.strip() for text in texts):
        raise _fault(record, name, "a gold answer or a list of them")
    return tuple(dict.fromkeys(texts))


def _is_one_object(path: Path) -> bool:
    """Return whether a file is one JSON object on several lines, as ``eval --out`` writes."""
    with open_text(path) as file:
        return file.readline(_LONGEST_FIRST_LINE).strip() == "{"


_LONGEST_FIRST_LINE = 1 << 10
