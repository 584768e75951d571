"""Protocol ids: what they fix, what they refuse, and that pins hold."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import search_env.protocols.protocol
from search_env.benchmarks.harness.errors import DigestMismatchError
from search_env.benchmarks.harness.spec import NO_CORPUS, QuestionSet, questions_digest
from search_env.benchmarks.question_sets import registry
from search_env.benchmarks.question_sets.registry import (
    QUESTION_SETS,
    all_benchmarks,
    get_benchmark,
    question_set_of,
    register_question_set,
)
from search_env.envs.config import EnvComponents, EnvConfig
from search_env.errors import ConfigurationError, DataNotFoundError
from search_env.registry import Registry
from search_env.types import Question

WORLD = "world-2hop/r1-searcher/bm25-world1k/v1"


def test_ids_are_unique_and_lead_to_their_set():
    found = [protocol for each in QUESTION_SETS.values() for protocol in each.protocols]
    assert len({protocol.id for protocol in found}) == len(found) == len(all_benchmarks())
    for each in QUESTION_SETS.values():
        for protocol in each.protocols:
            assert question_set_of(protocol.id) is each
            assert get_benchmark(protocol.id) is protocol
        assert set(each.reported) <= {protocol.id for protocol in each.protocols}


def test_a_question_set_of_ones_own_brings_its_protocols(monkeypatch):
    sets = Registry("question set", "", QUESTION_SETS)
    monkeypatch.setattr(registry, "QUESTION_SETS", sets)
    protocol = replace(get_benchmark(WORLD), question_set="mine-dev")
    mine = QuestionSet("mine", (protocol,))
    register_question_set(mine)
    assert get_benchmark(protocol.id) is protocol
    assert question_set_of(protocol.id) is mine
    with pytest.raises(ConfigurationError, match="new question set name, got 'mine'"):
        register_question_set(mine)
    other = replace(mine, groups={"kind": str})
    register_question_set(other, replace=True)
    assert question_set_of(protocol.id) is other
    with pytest.raises(ConfigurationError, match="Did you mean 'musique'"):
        sets["musik"]


def test_ones_own_questions_are_grouped_as_their_set_is():
    own = "musique-c0ffee123456/search-r1/bm25-own/v1@first5"
    assert question_set_of(own) is QUESTION_SETS["musique"]
    with pytest.raises(ConfigurationError, match="List all with"):
        question_set_of("none/of/these/v1")


def test_the_docs_list_every_set_of_questions():
    text = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text("utf-8")
    for name in {protocol.question_set for protocol in all_benchmarks().values()}:
        assert f"`{name}`" in text or re.fullmatch("world-[23]hop", name), name


def test_every_pin_of_the_world_holds():
    for hops in (1, 2, 3, 4):
        protocol = get_benchmark(f"world-{hops}hop/r1-searcher/bm25-world1k/v1")
        components = EnvComponents(EnvConfig(**protocol.environment()))
        protocol.check(components)
        assert "" not in (protocol.questions_digest, protocol.corpus_digest, protocol.rules_digest)
        assert len(components.questions) == 500
        assert {len(question.hops) for question in components.questions} == {hops}


def test_every_pin_of_the_published_sets_holds(data_dir):
    pinned = [p for p in all_benchmarks().values() if "pool81k" in p.id]
    assert len(pinned) == 11
    for protocol in pinned:
        protocol.check(EnvComponents(EnvConfig(**protocol.environment())))


def test_published_settings():
    theirs = get_benchmark("musique-dev/r1-searcher/bm25-pool81k/v1").environment()
    assert (theirs["top_k"], theirs["max_searches"]) == (5, 8)
    limits = search_env.protocols.registry.get_protocol("search-r1")
    other = get_benchmark("musique-dev/search-r1/bm25-pool81k/v1").environment()
    assert (other["top_k"], limits.max_turns, other["max_tokens"]) == (3, 4, limits.max_tokens)


@pytest.mark.parametrize("what", ["questions", "corpus", "rules"])
def test_what_changed_under_an_id_is_an_error(what):
    protocol = replace(get_benchmark(WORLD), **{f"{what}_digest": "0123456789ab"})
    with pytest.raises(DigestMismatchError, match=f"{what} with digest 0123456789ab under {WORLD}"):
        protocol.check(EnvComponents(EnvConfig(**protocol.environment())))


def test_questions_and_answers_are_in_the_digest():
    one = Question("1", "Who?", ("Nero",))
    digests = {
        questions_digest(questions)
        for questions in (
            [one],
            [replace(one, text="Who ?")],
            [replace(one, answers=("Nero", "N"))],
            [replace(one, id="2")],
            [one, one],
        )
    }
    assert len(digests) == 5


def test_ones_own_corpus_and_questions_have_ids_of_their_own(tmp_path):
    corpus, questions = tmp_path / "corpus.jsonl", tmp_path / "questions.jsonl"
    corpus.write_text('{"id": "u", "title": "Ulm", "text": "A city."}\n', "utf-8")
    row = {"id": "1", "question": "What is Ulm?", "golden_answers": ["a city"]}
    questions.write_text(json.dumps(row) + "\n", "utf-8")
    own = get_benchmark("nq-test/search-r1/bm25-own/v1").over_questions(str(questions))
    with pytest.raises(ConfigurationError, match="Pass one as --corpus"):
        own.environment()
    own = own.over_corpus(str(corpus))
    components = EnvComponents(EnvConfig(**own.environment()))
    own.check(components)
    found = own.digests(components)
    assert own.id == f"nq-{found['questions'][:12]}/search-r1/bm25-{found['corpus'][:12]}/v1"
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "u", "title": "Ulm", "text": "A town."}\n', "utf-8")
    changed = replace(own, arguments={**own.arguments, "corpus": str(other)})
    with pytest.raises(DigestMismatchError, match="corpus with digest"):
        changed.check(EnvComponents(EnvConfig(**changed.environment())))


def test_sets_without_evidence_say_so():
    for name in ("nq", "triviaqa", "popqa"):
        for protocol in (p for p in QUESTION_SETS[name].protocols if p.dense is None):
            assert protocol.retrieval == NO_CORPUS
            with pytest.raises(ConfigurationError, match="Pass one as --corpus"):
                protocol.environment()


def test_a_context_longer_than_the_protocols():
    protocol = get_benchmark(WORLD)
    assert protocol.environment(max_tokens=512)["max_tokens"] == 512
    with pytest.raises(ConfigurationError, match="at most 4096 tokens"):
        protocol.environment(max_tokens=5000)


def test_no_such_id_and_no_data(monkeypatch):
    with pytest.raises(ConfigurationError, match=r"Did you mean .*world-2hop"):
        get_benchmark("world-2hop/r1-searcher/bm25-world1k/v2")
    with pytest.raises(ConfigurationError, match=r"begin so: nq-test/search-r1/bm25-own/v1"):
        get_benchmark("nq")
    monkeypatch.delenv("SEARCH_ENV_DATA", raising=False)
    with pytest.raises(DataNotFoundError, match="Set it to the folder"):
        get_benchmark("musique-500/r1-searcher/bm25-pool81k/v1").environment()
