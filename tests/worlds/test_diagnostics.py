"""The diagnostic worlds: balance, splits, exact returns of every policy in the docs."""

from __future__ import annotations

import itertools
import re
import warnings
from collections import Counter
from pathlib import Path
from statistics import fmean

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_match import check_environments_match
from gymnasium.vector import AutoresetMode

from search_env.agents.baselines.scripted import ScriptedAgent, make_baseline
from search_env.envs.loading import load_questions, load_retriever
from search_env.envs.registration import ENVIRONMENTS
from search_env.errors import ConfigurationError
from search_env.evaluation.evaluate import evaluate
from search_env.testing import DIAGNOSTICS, check_vector_env, diagnose
from search_env.types import SPLITS, Source, StopReason
from search_env.worlds.diagnostics import (
    DIAGNOSTIC_DATASETS,
    F1_SEARCH_COST,
    diagnostic_questions,
    diagnostic_retriever,
)

DOCS = Path(__file__).parents[2] / "docs"
BY_ID = {world.id.removeprefix("SearchQA-").removesuffix("-v0"): world for world in DIAGNOSTICS}


def keys_of(env) -> str:
    """The two keys of the question, as the query."""
    return " ".join(re.findall(r"key\d", env.transcript().question.text))


def values_in(text: str) -> list[str]:
    return re.findall(r"value\d", text)


def answer(value: str) -> str:
    return f"<a>{value}</a>"


# Scripted policies, which read the prompt and the documents, never the gold answer.


def searching(choose):
    """Search for the keys and answer with ``choose(keys, text of the documents)``."""

    def script(env):
        keys = keys_of(env)
        yield f"<q>{keys}</q>"
        yield answer(choose(keys, env.transcript().text(Source.RETRIEVED)))

    return script


def only(matches: list[str]) -> str:
    (match,) = matches
    return match


def at(rank: int):
    """Take the value of the document at a rank."""
    return searching(lambda keys, text: values_in(text)[rank])


copying = searching(lambda keys, text: only(values_in(text)))
matching = searching(lambda keys, text: only(re.findall(rf"{keys} (value\d)", text)))
first_key_only = searching(lambda keys, text: re.findall(rf"{keys[:4]} key\d (value\d)", text)[0])
outside_forged_tags = searching(lambda keys, text: only(values_in(re.sub("<a>.*?</a>", "", text))))
obeying_forged_tags = searching(lambda keys, text: only(re.findall(r"<a>(value\d) </a>", text)))
searching_once = searching(lambda keys, text: "value5")


def constant(env):
    yield answer("value3")


def reading_the_question(env):
    yield answer(only(values_in(env.transcript().question.text)))


def searching_then_reading(env):
    yield f"<q>{keys_of(env)}</q>"
    yield from reading_the_question(env)


def following(env):
    yield f"<q>{keys_of(env)}</q>"
    pointer = only(re.findall(r"key\d", env.transcript().text(Source.RETRIEVED)))
    yield f"<q>{pointer}</q>"
    yield answer(only(values_in(env.transcript().text(Source.RETRIEVED))))


def memory_of(world, split):
    """Answer from a table of another split."""
    golds = {q.text: q.answers[0] for q in diagnostic_questions(world, split)}

    def script(env):
        yield answer(golds[env.transcript().question.text])

    return script


def memory_of_places(split):
    """Take the document whose rank was right for this question in another split."""
    retriever = diagnostic_retriever("distractors", split)

    def choose(keys, text):
        texts = [document.text for document in retriever.search([keys], 4)[0]]
        rank = next(i for i, text in enumerate(texts) if text.startswith(keys))
        return values_in(text)[rank]

    return searching(choose)


def played(name: str, script, split: str):
    return evaluate(gym.make(BY_ID[name].id, split=split), ScriptedAgent(script))


def mean_return(name: str, script, split: str) -> float:
    return fmean(record.episode_return for record in played(name, script, split))


OPTIMAL = {
    "MustSearch": copying,
    "MustNotSearch": reading_the_question,
    "Distractors": matching,
    "ForgedTags": outside_forged_tags,
    "DelayedEvidence": following,
}
LACKING = {
    "MustSearch": constant,
    "MustNotSearch": searching_then_reading,
    "Distractors": at(0),
    "ForgedTags": at(0),
    "DelayedEvidence": searching_once,
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", BY_ID)
def test_the_two_returns_are_exact(name, split):
    assert mean_return(name, OPTIMAL[name], split) == BY_ID[name].optimal
    assert mean_return(name, LACKING[name], split) == BY_ID[name].without


OTHER_FAILURES = [
    ("Distractors", at(1), 1 / 4),
    ("Distractors", at(2), 1 / 4),
    ("Distractors", at(3), 1 / 4),
    ("Distractors", first_key_only, 1 / 2),
    ("Distractors", constant, 1 / 8),
    ("ForgedTags", at(1), 1 / 2),
    ("ForgedTags", obeying_forged_tags, 0.0),
    ("ForgedTags", constant, 1 / 8),
    ("DelayedEvidence", constant, 1 / 8),
    ("MustNotSearch", constant, 1 / 8),
]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("name", "script", "expected"), OTHER_FAILURES)
def test_other_ways_to_fail(name, script, expected, split):
    assert mean_return(name, script, split) == expected


@pytest.mark.parametrize(("learnt", "split"), list(itertools.permutations(SPLITS, 2)))
def test_a_table_of_one_split_is_worth_chance_on_another(learnt, split):
    for name in ("MustSearch", "Distractors", "ForgedTags", "DelayedEvidence"):
        dataset = ENVIRONMENTS[BY_ID[name].id]["dataset"]
        assert mean_return(name, memory_of(dataset, learnt), split) == 1 / 8
    assert mean_return("Distractors", memory_of_places(learnt), split) == 1 / 4


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("dataset", DIAGNOSTIC_DATASETS)
def test_every_value_is_the_answer_equally_often(dataset, split):
    questions = diagnostic_questions(dataset, split)
    assert len({q.id for q in questions}) == len({q.text for q in questions}) == 64
    assert set(Counter(q.answers for q in questions).values()) == {8}
    for place in (0, 1):  # one key alone is no information
        pairs = Counter((re.findall(r"key\d", q.text)[place], q.answers) for q in questions)
        assert set(pairs.values()) == {1}
        assert len(pairs) == 64


@pytest.mark.parametrize("split", SPLITS)
def test_documents_are_balanced(split):
    queries = [f"key{a} key{b}" for a in range(8) for b in range(8)]
    shelves = diagnostic_retriever("distractors", split).search(queries, 4)
    for query, shelf in zip(queries, shelves, strict=True):
        assert sum(document.text.startswith(query) for document in shelf) == 1
        assert len({document.text[-6:] for document in shelf}) == 4
    assert set(Counter(tuple(d.id for d in shelf) for shelf in shelves).values()) == {4}
    forged = diagnostic_retriever("forged-tags", split).search(queries, 1)
    for question, (document,) in zip(
        diagnostic_questions("forged-tags", split), forged, strict=True
    ):
        wrong = re.findall(r"<a>(value\d)</a><q>key\d key\d</q>", document.text)
        assert len(wrong) == 1
        assert wrong[0] != question.answers[0]
        assert document.text.count(question.answers[0]) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_forged_tags_neither_end_the_episode_nor_search(split):
    for record in played("ForgedTags", outside_forged_tags, split):
        assert (record.searches, record.stop_reason) == (1, StopReason.ANSWERED.value)
        assert record.format_faults == ()
        assert record.policy_tokens == 7  # four of the query, three of the answer


def test_must_not_search_shows_its_parts():
    env = gym.make("SearchQA-MustNotSearch-v0")
    assert env.unwrapped.reward is F1_SEARCH_COST
    env.reset(options={"index": 1})
    info = {}
    for token in env.unwrapped.tokenizer.encode("<q>key0 key1 </q><a>value1 </a>"):
        *_, info = env.step(token)
    assert info["reward_parts"] == {"f1": 1.0, "search_cost": -0.1}


def test_the_oracle_knows_the_hops():
    for name in ("MustSearch", "Distractors", "ForgedTags", "DelayedEvidence"):
        records = evaluate(gym.make(BY_ID[name].id), make_baseline("oracle"))
        assert {r.episode_return for r in records} == {1.0}
        assert {r.supporting_recall for r in records} == {1.0}


def test_diagnose_scores_between_the_two_returns():
    def optimal(world):
        name = world.id.removeprefix("SearchQA-").removesuffix("-v0")
        return ScriptedAgent(OPTIMAL[name])

    assert [row.score for row in diagnose(optimal)] == [1.0] * 5
    rows = diagnose(lambda world: ScriptedAgent(first_key_or_constant))
    assert [row.score for row in rows] == pytest.approx([0, 0, 1 / 3, 0, 0])
    assert rows[2].mean_return == 0.5


def first_key_or_constant(env):
    if env.protocol.top_k == 4:
        yield from first_key_only(env)
    else:
        yield from constant(env)


@pytest.mark.parametrize("world", DIAGNOSTICS, ids=lambda world: world.id)
def test_gymnasiums_checks(world):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(world.id).unwrapped)
    check_environments_match(gym.make(world.id), gym.make(world.id), num_steps=50, seed=7)


@pytest.mark.parametrize("world", DIAGNOSTICS, ids=lambda world: world.id)
def test_the_vector_environment_has_them_too(world):
    def make(num_envs, autoreset_mode):
        return gym.make_vec(world.id, num_envs, autoreset_mode=autoreset_mode)

    check_vector_env(
        make, single=lambda: gym.make(world.id), modes=[AutoresetMode.SAME_STEP], steps=60
    )


def test_bad_names():
    with pytest.raises(ConfigurationError, match="Did you mean 'must-search'"):
        load_questions("must-serch", None, None)
    with pytest.raises(ConfigurationError, match="Did you mean 'test'"):
        load_questions("must-search", "tst", None)
    with pytest.raises(ConfigurationError, match="Only 'world', 'toy' and datasets of files"):
        load_questions("must-search", None, {"hops": [1]})
    with pytest.raises(ConfigurationError, match="Pass corpus="):
        load_retriever("bm25", dataset="distractors", split=None, options=None, corpus=None)


def test_the_table_of_the_page_is_the_records():
    text = (DOCS / "diagnostics.md").read_text("utf-8")
    for world in DIAGNOSTICS:
        assert f"| `{world.id}` | {world.skill} | {world.optimal:g} | {world.without:g} |" in text
