"""Spaces of texts and of policies: membership, seeded samples, equality, JSON."""

from __future__ import annotations

import json
import pickle

import pytest
from gymnasium.spaces import Dict, Text
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import ConfigurationError
from search_env.wrappers.unicode_space import Policies, RandomPolicy, Unicode


@given(st.integers(0, 20), st.integers(0, 20), st.text(max_size=30))
def test_a_text_is_in_the_space_by_its_number_of_characters(least, more, text):
    space = Unicode(least + more, min_length=least)
    assert (text in space) == (least <= len(text) <= least + more)
    assert (text in Unicode(min_length=least)) == (least <= len(text))


@pytest.mark.parametrize("thing", [None, 3, b"bytes", ["text"]])
def test_other_types_are_not_in_the_space(thing):
    assert thing not in Unicode(min_length=0)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.integers(0, 40) | st.none(),
    st.lists(st.text(min_size=1, max_size=4), min_size=1),
)
def test_samples_lie_in_the_space_and_follow_the_seed(seed, least, more, pieces):
    most = None if more is None else least + more
    a, b = (Unicode(most, min_length=least, pieces=pieces, seed=seed) for _ in range(2))
    drawn = [a.sample() for _ in range(5)]
    assert all(text in a for text in drawn)
    assert drawn == [b.sample() for _ in range(5)]
    a.seed(seed)
    assert a.sample() == drawn[0]


def test_samples_are_joined_from_the_pieces():
    space = Unicode(pieces=["ab", "c"], seed=0)
    texts = [space.sample() for _ in range(200)]
    assert {c for text in texts for c in text} == set("abc")
    assert all(text.replace("ab", "").replace("c", "") == "" for text in texts)
    assert len(set(texts)) > 50


def test_texts_go_through_json():
    space = Unicode(seed=0)
    batch = ["東京 \U0001f701", "\x00", *(space.sample() for _ in range(5))]
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable(batch)))) == batch


def test_equality_and_repr():
    assert Unicode(9) == Unicode(9, seed=3)
    assert Unicode(9) != Unicode(8)
    assert Unicode(9) != Unicode(9, min_length=0)
    assert Unicode(9) != Unicode(9, pieces=["a"])
    assert Unicode(9) != Text(9)
    assert repr(Unicode(9)) == "Unicode(9, min_length=1)"
    assert eval(repr(Unicode())) == Unicode()
    assert pickle.loads(pickle.dumps(Unicode(9, pieces="ab"))) == Unicode(9, pieces="ab")
    assert not Unicode().is_np_flattenable
    assert Dict({"text": Unicode()}).sample()["text"] in Unicode()


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_length": -1},
        {"max_length": 2, "min_length": 3},
        {"pieces": []},
        {"pieces": ["a", ""]},
    ],
)
def test_spaces_without_texts_are_refused(arguments):
    with pytest.raises(ConfigurationError, match="Expected"):
        Unicode(**arguments)


@pytest.mark.parametrize("space", [Unicode(), Policies(3)])
@pytest.mark.parametrize("masks", [{"mask": 1}, {"probability": 1}])
def test_masks_are_refused(space, masks):
    with pytest.raises(ConfigurationError, match="Sample without one"):
        space.sample(**masks)


@given(st.integers(0, 2**32 - 1), st.integers(1, 500))
def test_random_policies_have_no_state_and_follow_the_seed(seed, size):
    a, b = Policies(size, seed=seed), Policies(size, seed=seed)
    policy = a.sample()
    assert policy == b.sample()
    assert policy != a.sample()
    lengths = range(50)
    first = [policy({"length": n}) for n in lengths]
    assert first == [pickle.loads(pickle.dumps(policy))({"length": n}) for n in lengths]
    assert set(first) <= set(range(size))


def test_a_random_policy_ends_one_step_in_four():
    policy = RandomPolicy(0, 1_000_000, end_ids=(3, 5))
    ids = [policy({"length": n}) for n in range(2_000)]
    assert set(ids) >= {3, 5}
    assert 400 < sum(i in (3, 5) for i in ids) < 600  # 500 +- 5 standard deviations


def test_spaces_of_policies_compare():
    assert Policies(3, end_ids=[1]) == Policies(3, end_ids=(1,), seed=4)
    assert Policies(3) != Policies(4)
    assert Policies(3) != Policies(3, end_ids=[0])
    assert Policies(3) != Unicode()
    assert repr(Policies(3, end_ids=[1])) == "Policies(3, end_ids=(1,))"
    assert not Policies(3).is_np_flattenable
    assert print in Policies(3)
