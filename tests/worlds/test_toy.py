"""The toy's options: other values, a common answer, documents in a code."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from search_env.agents.baselines.scripted import make_baseline
from search_env.errors import ConfigurationError
from search_env.evaluation.evaluate import evaluate
from search_env.types import SPLITS
from search_env.worlds.toy import ToyOptions, toy_pairs, toy_questions, toy_retriever


def values(split: str, options: ToyOptions) -> list[str]:
    return [value for _, value in toy_pairs(split, options)]


def test_the_plain_toy_is_what_it_was():
    assert [q.id for q in toy_questions("train")][:2] == ["toy-train-00", "toy-train-01"]
    assert toy_pairs("train")[:3] == [
        ("key0 key0", "value6"),
        ("key0 key1", "value4"),
        ("key0 key2", "value0"),
    ]
    assert toy_pairs("test", ToyOptions(encoded=True)) == toy_pairs("test")


def test_seeds_and_splits_draw_other_values():
    tables = [values(split, ToyOptions(seed)) for split in SPLITS for seed in range(40)]
    same = np.mean([[np.mean(np.equal(a, b)) for b in tables] for a in tables])
    assert 0.12 < same < 0.15  # 1/8, and 1 in 120 is a table itself


def test_a_common_answer_is_worth_its_share():
    shares = []
    for seed in range(100):
        for split in SPLITS:
            options = ToyOptions(seed, common_answer=0.4)
            shares.append(np.mean(np.equal(values(split, options), "value0")))
            plain = values(split, ToyOptions(seed))
            drawn = zip(values(split, options), plain, strict=True)
            assert all(got in ("value0", was) for got, was in drawn)
    expected = 0.4 + 0.6 / 8
    assert abs(np.mean(shares) - expected) < 4 * np.sqrt(0.25 / 64 / 300)
    assert set(values("test", ToyOptions(common_answer=1))) == {"value0"}


def test_documents_are_in_one_code():
    code: dict[str, set[str]] = {}
    for split in SPLITS:
        for seed in range(3):
            options = ToyOptions(seed, encoded=True)
            retriever = toy_retriever(split, options)
            for query, value in toy_pairs(split, options):
                (document,) = retriever.search([query], k=1)[0]
                code.setdefault(value, set()).add(document.text)
    assert len(code) == 8
    assert all(len(keys) == 1 for keys in code.values())
    assert set().union(*code.values()) == {f"key{n}" for n in range(8)}


@pytest.mark.parametrize("split", SPLITS)
def test_the_oracle_is_right_with_every_option(split):
    options = {"seed": 5, "common_answer": 0.3, "encoded": True}
    env = gym.make("SearchQA-Toy-v0", split=split, dataset_options=options).unwrapped
    with_search = list(evaluate(env, make_baseline("oracle"), range(64)))
    guesses = list(evaluate(env, make_baseline("closed-book"), range(64)))
    assert all(episode.f1 == 1 for episode in with_search)
    assert all(episode.searches == 1 for episode in with_search)
    assert not any(episode.searches for episode in guesses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sed": 1}, "Did you mean 'seed'"),
        ({"seed": -1}, "Expected seed to be an integer of at least 0, got -1"),
        ({"seed": 1.5}, "Expected seed"),
        ({"common_answer": 1.5}, "Expected common_answer to be a share of 0 to 1, got 1.5"),
        ({"common_answer": "0.4"}, "Expected common_answer"),
        ({"common_answer": True}, "Expected common_answer"),
        ({"common_answer": float("nan")}, "Expected common_answer"),
        ({"encoded": 1}, "Expected encoded to be True or False, got 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        gym.make("SearchQA-Toy-v0", dataset_options=options)
