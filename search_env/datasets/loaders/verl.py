"""verl's training files, in which Search-R1 publishes its questions: Parquet or JSON lines.

A row has ``data_source``, ``prompt``, ``reward_model`` (``{ground_truth: {target: [...]}}``) and
``extra_info`` (``{index, split}``). The question itself is ``question`` or ``extra_info.question``:
the prompt is a template around it, and the environment writes its own. Ids are unique in one
source and split, so that ``data_source`` becomes the dataset.
"""

from __future__ import annotations

from typing import Any

from search_env.datasets.loaders import native
from search_env.datasets.rows import Row, question_id
from search_env.types import Question


def parse_question(row: Row) -> Question:
    """Return the question of a row."""
    extra = nested(row, "extra_info")
    holder = row if row.name_of(native.QUESTIONS) else extra
    name = holder.name_of(native.QUESTIONS)
    if not name:
        raise row.fault(
            "question", "a question (also as extra_info.question; prompts are not read)"
        )
    text, split = holder.text(name), extra.optional_text("split")
    return Question(
        id=row.own_id(native.QUESTION_IDS) or _indexed(extra, split) or question_id(text),
        text=text,
        answers=_golds(row),
        dataset=row.optional_text("data_source"),
        split=split,
    )


def nested(row: Row, field: str) -> Row:
    """Return an object of a row as a row; an empty one where it is missing or no object."""
    value: Any = row.data.get(field)
    data = value if isinstance(value, dict) else {}
    return Row(row.path, row.line, data, f"{row.prefix}{field}.", row.where)


def _indexed(extra: Row, split: str) -> str:
    """Return the id of a row that has an index: ``train_0``, as Search-R1 writes them."""
    index = extra.own_id(("index",))
    return f"{split}_{index}" if split and index else index


def _golds(row: Row) -> tuple[str, ...]:
    if row.name_of(native.ANSWERS):
        return native.golds_of(row)
    return nested(row, "reward_model").answers("ground_truth")
