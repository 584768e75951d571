"""The world's contract: reproducible bytes, disjoint splits, any size, any article alone."""

from __future__ import annotations

import copy
import hashlib
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.errors import ConfigurationError
from search_env.types import Document
from search_env.worlds.encyclopaedia import World, rng
from search_env.worlds.encyclopaedia import syllables as names
from search_env.worlds.encyclopaedia.schema import KINDS, TITLE_ADJECTIVES, TITLE_NOUNS, kind_counts
from tests.work import count_calls

# Changes of these worlds invalidate comparisons: they need a new version of the package.
GOLDEN = "29a1afcbd00857de5fa7fbaa3d159c844a7b0fc7565bb8e825480ad9a350d16f"

SPLITS = ("train", "validation", "test")


def test_a_small_world_has_the_same_bytes_everywhere():
    world = World(articles=150, seed=7, split="validation")
    lines = [f"{d.id}|{d.title}|{d.text}" for d in world.documents()]
    lines += [repr(question) for question in world.questions(120, seed=1)]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == GOLDEN


def test_mix_is_splitmix64():
    # The first three outputs of the reference generator from seed 1234567.
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(rng.mix(state))
        state += 0x9E3779B97F4A7C15
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.integers(1, 2**32 - 1))
def test_arrays_and_integers_draw_the_same(values, n):
    bits = rng.mix(np.array(values, dtype=np.uint64))
    assert bits.tolist() == [rng.mix(value) for value in values]
    assert rng.below(bits, n).tolist() == [rng.below(rng.mix(v), n) for v in values]
    assert all(0 <= drawn < n for drawn in rng.below(bits, n).tolist())


def test_draws_are_fair_and_shuffles_keep_the_items():
    draws = rng.Draws(rng.key("fair"))
    counts = np.bincount([draws.below(6) for _ in range(12_000)], minlength=6)
    assert (abs(counts - 2000) < 5 * np.sqrt(2000)).all()
    assert sorted(draws.shuffled(range(20))) == list(range(20))
    nearly = draws.jittered(range(20))
    assert sorted(nearly) == list(range(20))
    assert max(abs(place - item) for place, item in enumerate(nearly)) <= 2


def test_words_are_all_different_across_styles_and_splits():
    seen = set()
    for split in SPLITS:
        for style in names._ENDINGS:
            words = {names.word(style, c) for c in names.codes(style, 3, split, 3000).tolist()}
            assert len(words) == 3000
            assert seen.isdisjoint(words)
            seen |= words


def test_a_style_has_words_for_the_largest_world():
    counts = kind_counts(1_000_000)
    counts["person"] = -(-counts["person"] // 3)  # three people share a surname
    for style in {kind.style for kind in KINDS.values()}:
        needed = sum(counts[name] for name, kind in KINDS.items() if kind.style == style)
        assert needed <= names.capacity(style)


def alternatives(*parts: str) -> str:
    return "(?:" + "|".join(sorted(parts, key=len, reverse=True)) + ")"


INVENTED = re.compile(
    r"\b(?=[A-Z])(?i:"
    + alternatives(*names._ONSETS)
    + alternatives(*names._FIRST_VOWELS)
    + alternatives(*names._MEDIALS)
    + alternatives(*names._SECOND_VOWELS)
    + alternatives(*(ending for endings in names._ENDINGS.values() for ending in endings))
    + r")\b"
)


def invented_words(documents: list[Document]) -> set[str]:
    """Every word built like a name that is not an English word of the articles."""
    text = " ".join(f"{d.title} {d.text}" for d in documents)
    english = {word.capitalize() for word in re.findall(r"\b[a-z]+\b", text)}
    return set(INVENTED.findall(text)) - english - {*TITLE_NOUNS, *TITLE_ADJECTIVES}


def test_splits_share_no_title_and_no_name_whatever_the_seeds():
    arguments = ((0, "train"), (1, "validation"), (0, "test"))
    worlds = [list(World(800, seed, split).documents()) for seed, split in arguments]
    titles = [{d.title for d in documents} for documents in worlds]
    words = [invented_words(documents) for documents in worlds]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert titles[a].isdisjoint(titles[b])
        assert words[a].isdisjoint(words[b])
    for documents, invented in zip(worlds, words, strict=True):
        assert len(invented) > 600
        assert all(INVENTED.search(d.title) for d in documents)


def test_other_seeds_are_other_worlds():
    titles = [{d.title for d in World(300, seed).documents()} for seed in range(3)]
    for other in titles[1:]:
        assert len(titles[0] & other) < 3


@given(st.integers(100, 5000), st.integers(0, 2**63 - 1), st.sampled_from(SPLITS), st.data())
@settings(max_examples=25)
def test_any_article_stands_alone(articles, seed, split, data):
    world = World(articles, seed, split)
    index = data.draw(st.integers(0, articles - 1))
    document = world.document(index)
    assert document.id == f"world-{articles}-{seed}-{split}-{index:06d}"
    assert World(articles, seed, split).document(index) == document
    assert 30 <= len(document.text.split()) <= 130
    assert len(world) == articles


@pytest.mark.parametrize("articles", [100, 101, 357, 4000])
def test_ids_and_titles_are_unique(articles):
    documents = list(World(articles, seed=5).documents())
    assert len(documents) == articles
    assert len({d.id for d in documents}) == articles
    assert len({d.title for d in documents}) == articles
    assert len({d.text for d in documents}) == articles


def test_every_kind_has_its_share():
    counts = kind_counts(100_000)
    assert sum(counts.values()) == 100_000
    assert 0.28 < counts["person"] / 100_000 < 0.35
    assert min(kind_counts(100).values()) >= 2


def test_worlds_can_be_copied_and_pickled():
    world = World(100, seed=2)
    before = world.questions(5)
    for other in (copy.deepcopy(world), pickle.loads(pickle.dumps(world))):
        assert list(other.documents()) == list(world.documents())
        assert other.questions(5) == before


def test_the_default_world_is_ready_in_a_moment():
    made = []

    def make():
        world = World(1000, seed=11)
        made.append((len(list(world.documents())), len(world.questions(1000))))

    assert count_calls(make) < 3_000_000  # 0.3 s on an idle core
    assert made == [(1000, 1000)]


def test_an_article_of_a_huge_world_comes_at_once():
    def make():
        world = World(1_000_000, seed=1, split="test")
        assert world.document(999_999).id == "world-1000000-1-test-999999"
        assert len(world.questions(8)) == 8

    assert count_calls(make) < 30_000, "far fewer than there are articles"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"articles": 99}, "100 to 1,000,000, got 99"),
        ({"articles": 1_000_001}, "got 1000001"),
        ({"articles": 200.0}, "got 200.0"),
        ({"articles": "many"}, "got 'many'"),
        ({"seed": -1}, "seed to be an integer of 0"),
        ({"seed": None}, "got None"),
        ({"split": "valid"}, "Did you mean 'validation'"),
        ({"split": None}, "got None"),
    ],
)
def test_invalid_worlds_are_rejected(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        World(**arguments)


@pytest.mark.parametrize("index", [-1, 100])
def test_an_article_outside_the_world_is_an_index_error(index):
    with pytest.raises(IndexError, match="0 to 99"):
        World(100).document(index)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1}, "count to be an integer"),
        ({"count": 5, "hops": (5,)}, "hops to be numbers of 1 to 4"),
        ({"count": 5, "hops": 2}, "hops to be numbers of 1 to 4, got 2"),
        ({"count": 5, "hops": ()}, "these numbers of hops"),
        ({"count": 5, "hops": (1,), "kinds": ["bridge"]}, "these numbers of hops"),
        ({"count": 5, "kinds": ["brige"]}, "Did you mean 'bridge'"),
        ({"count": 5, "seed": -3}, "seed to be an integer"),
        ({"count": 900, "hops": (1,), "kinds": ["lookup"]}, r"got \d+ from World\(articles=100"),
    ],
)
def test_invalid_requests_for_questions_are_rejected(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        World(100).questions(**arguments)
