"""The study of dense and hybrid retrieval, on retrievers of a few documents."""

from __future__ import annotations

import pytest

from search_env.benchmarks.studies.dense_retrieval import (
    WEIGHTS,
    Remembered,
    best_weights,
    comparisons,
    macro,
    recall_of,
    recall_table,
    support_recall,
)
from search_env.retrieval.base import FakeRetriever
from search_env.types import Document, Question


def question(text, *supporting):
    return Question(text, text, ("x",), supporting=supporting)


def found(*names):
    return [Document(name, "", "text", 9.0 - i) for i, name in enumerate(names)]


SPARSE = {"q": found("a", "x1", "x2", "x3", "x4", "b"), "r": found("c", "d")}
DENSE = {"q": found("b", "y1", "y2", "y3", "y4", "a"), "r": found("y5", "c")}
QUESTIONS = {"one": [question("q", "a", "b")], "two": [question("r", "c", "d"), question("q", "a")]}


def test_support_recall_by_hand():
    assert support_recall(QUESTIONS["one"][0], found("b", "z")) == 0.5
    recalls = recall_of(FakeRetriever(SPARSE), QUESTIONS)
    assert recalls == {"one": [0.5], "two": [1.0, 1.0]}
    assert macro(recalls) == 0.75


def test_what_is_remembered_is_what_was_found_without_texts():
    inner = FakeRetriever(SPARSE)
    remembered = Remembered(inner, ["q", "r", "q"])
    assert inner.calls == [["q", "r"]]
    assert remembered.search(["r", "q"], 2) == [
        [Document("c", "", "", 9.0), Document("d", "", "", 8.0)],
        [Document("a", "", "", 9.0), Document("x1", "", "", 8.0)],
    ]


def test_weights_are_the_best_of_those_tried():
    method, weight, curves = best_weights(FakeRetriever(SPARSE), FakeRetriever(DENSE), QUESTIONS)
    assert {len(curve) for curve in curves.values()} == {len(WEIGHTS)}
    # Alone, each finds one of a and b; together, both.
    assert curves["minmax"][0] == pytest.approx(0.75)
    assert max(curves[method]) == curves[method][WEIGHTS.index(weight)] == pytest.approx(1.0)
    assert 0 < weight < 1


def test_tables_have_every_retriever_and_dataset():
    recalls = {
        name: recall_of(FakeRetriever(results), QUESTIONS)
        for name, results in (("sparse", SPARSE), ("dense", DENSE))
    }
    head, _, sparse, dense = recall_table(recalls).splitlines()
    assert head == "| retriever | one (1) | two (2) | mean |"
    assert sparse == "| sparse | 0.500 [0.500, 0.500] | 1.000 [1.000, 1.000] | 0.750 |"
    assert dense.endswith("| 0.375 |")
    rows = comparisons(recalls, ["dense"], ["sparse"]).splitlines()
    assert rows[0] == "| gain | one | two |"
    assert rows[2].startswith("| dense over sparse | +0.000 [+0.000, +0.000], p 1 | -0.750 [")
    assert ", p 0.5" in rows[2]
