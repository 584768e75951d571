"""Known articles: the same in every world, so that a policy can know them from before."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.errors import ConfigurationError
from search_env.types import SPLITS, Question
from search_env.worlds.encyclopaedia import World
from search_env.worlds.encyclopaedia.entity_names import Naming
from search_env.worlds.encyclopaedia.facts import Facts
from search_env.worlds.encyclopaedia.schema import KINDS
from search_env.worlds.encyclopaedia.syllables import word
from tests.worlds.test_encyclopaedia import invented_words

# Changes of the known articles invalidate every policy that was taught them.
GOLDEN = "26f2f08cd73c93b8e496e624198009167ebd09cf520246744605863ac2fd0ee3"


def is_known(question: Question) -> bool:
    return all(name.startswith("world-known-") for name in question.supporting)


def test_known_articles_have_the_same_bytes_everywhere():
    lines = [f"{d.id}|{d.title}|{d.text}" for d in World(150, known=1.0).documents()]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == GOLDEN


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("articles", "seed", "known"), [(600, 5, 0.25), (300, 0, 0.5)])
def test_known_articles_are_the_last_of_every_world(articles, seed, known, split):
    world = World(articles, seed, split, known=known)
    documents = list(world.documents())
    assert len(documents) == len(world) == articles
    assert documents[-150:] == list(World(150, known=1.0).documents())
    assert len({d.id for d in documents}) == len({d.title for d in documents}) == articles
    assert not any(d.id.startswith("world-known-") for d in documents[:-150])


def test_known_and_other_articles_share_no_name():
    for split in SPLITS:
        documents = list(World(900, 3, split, known=1 / 3).documents())
        own, known = invented_words(documents[:600]), invented_words(documents[600:])
        assert own.isdisjoint(known)
        assert len(known) > 200


def test_names_would_meet_if_nothing_kept_them_apart():
    known = Naming(Facts(2000, 0, "known"))
    met = 0
    for seed in range(40):
        facts = Facts(2000, seed, "train")
        free, apart = Naming(facts), Naming(facts, known)
        for style in {kind.style for kind in KINDS.values()} | {"man", "woman"}:
            taken = {word(style, code) for code in known.codes_of(style).tolist()}
            met += len(taken & {word(style, code) for code in free.codes_of(style).tolist()})
            assert taken.isdisjoint(word(style, code) for code in apart.codes_of(style).tolist())
    assert met > 0


@pytest.mark.parametrize("known", [0.0, 0.5])
def test_the_largest_worlds_have_enough_names(known):
    shared = Naming(Facts(int(1_000_000 * known), 0, "known")) if known else None
    naming = Naming(Facts(1_000_000 - int(1_000_000 * known), 0, "train"), shared)
    for style in {kind.style for kind in KINDS.values()}:
        own = naming.codes_of(style)
        assert len(np.unique(own)) == len(own)
        assert shared is None or not np.isin(own, shared.codes_of(style)).any()


def test_a_world_without_known_articles_is_what_it_was():
    documents = list(World(200, 4, "test").documents())
    assert documents == list(World(200, 4, "test", known=0).documents())
    assert documents[0].id == "world-200-4-test-000000"


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([0.2, 0.4, 0.5, 0.8]), st.integers(0, 50), st.sampled_from(SPLITS))
def test_the_same_share_of_questions_is_on_known_articles(known, seed, split):
    questions = World(500, seed, split, known=known).questions(80)
    by_hops = Counter((len(q.hops), is_known(q)) for q in questions)
    assert all(by_hops[hops, True] == 20 * known for hops in (1, 2, 3, 4))
    assert all(by_hops[hops, False] == 20 - 20 * known for hops in (1, 2, 3, 4))
    assert {q.split for q in questions} == {split}
    own = [name for q in questions if not is_known(q) for name in q.supporting]
    assert not any(name.startswith("world-known-") for name in own)


def test_splits_share_the_known_articles_but_no_question_on_them():
    asked = {split: World(400, 9, split, known=1.0).questions(400) for split in SPLITS}
    facts = {s: {frozenset(h.query for h in q.hops) for q in qs} for s, qs in asked.items()}
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert facts[a].isdisjoint(facts[b])
        assert {q.text for q in asked[a]}.isdisjoint(q.text for q in asked[b])
        supporting = [{n for q in asked[s] for n in q.supporting} for s in (a, b)]
        assert len(supporting[0] & supporting[1]) > 100


def test_answers_are_in_the_supporting_articles_of_known_questions():
    world = World(300, known=0.5)
    text = {d.id: f"{d.title} {d.text}" for d in world.documents()}
    questions = [q for q in world.questions(120, kinds=["lookup", "bridge"]) if is_known(q)]
    assert len(questions) == 60
    for question in questions:
        for hop in question.hops:
            assert hop.answer in text[hop.document_id]


def test_a_shorter_list_is_the_start_of_a_longer_one():
    world = World(500, 2, "validation", known=0.4)
    assert world.questions(31) == world.questions(70)[:31]


@pytest.mark.parametrize(
    "known", [-0.1, 1.1, float("nan"), "0.5", None, True, 0.05, 0.95, [0.5]], ids=repr
)
def test_other_shares_are_refused(known):
    with pytest.raises(ConfigurationError, match="Expected known to be a share of 0 to 1"):
        World(1000, known=known)


def test_the_environment_has_the_option():
    options = {"articles": 400, "known": 0.5, "questions": 40}
    rows = [
        gym.make("SearchQA-v0", split=split, dataset_options=options).unwrapped for split in SPLITS
    ]
    for env in rows:
        assert sum(map(is_known, env.questions)) == 20
        found = env.retriever.search([q.hops[0].query for q in env.questions], 3)
        pairs = zip(env.questions, found, strict=True)
        hits = [q.hops[0].document_id in {d.id for d in documents} for q, documents in pairs]
        assert np.mean(hits) > 0.9
    assert rows[0].questions != rows[1].questions
    with pytest.raises(ConfigurationError, match=re.escape("got 0.1. Pass for example known=0.5")):
        gym.make("SearchQA-v0", dataset_options={"articles": 500, "known": 0.1})
