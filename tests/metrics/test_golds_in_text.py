"""Gold answers in a text are marked exactly where answer recall finds them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from search_env.evaluation.evaluate import answer_recall_in
from search_env.metrics.answers import R1_SEARCHER
from search_env.metrics.golds_in_text import gold_spans, marked_parts

PIECES = ["the", "a", "no", "known", "New", "York", "Art", "é", "İ", "ΟΔΟΣ", "C++", "U.S.", "ß"]
pieces = st.lists(st.sampled_from([*PIECES, " ", "-", ", ", "’", "–", "\n"]), max_size=12).map(
    "".join
)


def marks(text, *golds):
    return marked_parts(text, gold_spans(text, golds))[1::2]


@pytest.mark.parametrize(
    ("text", "golds", "expected"),
    [
        ("unknown, no smart art", ["no", "art"], ["art"]),
        ("The New-York times", ["new york"], ["New-York"]),
        ("in the United States", ["The United States"], ["United States"]),
        ("ulm ULM Ulm's", ["Ulm"], ["ulm", "ULM", "Ulm"]),
        ("İzmir and İzmir", ["izmir", "i̇zmir"], ["İzmir", "İzmir"]),
        ("ΟΔΟΣ", ["οδος"], ["ΟΔΟΣ"]),
        ("a b c d", ["b c", "c d"], ["b c d"]),
        ("b b b", ["b b"], ["b b b"]),
        ("yes and no", ["yes", "no"], []),
        ("x\U0001f600 y", ["x\U0001f600"], ["x\U0001f600"]),
        ("", ["a"], []),
        ("the", ["the", "a"], []),
    ],
)
def test_a11_full_words_are_marked(text, golds, expected):
    assert marks(text, *golds) == expected


@given(text=pieces, golds=st.lists(pieces, min_size=1, max_size=3))
@example(text="a–b", golds=["–b"])
@example(text="New the York", golds=["New York"])
def test_a11_marks_and_answer_recall_agree(text, golds):
    spans = gold_spans(text, golds)
    assert bool(spans) == bool(answer_recall_in([text], golds))
    assert "".join(marked_parts(text, spans)) == text
    assert all(end < start for (_, end), (start, _) in pairwise(spans))


@given(text=st.text(), gold=st.text(min_size=1))
def test_a11_any_text(text, gold):
    around = f"{text} {gold} {text}"
    if R1_SEARCHER.normalize(gold) not in {"", *R1_SEARCHER.closed_answers}:
        assert bool(gold_spans(around, [gold])) == bool(answer_recall_in([around], [gold]))
