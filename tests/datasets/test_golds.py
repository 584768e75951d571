"""Gold answers in every form in which files hold them, printed ones included."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from search_env.datasets.golds import gold_texts, text_of

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text.strip()[:1] not in tuple("[{(an")
)


def numpy_array(golds):
    return np.array(golds, dtype=object)


@given(golds=st.lists(texts, min_size=1, max_size=4, unique=True))
@example(golds=["it's", 'say "a"', "a\\b", "x', 'y"])
@example(golds=["[1]", "{'target': 1}", "a\nb"])
def test_a8_printed_golds_are_read_as_they_were(golds):
    printed = [
        json.dumps(golds),
        json.dumps({"target": golds}),
        repr(golds),
        repr({"target": golds, "style": "rule"}),
        str(numpy_array(golds)),
        repr({"target": numpy_array(golds)}),
        repr({"ground_truth": {"target": numpy_array(golds)}}),
    ]
    wrapped = [[text] for text in printed[:1]] + [{"target": printed[2]}, {"answer": printed[4]}]
    for value in [golds, tuple(golds), {"target": golds}, {"answers": golds}, *printed, *wrapped]:
        assert gold_texts(value) == golds, value


@given(text=texts)
def test_a8_a_text_that_was_not_printed_stays_as_it_is(text):
    assert gold_texts(text) == [text]


@pytest.mark.parametrize(
    "text",
    ["[", "[sic]", "{a}", "an (old) one)", "['a' 'b'", "[['a'", "(a)", "[" * 9999 + "]"],
)
def test_a8_brackets_alone_make_no_list(text):
    assert gold_texts(text) == [text]


@pytest.mark.parametrize(
    ("value", "golds"),
    [
        (1945, ["1945"]),
        ([1945, "1945", 1945.0], ["1945", "1945", "1945"]),
        ([["Ulm"], ["Neu-Ulm", "Ulm"]], ["Ulm", "Neu-Ulm", "Ulm"]),
        ("[1945]", ["1945"]),
        ({"target": "Ulm"}, ["Ulm"]),
    ],
)
def test_a8_numbers_and_nested_lists(value, golds):
    assert gold_texts(value) == golds


@pytest.mark.parametrize(
    "value", [True, {"gold": "a"}, float("nan"), {"target": {}}, "['a' ... 'b']"]
)
def test_a8_other_values_are_of_no_known_form(value):
    assert gold_texts(value) is None


@pytest.mark.parametrize("element", [None, True, float("nan"), {"gold": "a"}])
def test_a8_other_elements_are_left_for_the_caller_to_refuse(element):
    assert gold_texts(["a", element]) == ["a", element]


def nested(levels):
    return [nested(levels - 1)] if levels else "a"


def test_a8_depth_is_bounded():
    assert gold_texts(nested(8)) == ["a"]
    assert gold_texts({"target": json.dumps([{"text": [["a"]]}])}) == ["a"]
    for value in (nested(9), nested(800)):
        (refused,) = gold_texts(value)
        assert not isinstance(refused, str)
    deep = json.dumps({"text": ["a"], "more": json.loads('{"a":' * 300 + "1" + "}" * 300)})
    assert gold_texts([deep]) == ["a"]


@pytest.mark.parametrize("value", [True, None, [], ["a"], {}, float("nan"), float("inf")])
def test_a8_what_is_no_answer(value):
    with pytest.raises(ValueError, match="neither a text nor a number"):
        text_of(value)
