"""Remembered values: bounded, computed once, the first of two at once counts."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.retrieval.dense.memo import Memo


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=20), st.integers(1, 5))
def test_values_are_right_and_bounded(calls, capacity):
    memo, computed = Memo(capacity), []

    def squares(keys):
        assert len(set(keys)) == len(keys)
        computed.extend(keys)
        return [key**2 for key in keys]

    for keys in calls:
        before = len(computed)
        assert memo.get(keys, squares) == [key**2 for key in keys]
        assert set(computed[before:]) <= set(keys)
        assert len(memo) <= capacity


def test_the_key_that_was_longest_unused_goes_first():
    memo, computed = Memo(2), []

    def compute(keys):
        computed.append(keys)
        return keys

    for keys in (["a", "b"], ["a"], ["c"], ["a"], ["b"]):
        memo.get(keys, compute)
    assert computed == [["a", "b"], ["c"], ["b"]]


def test_the_first_of_two_values_counts():
    memo, inside, go_on = Memo(8), threading.Event(), threading.Event()

    def slow(keys):
        inside.set()
        assert go_on.wait(10)
        return ["late"]

    results = []
    thread = threading.Thread(target=lambda: results.extend(memo.get(["k"], slow)))
    thread.start()
    assert inside.wait(10)
    assert memo.get(["k"], lambda keys: ["early"]) == ["early"]
    go_on.set()
    thread.join()
    assert results == ["early"]


def test_a_failure_is_not_remembered():
    memo = Memo(8)
    with pytest.raises(ZeroDivisionError):
        memo.get([0], lambda keys: [1 // key for key in keys])
    assert memo.get([0], lambda keys: ["fine"]) == ["fine"]
