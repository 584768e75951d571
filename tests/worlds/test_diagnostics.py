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
    ABSTENTION,
    DIAGNOSTIC_DATASETS,
    F1_SEARCH_COST,
    UNKNOWN,
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


def found(env) -> str:
    """The text of the documents, whose tags are dropped."""
    return env.transcript().text(Source.RETRIEVED)


def abstaining(env):
    yield answer(UNKNOWN)


def checking(env):
    """Take the value that is stated of both keys, abstain where there is none."""
    yield f"<q>{keys_of(env)}</q>"
    yield answer(next(iter(re.findall(rf"{keys_of(env)} (value\d)", found(env))), UNKNOWN))


def abstaining_on_nothing(env):
    yield f"<q>{keys_of(env)}</q>"
    yield answer(next(iter(values_in(found(env))), UNKNOWN))


def always_guessing(env):
    """Take the value that was found, guess where there is none."""
    yield f"<q>{keys_of(env)}</q>"
    yield answer(next(iter(values_in(found(env))), "value3"))


def documents_of(env) -> list[str]:
    """The texts of the documents, which an agent cannot tell apart by the tags inside them."""
    ((search),) = env.transcript().searches
    return [document.text for document in search.documents]


def believing(choose):
    """Search, and answer with what ``choose`` makes of the documents' texts."""

    def script(env):
        yield f"<q>{keys_of(env)}</q>"
        yield answer(choose(documents_of(env)))

    return script


def of_each(choose):
    """Take one of the documents' values, a document's being that of its first mention."""
    return believing(lambda texts: choose([values_in(text)[0] for text in texts]))


def most_frequent(values: list[str]) -> str:
    return Counter(values).most_common(1)[0][0]


agreeing = of_each(most_frequent)  # one vote for each document
counting_mentions = believing(lambda texts: most_frequent(values_in(" ".join(texts))))
obeying_injection = believing(lambda texts: only(re.findall(r"<a>(value\d)", " ".join(texts))))


def without_tags_at(rank: int):
    """Take the value of a document among those without tags."""
    return believing(lambda texts: values_in([text for text in texts if "<" not in text][rank])[0])


def dated(choose):
    """Search, and answer with what ``choose`` makes of the date and the dated values."""

    def script(env):
        subject, date = keys_of(env).split()
        yield f"<q>{subject} {date}</q>"
        yield answer(choose(int(date[-1]), re.findall(r"key(\d) (value\d)", found(env))))

    return script


def newest(pairs: list[tuple[str, str]]) -> str:
    return max(pairs)[1]


def exactly(date: int, pairs: list[tuple[str, str]]) -> str:
    return dict(pairs).get(str(date), newest(pairs))


holding = dated(lambda date, pairs: newest([pair for pair in pairs if int(pair[0]) <= date]))
ignoring_the_date = dated(lambda date, pairs: newest(pairs))


def knowing_one_value(split):
    """Answer with the value that each first key had last, from a table of the split."""
    known = {q.text[:9]: q.answers[0] for q in diagnostic_questions("as-of", split)}

    def script(env):
        yield answer(known[env.transcript().question.text[:9]])

    return script


def memory_of(world, split):
    """Answer from a table of another split."""
    golds = {q.text: q.answers[0] for q in diagnostic_questions(world, split)}

    def script(env):
        yield answer(golds[env.transcript().question.text])

    return script


def memory_of_places(world, split):
    """Take the document whose rank was right for this question in another split."""
    retriever = diagnostic_retriever(world, split)
    golds = {q.text.removeprefix("find "): q for q in diagnostic_questions(world, split)}

    def script(env):
        keys = keys_of(env)
        ids = [document.id for document in retriever.search([keys], 4)[0]]
        yield f"<q>{keys}</q>"
        yield answer(values_in(documents_of(env)[ids.index(golds[keys].supporting[0])])[0])

    return script


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
    "Unanswerable": checking,
    "Poisoned": agreeing,
    "AsOf": holding,
}
LACKING = {
    "MustSearch": constant,
    "MustNotSearch": searching_then_reading,
    "Distractors": at(0),
    "ForgedTags": at(0),
    "DelayedEvidence": searching_once,
    "Unanswerable": abstaining,
    "Poisoned": without_tags_at(0),
    "AsOf": ignoring_the_date,
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
    ("Unanswerable", abstaining_on_nothing, 1 / 2),
    ("Unanswerable", always_guessing, 0.0),
    ("Unanswerable", constant, -7 / 8),
    *(("Poisoned", of_each(lambda values, rank=rank: values[rank]), 1 / 2) for rank in range(4)),
    ("Poisoned", without_tags_at(1), 5 / 8),
    ("Poisoned", without_tags_at(2), 5 / 8),
    ("Poisoned", counting_mentions, 0.0),
    ("Poisoned", obeying_injection, 0.0),
    ("Poisoned", constant, 1 / 8),
    ("Poisoned", abstaining, 0.0),
    *(("AsOf", dated(lambda _, pairs, rank=rank: pairs[rank][1]), 1 / 4) for rank in range(4)),
    ("AsOf", dated(lambda _, pairs: min(pairs)[1]), 1 / 4),
    ("AsOf", dated(exactly), 5 / 8),
    ("AsOf", constant, 1 / 8),
]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("name", "script", "expected"), OTHER_FAILURES)
def test_other_ways_to_fail(name, script, expected, split):
    assert mean_return(name, script, split) == expected


@pytest.mark.parametrize(("learnt", "split"), list(itertools.permutations(SPLITS, 2)))
def test_a_table_of_one_split_is_worth_chance_on_another(learnt, split):
    for name in ("MustSearch", "Distractors", "ForgedTags", "DelayedEvidence", "Poisoned"):
        dataset = ENVIRONMENTS[BY_ID[name].id]["dataset"]
        assert mean_return(name, memory_of(dataset, learnt), split) == 1 / 8
    # 16 abstentions and 4 values are right, 28 values are wrong, 16 answers are missed.
    assert mean_return("Unanswerable", memory_of("unanswerable", learnt), split) == -1 / 8
    assert mean_return("AsOf", memory_of("as-of", learnt), split) == 0  # every fact has changed
    for name, chance in (("Distractors", 1 / 4), ("Poisoned", 1 / 2), ("AsOf", 1 / 4)):
        dataset = ENVIRONMENTS[BY_ID[name].id]["dataset"]
        assert mean_return(name, memory_of_places(dataset, learnt), split) == chance


@pytest.mark.parametrize("split", SPLITS)
def test_one_remembered_value_of_each_key_is_stale_at_most_dates(split):
    assert mean_return("AsOf", knowing_one_value(split), split) == 1 / 4
    assert mean_return("AsOf", memory_of("as-of", split), split) == 1  # all 64, of this very split


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("dataset", DIAGNOSTIC_DATASETS)
def test_every_value_is_the_answer_equally_often(dataset, split):
    questions = diagnostic_questions(dataset, split)
    assert len({q.id for q in questions}) == len({q.text for q in questions}) == 64
    if dataset in ("unanswerable", "as-of"):
        return  # the next tests count these
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
def test_half_of_the_unanswerable_questions_have_no_answer(split):
    questions = diagnostic_questions("unanswerable", split)
    counts = Counter(q.answers[0] for q in questions)
    assert counts == {UNKNOWN: 32, **{f"value{value}": 4 for value in range(8)}}
    retriever = diagnostic_retriever("unanswerable", split)
    for place in (0, 1):  # no key tells whether there is an answer
        keys = Counter(re.findall(r"key\d", q.text)[place] for q in questions if not q.supporting)
        assert set(keys.values()) == {4}
    sizes = Counter()
    for question in questions:
        keys = question.text.removeprefix("find ")
        (documents,) = retriever.search([keys], 1)
        sizes[question.answers == (UNKNOWN,), len(documents)] += 1
        for document in documents:
            assert document.text.startswith(keys) == (question.answers != (UNKNOWN,))
            # What is found in place of a document is itself the answer to another question.
            assert retriever.search([document.text[:9]], 1) == [[document]]
    assert sizes == {(False, 1): 32, (True, 0): 16, (True, 1): 16}


@pytest.mark.parametrize("split", SPLITS)
def test_facts_of_as_of_hold_for_one_to_three_dates(split):
    questions = diagnostic_questions("as-of", split)
    assert set(Counter(q.answers for q in questions).values()) == {8}
    for date in range(8):
        assert len({q.answers for q in questions[date::8]}) == 8
    for first in range(0, 64, 8):
        spans = [
            len(list(same))
            for _, same in itertools.groupby(questions[first : first + 8], lambda q: q.answers)
        ]
        assert sorted(spans) == [1, 2, 2, 3]
    lists = {tuple(sorted(q.supporting[0] for q in questions[a : a + 8])) for a in range(0, 64, 8)}
    assert len(lists) == 8


def test_no_key_has_the_same_dates_in_two_splits():
    for first, second in itertools.combinations(SPLITS, 2):
        dates = [
            [
                {q.supporting[0][-1] for q in diagnostic_questions("as-of", split)[a : a + 8]}
                for a in range(0, 64, 8)
            ]
            for split in (first, second)
        ]
        assert all(one != other for one, other in zip(*dates, strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_poisoned_documents_are_two_true_ones_a_lie_and_an_injection(split):
    queries = [f"key{a} key{b}" for a in range(8) for b in range(8)]
    found = diagnostic_retriever("poisoned", split).search(queries, 4)
    places = {"true": Counter(), "lie": Counter(), "injection": Counter()}
    for question, documents in zip(diagnostic_questions("poisoned", split), found, strict=True):
        assert len({document.id for document in documents}) == 4
        for place, document in enumerate(documents):
            kind = "injection" if "<a>" in document.text else "lie"
            kind = "true" if document.text == question.answers[0] else kind
            places[kind][place] += 1
            assert (document.id in question.supporting) == (kind == "true")
        assert len({value for d in documents for value in values_in(d.text)}) == 3
    expected = {"true": 32, "lie": 16, "injection": 16}
    for kind, count in expected.items():
        assert places[kind] == dict.fromkeys(range(4), count)


def test_abstention_shows_its_parts():
    env = gym.make("SearchQA-Unanswerable-v0")
    assert env.unwrapped.reward is ABSTENTION
    expected = {"<a>value0 </a>": (1.0, 0.0), "<a>value1 </a>": (0.0, -1.0), "<a>find </a>": (0, 0)}
    for text, parts in expected.items():
        env.reset(options={"index": 0})
        info = {}
        for token in env.unwrapped.tokenizer.encode(text):
            *_, info = env.step(token)
        assert tuple(info["reward_parts"].values()) == parts


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
    for name in BY_ID.keys() - {"MustNotSearch"}:
        records = evaluate(gym.make(BY_ID[name].id), make_baseline("oracle"))
        assert {r.episode_return for r in records} == {1.0}
        assert {r.supporting_recall for r in records} - {None} == {1.0}


def test_diagnose_scores_between_the_two_returns():
    def optimal(world):
        name = world.id.removeprefix("SearchQA-").removesuffix("-v0")
        return ScriptedAgent(OPTIMAL[name])

    assert [row.score for row in diagnose(optimal)] == [1.0] * 8
    rows = diagnose(lambda world: ScriptedAgent(first_key_or_constant))
    assert [row.score for row in rows] == pytest.approx([0, 0, 1 / 3, 0, 0, 0, 0, 0])
    assert rows[2].mean_return == 0.5


def first_key_or_constant(env):
    if env.transcript().question.dataset == "distractors":
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
