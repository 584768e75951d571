"""Scores against the published vectors, the published outputs and a second implementation."""

import json
import lzma
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import ConfigurationError
from search_env.metrics.answers import (
    HOTPOTQA,
    R1_SEARCHER,
    SQUAD,
    contiguous_cover_exact_match,
    cover_exact_match,
    exact_match,
    normalize_r1_searcher,
    normalize_squad,
    substring_exact_match,
    token_f1,
)
from tests.metrics.slow_scoring import last_answer, slow_contiguous, slow_cover, slow_exact, slow_f1

METRICS = [
    exact_match,
    token_f1,
    cover_exact_match,
    contiguous_cover_exact_match,
    substring_exact_match,
]
RULES = [R1_SEARCHER, SQUAD, HOTPOTQA]

WORDS = st.sampled_from(
    ["yes", "no", "noanswer", "True", "False", "the", "A", "an", "New-York", "U.S.A.", "O’Brien"]
) | st.sampled_from(
    ["1,000", "snake_case", "Paris", "paris", "city", "of", "", "`q`", "É", "art", "smart"]
)
PHRASES = st.lists(WORDS, max_size=5).map(" ".join) | st.text(max_size=12)


@pytest.mark.parametrize(
    ("text", "r1_searcher", "squad"),
    [
        ("U.S.A.", "u s", "usa"),
        ("New-York", "new york", "newyork"),
        ("O'Brien", "o brien", "obrien"),
        ("O’Brien", "o brien", "o’brien"),
        ("snake_case", "snake case", "snakecase"),
        ("1,000", "1 000", "1000"),
        ("The Beatles", "beatles", "beatles"),
        ("True", "yes", "true"),
        ("False", "no", "false"),
        ("TRUE", "true", "true"),
        (" True", "true", "true"),
        ("‘a’ ´an´ `the`", "", "‘ ’ ´ ´"),
        ("  two\t\nspaces  ", "two spaces", "two spaces"),
        ("theatre in Athens", "theatre in athens", "theatre in athens"),
        ("", "", ""),
    ],
)
def test_normalisation(text, r1_searcher, squad):
    assert normalize_r1_searcher(text) == r1_searcher
    assert normalize_squad(text) == squad


@pytest.mark.parametrize(
    ("prediction", "gold", "f1"),
    [
        ("Paris, France", "Paris", 2 / 3),
        ("the city of Paris", "Paris", 0.5),
        ("New York City", "New York", 0.8),
        ("yes it is", "yes", 0.0),
        ("True", "yes", 1.0),
        ("noanswer here", "noanswer", 0.0),
        ("york york", "york york york", 0.8),
        ("", "", 0.0),
        ("Paris", "London", 0.0),
    ],
)
def test_token_f1_by_hand(prediction, gold, f1):
    assert token_f1(prediction, [gold]) == pytest.approx(f1)


def test_the_yes_no_rule_is_hotpotqa_s_and_not_squad_s():
    assert token_f1("yes it is", ["yes"], HOTPOTQA) == 0.0
    assert token_f1("yes it is", ["yes"], SQUAD) == 0.5


@pytest.mark.parametrize(
    ("prediction", "gold", "scattered", "contiguous"),
    [
        ("in New York City", "New York", 1.0, 1.0),
        ("York, in the new world", "New York", 1.0, 0.0),
        ("he is smart", "art", 0.0, 1.0),
        ("new york", "new new york", 1.0, 0.0),
        ("Paris", "The", 0.0, 0.0),
        ("a", "The", 1.0, 1.0),
    ],
)
def test_covering_by_hand(prediction, gold, scattered, contiguous):
    assert cover_exact_match(prediction, [gold]) == scattered
    assert contiguous_cover_exact_match(prediction, [gold]) == contiguous


def test_substring_match_is_under_squads_rule_by_default():
    assert substring_exact_match("the U.S.A. today", ["USA"]) == 1.0
    assert contiguous_cover_exact_match("the U.S.A. today", ["USA"]) == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_best_gold_counts_and_no_answer_scores_zero(metric):
    assert metric("Orioles", ["Pittsburgh Pirates", "Orioles"]) == 1.0
    assert metric(None, ["x"]) == 0.0
    assert isinstance(metric("Orioles", ["Orioles"]), float)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("answers", [[], (), "", "Paris"])
@pytest.mark.parametrize("prediction", [None, "Paris"])
def test_golds_must_be_a_non_empty_list(metric, answers, prediction):
    with pytest.raises(ConfigurationError, match="list of gold answers"):
        metric(prediction, answers)


@given(prediction=PHRASES, golds=st.lists(PHRASES, min_size=1, max_size=3))
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_agrees_with_a_second_implementation(rule, prediction, golds):
    def best(score):
        return max(score(prediction, gold, rule) for gold in golds)

    assert exact_match(prediction, golds, rule) == best(slow_exact)
    assert token_f1(prediction, golds, rule) == pytest.approx(best(slow_f1))
    assert cover_exact_match(prediction, golds, rule) == best(slow_cover)
    assert contiguous_cover_exact_match(prediction, golds, rule) == best(slow_contiguous)


@given(text=PHRASES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_scores_lie_in_the_unit_interval_and_a_gold_matches_itself(rule, text):
    assert exact_match(text, [text], rule) == 1.0
    assert cover_exact_match(text, [text], rule) == 1.0
    assert contiguous_cover_exact_match(text, [text], rule) == 1.0
    f1 = token_f1(text, [text], rule)
    assert f1 == (pytest.approx(1.0) if rule.normalize(text) else 0.0)


@pytest.mark.parametrize(
    ("name", "count", "em", "cover", "f1", "edited"),
    [
        ("bamboogle", 125, 0.456, 0.528, 0.577, [("27 July 1953", "July 27, 1953")]),
        ("2wiki", 500, 0.554, 0.636, 0.637, []),
    ],
)
def test_published_outputs_score_as_published(data_dir, name, count, em, cover, f1, edited):
    file = data_dir / "trajectories" / f"{name}_qwen.jsonl.xz"
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(rows) == count
    scored = [(row["pred_ans"], [row["answer"]]) for row in rows]
    assert round(fmean(exact_match(*pair) for pair in scored), 3) == em
    assert round(fmean(cover_exact_match(*pair) for pair in scored), 3) == cover
    assert round(fmean(token_f1(*pair) for pair in scored), 3) == f1

    # The last answer in the text is the scored prediction, but for one row of the released file.
    written = [last_answer(row["gen_text_store"]) for row in rows]
    differing = [
        (text, prediction)
        for text, (prediction, _) in zip(written, scored, strict=True)
        if text != prediction.strip()
    ]
    assert differing == edited
