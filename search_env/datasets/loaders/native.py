"""This project's own layout, the one to write new data in, and all files that are close to it.

Questions: ``id``, ``question``, ``answers``, and where known ``dataset``, ``split``, ``kind``,
``supporting`` (ids of passages) and ``decomposition`` (``[{question, answer}]`` as MuSiQue writes
it). Passages: ``title``, ``text`` and where known ``id``; without one the id is
:func:`~search_env.datasets.rows.document_id`, that of a question
:func:`~search_env.datasets.rows.question_id`. Other fields are ignored.

Other files call the fields by the names below, in any case; of several, the first counts.
"""

from __future__ import annotations

from search_env.datasets.loaders.musique import resolve_hops
from search_env.datasets.rows import Row, document_id, question_id
from search_env.types import Document, Question

QUESTION_IDS = (
    *("id", "_id", "qid", "question_id", "query_id", "questionid", "idx", "uid", "example_id"),
)
"""Names of a question's id; ``_id`` is HotpotQA's and BEIR's."""
QUESTIONS = ("question", "query", "question_text", "problem")
"""Names of a question's text."""
ANSWERS = (
    *("answers", "golden_answers", "gold_answers", "answer", "gold_answer", "golden_answer"),
    *("possible_answers", "gold", "golds", "ground_truth", "ground_truths", "target", "targets"),
)
"""Names of the gold answers; ``possible_answers`` is PopQA's."""
ALIASES = ("answer_aliases", "aliases")
"""Names of further golds beside one ``answer``."""

PASSAGE_IDS = (
    *("id", "_id", "docid", "doc_id", "document_id", "pid", "passage_id", "psg_id", "idx", "uid"),
)
"""Names of a passage's id; ``_id`` is BEIR's, ``docid`` Pyserini's, ``pid`` MS MARCO's."""
TITLES = ("title", "wikipedia_title", "page_title")
"""Names of a passage's title."""
TEXTS = (
    *("text", "contents", "content", "passage", "passage_text", "body", "paragraph_text"),
    *("segment", "document", "abstract"),
)
"""Names of a passage's text."""


def parse_documents(row: Row) -> list[Document]:
    """Return the passage of a row."""
    title, text = row.heading(row.name_of(TITLES)), row.body(row.name_of(TEXTS) or "text")
    return [Document(row.own_id(PASSAGE_IDS) or document_id(title, text), title, text)]


def parse_question(row: Row) -> Question:
    """Return the question of a row."""
    steps = [(s.text("question"), s.text("answer")) for s in row.rows("decomposition")]
    text = row.text(row.name_of(QUESTIONS) or "question")
    return Question(
        id=row.own_id(QUESTION_IDS) or question_id(text),
        text=text,
        answers=golds_of(row),
        dataset=row.optional_text("dataset" if "dataset" in row.data else "data_source"),
        split=row.optional_text("split"),
        kind=row.optional_text("kind"),
        supporting=row.texts("supporting"),
        hops=resolve_hops(steps),
    )


def golds_of(row: Row) -> tuple[str, ...]:
    """Return the gold answers of a row, its aliases last; at least one."""
    field = row.name_of(ANSWERS) or "answers"
    aliases = row.name_of(ALIASES) if field.lower() in ("answer", "gold_answer") else ""
    more = row.golds(aliases) if aliases else ()
    return tuple(dict.fromkeys((*row.answers(field), *more)))
