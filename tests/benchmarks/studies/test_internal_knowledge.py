"""The study of internal knowledge: its world, its schooling, its conditions, its report."""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from search_env.agents.reporting.logs import JsonLinesLog
from search_env.agents.rollouts.sample_file import KeepRule
from search_env.benchmarks.studies import internal_knowledge as study
from search_env.benchmarks.studies import internal_knowledge_encyclopaedia as encyclopaedia
from search_env.benchmarks.studies import internal_knowledge_runs as runs
from search_env.benchmarks.studies.internal_knowledge_runs import (
    COLD,
    CONDITIONS,
    NO_COLD_START,
    NO_GROUP,
    NO_MEMORY,
    PLAIN,
    PLUS,
    Scores,
    configure,
    run_one,
)
from search_env.benchmarks.studies.internal_knowledge_world import (
    BARE,
    RELATIONS,
    SCHOOL,
    School,
    SmallHome,
    World,
    make_tokenizer,
    sentence,
)
from search_env.envs.search_qa import SearchQAEnv
from search_env.retrieval.base import retrieve


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return SmallHome(tmp_path_factory.mktemp("study"), 3)


def test_the_world_is_its_seeds_and_halves_are_known_and_tested(home):
    world = home.world
    assert world == World.drawn(3) != World.drawn(4)
    assert len(world.facts) == 48 * 6
    assert len(world.known) == 24
    assert len(world.trained) == len(world.facts) / 2
    names = {*world.entities, *world.values}
    assert len(names) == len(world.entities) + len(world.values)
    train, test = (home.envs(name).questions for name in ("train", "test"))
    assert {q.id for q in train} | {q.id for q in test} == {f"{e}-{r}" for e, r in world.facts}
    assert len(train) == len(test) == 144
    assert sum(q.kind == "known" for q in test) == 72


def test_every_query_finds_its_own_sentence(home):
    env = SearchQAEnv(**home.options("test"))
    questions = [home.world.question(*fact) for fact in home.world.facts]
    queries = [question.hops[0].query for question in questions]
    for question, documents in zip(questions, retrieve(env.retriever, queries, 1), strict=True):
        assert [d.text for d in documents] == [sentence(question)]


def test_every_word_is_one_token(home):
    tokenizer = make_tokenizer(home.world, home.folder / "tokenizer")
    for word in (*home.world.entities, *home.world.values, *RELATIONS, "is", "recall"):
        assert len(tokenizer.encode(f" {word}")) == 1


def test_the_schooling_recalls_no_fact_that_is_tested_or_unknown(home):
    tokenizer = make_tokenizer(home.world, home.folder / "tokenizer")
    seen = {"reading": set(), "recall": set(), "search": 0, "broken": 0}
    for example in School(home.world, tokenizer, 0).examples(3000):
        text = tokenizer.decode(example.tokens)
        learnt = tokenizer.decode(example.tokens[example.weights > 0])
        if "?" not in text:
            seen["reading"] |= {tuple(line.split()[:2]) for line in text.splitlines()}
        elif "recall" in text or "<document>" in text:
            assert "<document> " not in learnt or text.count("<document>") == 2
            seen["search"] += "<external>" in learnt
        else:
            entity, relation = text.split("?")[0].split()
            value = text.split(" is ")[1].split(".")[0]
            if f" is {value}" in learnt:
                seen["recall"].add((entity, relation))
                assert home.world.facts[entity, relation] == value
        seen["broken"] += "\\boxed" not in text and "?" in text
    known = {(e, r) for e in home.world.known for r in RELATIONS}
    assert seen["reading"] == known
    assert seen["recall"] <= known & home.world.trained
    assert len(seen["recall"]) > 40
    assert seen["search"] > 500
    assert seen["broken"] > 100


def test_conditions_change_what_they_name(home, tmp_path):
    made = {c: configure(home, c, tmp_path, tmp_path / "run").to_json() for c in CONDITIONS}
    for condition, other in made.items():
        changed = {n for n, value in other.items() if value != made[PLUS][n]}
        expected = {
            PLAIN: {"phases", "memorisation"},
            NO_GROUP: {"phases"},
            NO_MEMORY: {"memorisation"},
        }
        assert changed == expected.get(condition, set())
    assert made[PLUS]["memorisation"]["weight"] == 0.1
    assert made[PLUS]["env_options"]["protocol"] == BARE.name


# The report.


def scores(right=1.0, searches=(0.0, 1.0), recalled=(1.0, 0.05), count=200):
    """Scores of known and unknown facts with these shares."""
    known = np.arange(count) % 2 == 0
    place = np.arange(count) // 2

    def of(shares):
        limit = np.where(known, shares[0], shares[1]) * (count // 2)
        return place < limit

    return Scores(of((right, right)), of(searches).astype(int), known | True, of(recalled), known)


def results(folder, seeds=(0, 1, 2), **changes):
    """Results as the claims say, but for the changes by condition."""
    usual = {
        COLD: scores(searches=(0.6, 1.0)),
        PLAIN: scores(searches=(1.0, 1.0)),
        PLUS: scores(recalled=(1.0, 0.3)),
        NO_GROUP: scores(searches=(0.5, 1.0), recalled=(1.0, 0.3)),
        NO_MEMORY: scores(),
        NO_COLD_START: scores(),
    }
    for seed in seeds:
        for condition, made in {**usual, **changes}.items():
            out = folder / f"seed-{seed}" / condition.replace(" ", "-")
            out.mkdir(parents=True)
            both = {name: made.to_json() for name in ("train", "test")}
            record = {"condition": condition, "seed": seed, "seconds": {"train": 60.0}}
            (out / "result.json").write_text(json.dumps({**record, "scores": both}))
            if condition == COLD:
                continue
            log, formed = JsonLinesLog(out / "metrics.jsonl"), 0.9
            formed = 0.5 if condition == NO_COLD_START else 0.9
            log.begin(60, {})
            for step in range(1, 61):
                parts = {"time/step": 1.0, "time/rewrite": 0.1, "time/memory_loss": 0.1}
                log.step(step, {"format/well_formed": formed, **parts}, [])
            log.end(60, "all steps are made")


def test_claims_that_hold_and_the_page(tmp_path):
    results(tmp_path)
    args = argparse.Namespace(
        folder=tmp_path,
        world="small",
        output=tmp_path / "page.md",
        episodes=tmp_path / "e.json.gz",
    )
    study.report(args)
    page = args.output.read_text()
    assert page.count("**Holds**") == 5
    assert "| R1-Searcher++ | 3 | 1.000 ± 0.000 |" in page
    assert "| 20% | 1.0 |" in page
    assert set(json.loads(gzip.decompress(args.episodes.read_bytes()))) == {COLD, *CONDITIONS}


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({PLUS: scores(right=0.9, recalled=(1.0, 0.3))}, {1}),
        ({PLUS: scores(searches=(0.5, 1.0), recalled=(1.0, 0.3))}, {1, 2, 3}),
        ({PLUS: scores(searches=(0.0, 0.5), recalled=(1.0, 0.3))}, {2}),
        ({NO_GROUP: scores(searches=(0.05, 1.0))}, {3}),
        ({NO_MEMORY: scores(recalled=(1.0, 0.3))}, {4}),
        ({COLD: scores(recalled=(1.0, 0.25))}, {4}),
    ],
)
def test_claims_that_fail(tmp_path, changes, failing):
    results(tmp_path, **changes)
    lines = study.outcomes(study.read_results(tmp_path), tmp_path).splitlines()
    assert {n for n, line in enumerate(lines, 1) if "**Fails**" in line} == failing


def test_scores_go_through_json():
    made = scores(0.5)
    again = Scores.from_json(json.loads(json.dumps(made.to_json())))
    for one, other in zip(made, again, strict=True):
        np.testing.assert_array_equal(one, other)


def small_runs(monkeypatch, school):
    """Make schooling, cold start and training short."""
    for name, number in {"examples": 600, "steps": 12}.items():
        monkeypatch.setitem(school, name, number)
    everything = KeepRule(("all",))  # such a base is never right
    monkeypatch.setattr(runs, "KeepRule", lambda *_: everything)
    configured = runs.configure

    def shorter(*arguments):
        config = configured(*arguments)
        algorithm = replace(config.algorithm, prompts=2, group_size=4)
        return replace(config, steps=2, algorithm=algorithm, phase_episodes=1000)

    monkeypatch.setattr(runs, "configure", shorter)


def test_a_small_run_is_made_once(tmp_path, monkeypatch):
    """The real thing in small: base, cold start, training, scores."""
    small_runs(monkeypatch, SCHOOL)
    home = SmallHome(tmp_path / "seed-0", 0)
    home.plan = replace(home.plan, rollouts=1, epochs=1)
    for condition in (COLD, PLUS, NO_COLD_START):
        run_one(home, condition)
    found = study.read_results(tmp_path)
    assert set(found) == {COLD, PLUS, NO_COLD_START}
    assert len(found[PLUS][0]["scores"]["test"]["right"]) == 144
    monkeypatch.setattr(SmallHome, "make_base", None)
    run_one(home, PLUS)  # not again
    assert study.read_results(tmp_path) == found


def test_the_encyclopaedia_is_known_in_part(tmp_path, monkeypatch):
    """Known facts are read, those of the train split recalled; other worlds teach to search."""
    home = encyclopaedia.EncyclopaediaHome(tmp_path / "seed-0", 0)
    train, test = (home.envs(name).questions for name in ("train", "test"))
    known = [{q.id for q in questions if home.is_known(q)} for questions in (train, test)]
    assert min(map(len, known)) > 60
    assert not known[0] & known[1]
    facts, others = home._facts()
    taught = {f.question.id for f in facts if f.taught}
    assert taught == known[0]
    assert not any(f.taught or home.is_known(f.question) for f in others)
    monkeypatch.setitem(encyclopaedia.SCHOOL, "examples", 400)
    answers = {f.question.text: f for f in facts}
    decode, seen = home.tokenizer.decode, 0
    for example in home._schooling():
        text = decode(example.tokens)
        learnt = decode(example.tokens[example.weights > 0])
        fact = answers.get(text.partition("\n")[0])
        if fact is not None and "<internal>" in text:
            stated = f": {fact.question.hops[0].answer}."
            assert (stated in learnt) == fact.taught
            seen += 1
        if "<external>" in learnt:
            assert "<document>" not in learnt
            assert "<document>" in text
    assert seen > 20


def test_the_encyclopaedia_in_small(tmp_path, monkeypatch):
    small_runs(monkeypatch, encyclopaedia.SCHOOL)
    monkeypatch.setattr(encyclopaedia, "QUESTIONS", 8)
    monkeypatch.setattr(encyclopaedia, "_SCHOOL_WORLDS", [20_000])
    home = encyclopaedia.EncyclopaediaHome(tmp_path / "seed-0", 0)
    home.plan = replace(home.plan, rollouts=1, epochs=1)
    run_one(home, PLUS)
    (record,) = study.read_results(tmp_path)[PLUS]
    assert len(record["scores"]["test"]["known"]) == 8
    assert 0 < sum(record["scores"]["test"]["known"]) < 8
