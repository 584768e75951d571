"""Mixtures of datasets: parts, splits, shares, ids, and their documents."""

from __future__ import annotations

import json
from collections import Counter

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.envs.loading import check_retriever, load_questions
from search_env.envs.mixtures import Part, for_purpose, mix, parts_of
from search_env.errors import ConfigurationError, DataNotFoundError
from search_env.types import Question


def _questions(count: int, dataset: str = "") -> list[Question]:
    return [Question(str(i), f"{dataset} {i}?", ("a",), dataset=dataset) for i in range(count)]


def _file(folder, name: str, splits: dict[str, int]) -> str:
    rows = [
        {"id": f"{split}-{i}", "question": f"{name} {split} {i}?", "answers": ["x"], "split": split}
        for split, count in splits.items()
        for i in range(count)
    ]
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hotpotqa", [Part("hotpotqa")]),
        ("hotpotqa:dev", [Part("hotpotqa", "dev")]),
        ("hotpot + musique", [Part("hotpot"), Part("musique")]),
        ("nq:train+world:test", [Part("nq", "train"), Part("world", "test")]),
        ("3*nq+popqa", [Part("nq", None, 3.0), Part("popqa", None, 1.0)]),
        (".5 * nq:dev + 0.25*toy", [Part("nq", "dev", 0.5), Part("toy", None, 0.25)]),
    ],
)
def test_a_mixture_is_read_as_it_is_written(text, parts):
    assert list(parts_of(text)) == parts
    assert parts_of("+".join(map(str, parts))) == tuple(parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hotpotq", "Did you mean 'hotpotqa'"),
        ("hotpotqa+musiqe", "Did you mean 'musique'"),
        ("hotpotqa:dev+no:dev", "got 'no:dev'"),
        ("hotpotqa+", "both sides of"),
        ("+", "both sides of"),
        ("0*nq+popqa", "a share above 0"),
        ("2*nq", "only in a mixture"),
        ("-1*nq+popqa", "got '-1"),
        ("nq:+popqa", "a split after the colon"),
        ("", "both sides of"),
    ],
)
def test_wrong_mixtures_are_refused(text, message):
    with pytest.raises(ConfigurationError) as caught:
        parts_of(text)
    assert message in str(caught.value)


def test_a_file_with_signs_in_its_name_is_a_file(tmp_path):
    name = _file(tmp_path, "a+b:c.jsonl", {"dev": 2})
    assert parts_of(name) == (Part(name),)
    assert [q.id for q in load_questions(name, "dev", None)] == ["dev-0", "dev-1"]


sizes = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(sizes, st.data())
def test_shares_and_ids(counts, data):
    names = ["nq", "popqa", "musique", "bamboogle"]
    shared = data.draw(st.booleans())
    shares = [data.draw(st.sampled_from([0.5, 1.0, 2.0, 7.0])) if shared else None for _ in counts]
    parts = [Part(name, None, share) for name, share in zip(names, shares, strict=False)]
    given_parts = [(part, _questions(n)) for part, n in zip(parts, counts, strict=True)]
    total = sum(share or 0 for share in shares)
    size = min(n * total / s for n, s in zip(counts, shares, strict=True)) if shared else 0
    if shared and any(int(size * share / total + 1e-9) == 0 for share in shares):
        with pytest.raises(ConfigurationError, match="every part"):
            mix(given_parts)
        return
    mixed = mix(given_parts)
    assert len({question.id for question in mixed}) == len(mixed)
    assert all(question.id.startswith(f"{question.dataset}/") for question in mixed)
    of_set = Counter(question.dataset for question in mixed)
    for part, n in zip(parts, counts, strict=True):
        expected = n if part.share is None else size * part.share / total
        assert expected - 1 < of_set[part.dataset] <= n
        for length in range(1, len(mixed)):  # every prefix has about the shares
            found = sum(question.dataset == part.dataset for question in mixed[:length])
            assert abs(found - length * of_set[part.dataset] / len(mixed)) <= len(parts)


def test_ids_stay_distinct_where_sets_share_them(tmp_path):
    first, second = _file(tmp_path, "a.jsonl", {"train": 3, "dev": 2}), "musique"
    assert {q.id for q in mix([(Part(first), _questions(2)), (Part(second), _questions(1))])} == {
        *("a/0", "a/1", "musique/0")
    }
    mixed = load_questions(f"{first}:train+{first}:dev", None, None)
    assert {q.id.partition("/")[0] for q in mixed} == {"a:train", "a:dev"}
    with pytest.raises(ConfigurationError, match="a:train twice"):
        load_questions(f"{first}:train+{first}:train", None, None)


def test_a_row_that_names_its_set_keeps_it():
    """As in a file that was merged from several sets."""
    mixed = mix([(Part("nq"), _questions(1, "triviaqa")), (Part("popqa"), _questions(1))])
    assert [question.dataset for question in mixed] == ["triviaqa", "popqa"]


def test_each_part_has_its_own_split_for_each_purpose(tmp_path):
    file = _file(tmp_path, "mine.jsonl", {"train": 2, "validation": 1, "test": 1})
    mixture = f"hotpotqa+{file}+2*toy"
    assert for_purpose(mixture, "train", keep=False) == (
        f"1*hotpotqa:train+1*{file}:train+2*toy:train",
        None,
    )
    assert for_purpose(mixture, "evaluation", keep=False)[0] == (
        f"1*hotpotqa:dev+1*{file}:validation+2*toy:validation"
    )
    kept = for_purpose("hotpotqa:train+bamboogle", "test", keep=True)
    assert kept == ("hotpotqa:train+bamboogle:test", None)
    assert for_purpose("hotpotqa:train", "test", keep=False) == ("hotpotqa", "dev")
    with pytest.raises(ConfigurationError, match="a split to train on, got 'bamboogle'"):
        for_purpose("hotpotqa+bamboogle", "train", keep=True)


def test_a_split_is_named_once():
    assert load_questions("toy:test", None, None) == load_questions("toy", "test", None)
    assert load_questions("toy:test", "test", None) == load_questions("toy", "test", None)
    with pytest.raises(ConfigurationError, match="one split of toy, got 'toy:test' and split='tr"):
        load_questions("toy:test", "train", None)
    with pytest.raises(ConfigurationError, match="Did you mean 'test'"):
        load_questions("toy:tst", None, None)


def test_an_environment_of_a_mixture(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "d", "title": "Keys", "text": "The key is red."}\n')
    options = {"dataset": "toy:test+must-search:test", "retriever": "bm25", "corpus": str(corpus)}
    env = gym.make("SearchQA-Toy-v0", tokenizer="byte", max_tokens=512, **options)
    assert {question.dataset for question in env.unwrapped.questions} == {"toy", "must-search"}
    _, info = env.reset(options={"question_id": env.unwrapped.questions[3].id})
    assert info["question_id"] == env.unwrapped.questions[3].id
    again = gym.make(env.spec)  # by its JSON
    assert [q.id for q in again.unwrapped.questions] == [q.id for q in env.unwrapped.questions]
    worlds = load_questions("world+toy", None, {"questions": 50})
    assert Counter(question.dataset for question in worlds) == {"world": 50, "toy": 64}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "bm52"}, ConfigurationError, "Did you mean 'bm25'"),
        ({"name": "cassete:x"}, ConfigurationError, "Did you mean 'cassette:'"),
        ({"name": "cassette:"}, ConfigurationError, "after the colon"),
        ({"name": "cassette:/no/such"}, Exception, "/no/such"),
        ({"name": "lookup", "dataset": "world"}, ConfigurationError, "retriever='lookup'"),
        ({"name": "bm25"}, ConfigurationError, "a corpus for retriever='bm25' on 'toy'"),
        ({"dataset": "world+toy"}, ConfigurationError, "on 'world+toy'"),
        ({"corpus": "/no/such"}, ConfigurationError, "would not search"),
        ({"name": "bm25", "corpus": "/no/such"}, DataNotFoundError, "corpus at /no/such"),
        ({"dataset": "world", "corpus": "/no/such"}, DataNotFoundError, "corpus at /no/such"),
    ],
)
def test_c6_documents_that_would_not_be_searched_are_refused(arguments, error, message):
    choice = {"name": None, "dataset": "toy", "split": None, "options": None, "corpus": None}
    with pytest.raises(error) as caught:
        check_retriever(**{**choice, **arguments})
    assert message in str(caught.value)


def test_c6_a_corpus_is_not_ignored_by_the_toys():
    with pytest.raises(ConfigurationError, match="would not search"):
        gym.make("SearchQA-Toy-v0", corpus="/nope")
