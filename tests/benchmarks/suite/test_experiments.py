"""Worlds, bases, and the returns of chance and best, played by scripts."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from search_env.benchmarks.suite import worlds
from search_env.benchmarks.suite.base import Habits, script
from search_env.benchmarks.suite.experiments import EXPERIMENTS
from search_env.benchmarks.suite.task import TRAIN, open_task

PERFECT = Habits(search=1, search_known=0, go_on=1, repeat=0, read=1)


def mean_return(task, write):
    """Return the mean return over every question of the training world of what is written."""
    env = gym.make("SearchQA-v0", **task.arguments(TRAIN))
    world, total = task.world(TRAIN), 0.0
    for index, case in enumerate(world.cases):
        env.reset(seed=0, options={"index": index})
        for action in env.unwrapped.tokenizer.encode(write(case, world)):
            *_, terminated, truncated, _ = env.step(int(action))
        assert (terminated, truncated) == (True, False)
        total += task.experiment.reward(env.unwrapped.transcript()).total
    return total / len(world.cases)


def ask(*queries):
    return "".join(f"<q>{query} </q>" for query in queries)


def last_value(text):
    return [word for word in text.split() if word.startswith("value")][-1]


def keys_of(case):
    return " ".join(word for word in case.text.split()[1:4])


def guess(case, world):
    return "<a>value0 </a>"


def search_always(case, world):
    return f"{ask(keys_of(case))}<a>{case.answer} </a>"


def one_search(case, world):
    found = world.documents[keys_of(case)][0]
    answer = found if found.startswith("value") else "value0"
    return f"{ask(keys_of(case))}<a>{answer} </a>"


def one_search_too_many(case, world):
    return f"{ask(*case.queries, case.queries[-1])}<a>{case.answer} </a>"


def first_of_two(case, world):
    return f"{ask(case.queries[0])}<a>{world.documents[case.queries[0]][0]} value0 </a>"


def first_document(case, world):
    value = last_value(world.documents[case.queries[0]][0])
    return f"{ask(case.queries[0])}<a>{value} </a>"


WITHOUT_THE_SKILL = {
    "search": guess,
    "rare-search": guess,
    "restraint": search_always,
    "credit": one_search,
    "stopping": one_search_too_many,
    "delayed-evidence": guess,
    "several-queries": first_of_two,
    "distractors": first_document,
    "long-documents": guess,
    "few-updates": guess,
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_best_return_is_reached_and_chance_is_what_the_skill_adds_to(name):
    random = np.random.default_rng(0)
    with open_task(EXPERIMENTS[name], 7) as task:
        best = mean_return(task, lambda case, world: script(case, world, PERFECT, random))
        assert best == pytest.approx(task.experiment.best)
        chance = mean_return(task, WITHOUT_THE_SKILL[name])
        assert chance == pytest.approx(task.experiment.chance, abs=0.03)


def test_guesses_are_worth_an_eighth_exactly():
    with open_task(EXPERIMENTS["search"], 3) as task:
        assert mean_return(task, guess) == 1 / 8


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_worlds_depend_on_seed_and_kind_alone(name):
    make = EXPERIMENTS[name].world
    one, same, other = (make(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert len({case.text for case in one.cases}) == len(one.cases) == 512
    for case in one.cases:
        assert all(query in one.documents for query in case.queries)


def test_chains_take_one_to_four_searches_equally_often():
    world = worlds.chains(np.random.default_rng(0))
    lengths = [len(case.queries) for case in world.cases]
    assert [lengths.count(n) for n in range(6)] == [0, 128, 128, 128, 128, 0]
    for case in world.cases:
        *path, last = case.queries
        found = [world.documents[query][0] for query in case.queries]
        assert found == [*case.queries[1:], case.answer]
        assert len(set(path) | {last}) == len(case.queries)


def test_a_distractor_names_other_keys_and_each_rank_is_right_equally_often():
    world = worlds.distractors(np.random.default_rng(0))
    ranks = [
        [text.rsplit(maxsplit=1)[0] for text in world.documents[query]].index(query)
        for query in worlds.TRIPLES
    ]
    assert min(np.bincount(ranks)) > 90


@pytest.mark.parametrize(
    ("habits", "expected"),
    [
        (Habits(search=0, read=1), 0.0),
        (Habits(search=1, go_on=0, read=1), 1.0),
        (Habits(search=1, go_on=1, repeat=0, read=1), 2.5),
        (Habits(search=1, go_on=1, repeat=1, read=1), 4.5),
    ],
)
def test_habits_are_what_a_base_does(habits, expected):
    random = np.random.default_rng(0)
    world = worlds.chains(random)
    texts = [script(case, world, habits, random) for case in world.cases]
    assert np.mean([text.count("<q>") for text in texts]) == expected


def test_a_base_reads_as_often_as_it_says():
    random = np.random.default_rng(0)
    world = worlds.lookup(random)
    habits = Habits(search=1, read=0.5)
    right = [f"<a>{c.answer} </a>" in script(c, world, habits, random) for c in world.cases]
    assert np.mean(right) == pytest.approx(0.5 + 0.5 / 8, abs=0.07)


def test_demonstrations_are_the_episodes_of_the_base():
    with open_task(EXPERIMENTS["credit"], 0) as task:
        shown = task.demonstrations
        assert shown.tokens.shape == shown.written.shape == (2048, 60)
        assert not shown.written[shown.tokens == 0].any()
        searches = (shown.tokens == 2)[shown.written[:, :]].sum() / len(shown.tokens)
        assert 1.0 < searches < 2.0  # of 2.5 that are needed
