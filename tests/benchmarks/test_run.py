"""Playing: every kind of player, ablations, samples, going on after a stop."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from search_env.agents.baselines.scripted import make_baseline
from search_env.benchmarks.harness.ablations import (
    ShuffledDocuments,
    ablated_retriever,
)
from search_env.benchmarks.harness.errors import BenchmarkError, ResultsMismatchError
from search_env.benchmarks.players.base import Decoding, TokenAgent
from search_env.benchmarks.players.factory import make_agent
from search_env.benchmarks.players.text import function_agent
from search_env.benchmarks.question_sets.registry import all_benchmarks, get_benchmark
from search_env.benchmarks.reports.tables import evidence_of
from search_env.benchmarks.run import overlap, result_id, run
from search_env.envs.loading import load_questions
from search_env.envs.registration import arguments_of
from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import ConfigurationError, DataError
from search_env.evaluation.causal_evidence import plan_swaps
from search_env.evaluation.evaluate import evaluate, measure_episode
from search_env.metrics.golds_in_text import any_gold_in
from search_env.paths import data_dir
from search_env.protocols.tagged_text import answer_text, query_text
from search_env.recording.files import read_episodes
from search_env.retrieval.base import FakeRetriever
from search_env.types import Document, Question

WORLD = get_benchmark("world-2hop/r1-searcher/bm25-world1k/v1")
GREEDY = Decoding()


def baseline(name="oracle"):
    return TokenAgent(name, make_baseline(name))


def test_the_same_records_as_evaluate(tmp_path):
    found = run(WORLD, baseline(), tmp_path / "r.jsonl", limit=12)
    env = SearchQAEnv(**WORLD.environment())
    assert found.records == evaluate(env, make_baseline("oracle"), range(12))
    assert found.header["protocol"] == WORLD.id + "@first12"
    assert found.header["agent"] == {"name": "oracle", "kind": "scripted"}
    assert {"python", "search-env", "gymnasium"} <= found.header["versions"].keys()


class Dies(Exception):
    """Stops a run."""


def test_a_run_that_was_stopped_scores_every_question_once(tmp_path):
    path, count = tmp_path / "r.jsonl", 0

    def dies(played):
        nonlocal count
        count += 1
        if count == 5:
            raise Dies

    with pytest.raises(Dies):
        run(WORLD, baseline(), path, limit=12, progress=dies)
    begun = []
    found = run(WORLD, baseline(), path, limit=12, begin=lambda *n: begun.append(n))
    assert begun == [(5, 12)]
    assert [p.index for p in found.episodes] == list(range(12))
    assert len(path.read_text("utf-8").splitlines()) == 13
    again = run(WORLD, baseline(), path, limit=12, progress=lambda p: pytest.fail("played again"))
    assert again.episodes == found.episodes


def test_another_agent_cannot_go_on(tmp_path):
    path = tmp_path / "r.jsonl"
    run(WORLD, baseline(), path, limit=2)
    with pytest.raises(ResultsMismatchError, match="results of agent"):
        run(WORLD, baseline("closed-book"), path, limit=2)


def test_episodes_whose_retrieval_failed_are_not_scored(tmp_path, monkeypatch):
    broken = FakeRetriever(error=None)

    def fail(queries, k):
        from search_env.errors import RetrievalError

        raise RetrievalError("the index is gone")

    broken.search = fail
    monkeypatch.setattr("search_env.benchmarks.run.ablated_retriever", lambda *_: broken)
    told = []
    path = tmp_path / "r.jsonl"
    found = run(WORLD, baseline(), path, ablation="no-documents", limit=3, progress=told.append)
    assert found.episodes == ()
    assert [p.record.valid for p in told] == [False] * 3
    monkeypatch.undo()
    assert len(run(WORLD, baseline(), path, ablation="no-documents", limit=3).episodes) == 3


# Ablations.


def test_controls_take_the_evidence_away(tmp_path):
    found = {
        ablation: run(
            WORLD, baseline(), tmp_path / f"{ablation}.jsonl", ablation=ablation, limit=30
        )
        for ablation in (None, "no-documents", "shuffled-documents")
    }
    recall = {
        ablation: sum(record.supporting_recall for record in results.records) / 30
        for ablation, results in found.items()
    }
    assert recall[None] > 0.99
    assert recall["no-documents"] == 0.0
    assert recall["shuffled-documents"] < 0.1
    shuffled = found["shuffled-documents"].records
    assert all(len(ids) for record in shuffled for ids in record.document_ids)
    assert found["no-documents"].header["protocol"] == WORLD.id + "@first30"
    assert found["no-documents"].header["ablation"] == "no-documents"


def test_shuffled_documents_repeat_and_are_never_the_questions_own():
    questions = [Question(str(i), f"Question {i}?", ("x",)) for i in range(2)]
    documents = {q.text: [Document(q.id, q.text, "text")] for q in questions}
    ablation = ShuffledDocuments(FakeRetriever(documents), questions)
    for i, question in enumerate(questions):
        ((found,),) = ablation.search([question.text], 3)
        assert found.id == str(1 - i)
    queries = [f"query {n}" for n in range(40)]
    first = ablation.search(queries, 3)
    assert ablation.search(queries, 3) == first
    assert {found[0].id for found in first} == {"0", "1"}
    same = FakeRetriever()
    assert ablated_retriever(None, same, questions) is same


def test_swapped_documents_tell_reading_from_knowing(tmp_path):
    questions = SearchQAEnv(**WORLD.environment()).questions
    swaps = plan_swaps(questions)
    swapped_ids = [q.id for q in questions[:12] if q.id in swaps]
    shares = {}
    for name in ("oracle-queries", "oracle"):
        plain, swapped = (
            run(WORLD, baseline(name), tmp_path / f"{name}{n}.jsonl", ablation=ablation, limit=12)
            for n, ablation in enumerate((None, "swapped-documents"))
        )
        assert [record.question_id for record in swapped.records] == swapped_ids
        found = evidence_of(plain, swapped, questions)
        assert len(found.outcomes) == len(swapped_ids) == 12 - found.left_out
        shares[name] = found.rests.mean
    assert shares["oracle"] == 0.0
    assert shares["oracle-queries"] > 0.8


def test_swapped_documents_are_the_same_for_every_kind_of_player(tmp_path):
    """A model that plays rows side by side is handed one question at a time."""
    player = make_agent("model:tiny-trained", WORLD, seed=0, num_envs=4, dtype="fp32")
    plain = run(WORLD, player, tmp_path / "plain.jsonl", limit=2)
    file, ablation = tmp_path / "swapped.jsonl", "swapped-documents"
    swapped = run(WORLD, player, file, ablation=ablation, limit=2)
    questions = SearchQAEnv(**WORLD.environment()).questions
    found = evidence_of(plain, swapped, questions)
    for outcome in found.outcomes:
        assert outcome.new == plan_swaps(questions)[outcome.question_id].new
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]))  # a stopped run plays the rest
    assert run(WORLD, player, file, ablation=ablation, limit=2).records == swapped.records


def test_shuffled_documents_of_retrievers_that_know_exact_queries_only():
    """The toy and the diagnostic worlds find nothing for a question as it stands."""
    env = SearchQAEnv(dataset="poisoned", protocol="toy", tokenizer="toy", max_tokens=48, top_k=4)
    ablation = ablated_retriever("shuffled-documents", env.retriever, env.questions)
    for question in env.questions:
        (found,) = ablation.search([question.hops[0].query], 4)
        assert len(found) == 4
        assert not {document.id for document in found} & set(question.supporting)


def test_one_question_has_no_other_to_shuffle_with():
    with pytest.raises(ConfigurationError, match="at least two questions"):
        ShuffledDocuments(FakeRetriever(), [Question("1", "Who?", ("x",))] * 2)


@pytest.mark.parametrize("name", sorted({each.question_set for each in all_benchmarks().values()}))
def test_every_question_set_has_every_control(name):
    protocol = next(each for each in all_benchmarks().values() if each.question_set == name)
    arguments = {**arguments_of(protocol.env_id), **protocol.arguments}
    try:
        dataset = str(arguments["dataset"]).replace("$SEARCH_ENV_DATA", str(data_dir()))
        questions = load_questions(
            dataset, arguments.get("split"), arguments.get("dataset_options")
        )[:100]
    except (ConfigurationError, DataError):
        pytest.skip("its data is not here")
    own = FakeRetriever({q.text: [Document(q.id, "", f"It is {q.answers[0]}.")] for q in questions})
    query, swaps = questions[0].text, plan_swaps(questions)
    assert len(swaps) > 50
    assert ablated_retriever("no-documents", own, questions).search([query], 3) == [[]]
    # As over BM25, which is searched for the questions themselves.
    ((other,),) = ShuffledDocuments(own, questions).search([query], 3)
    assert other.id != questions[0].id
    swapped = ablated_retriever("swapped-documents", own, questions)
    for question in questions:
        if question.id in swaps:
            swapped.swap = swaps[question.id]
            ((document,),) = swapped.search([question.text], 3)
            assert swaps[question.id].new in document.text
            assert not any_gold_in([document.text], question.answers)


def test_no_such_control(tmp_path):
    with pytest.raises(ConfigurationError, match="no-documents"):
        run(WORLD, baseline(), tmp_path / "r.jsonl", ablation="no-document")


# Models.


def test_a_model_plays_as_the_engine_does(tmp_path):
    player = make_agent("model:tiny-trained", WORLD, seed=0, num_envs=8)
    found = run(WORLD, player, tmp_path / "r.jsonl", limit=12)
    assert sum(record.exact_match for record in found.records) >= 4
    assert sum(record.searches for record in found.records) >= 20
    assert found.header["agent"]["weights"]
    assert found.header["agent"]["name"] == "tiny-trained"


def test_samples_differ_and_a_stopped_run_draws_the_same(tmp_path):
    decoding = Decoding(temperature=1.0, samples=3)

    def play(path, **more):
        # In bfloat16, rounding depends on how many rows are left to play.
        player = make_agent("model:tiny-base", WORLD, seed=0, num_envs=4, dtype="fp32")
        return run(WORLD, player, path, decoding=decoding, limit=4, seed=5, **more)

    whole = play(tmp_path / "whole.jsonl")
    assert len(whole.episodes) == 12
    answers = {
        i: {(p.record.answer, p.record.queries) for p in whole.episodes if p.index == i}
        for i in range(4)
    }
    assert any(len(held) > 1 for held in answers.values())
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "part.jsonl").write_bytes(b"".join(lines[:6]))
    assert play(tmp_path / "part.jsonl").records == whole.records


def test_whole_episodes_are_recorded(tmp_path):
    path = tmp_path / "episodes.jsonl"
    player = make_agent("model:tiny-trained", WORLD, seed=0, num_envs=4)
    found = run(WORLD, player, tmp_path / "r.jsonl", limit=4, episodes=path)
    recorded = {e.transcript.question.id: e for e in read_episodes(path)}
    assert len(recorded) == 4
    for record in found.records:
        episode = recorded[record.question_id]
        assert measure_episode(episode.transcript, episode.score.total) == record
        assert len(episode.signals["log_prob"]) == record.policy_tokens
    run(WORLD, baseline(), tmp_path / "o.jsonl", limit=2, episodes=path, ablation="no-documents")
    *_, last = read_episodes(path)
    assert last.arguments["retriever"] == f"no-documents of {WORLD.id}"


# Functions.


def oracle_function(prompt, stop):
    """Answers every question with one search for nothing in particular."""
    if "<|end_of_documents|>\n\n" in prompt:
        return " So. </think> <answer> Ulm </answer> and more"
    return " I look. <|begin_of_query|> a city <|end_of_query|> and more"


def test_a_function_plays(tmp_path):
    player = function_agent(f"{__name__}:oracle_function", concurrency=2)
    found = run(WORLD, player, tmp_path / "r.jsonl", limit=6)
    assert {record.answer for record in found.records} == {"Ulm"}
    assert {record.queries for record in found.records} == {("a city",)}
    assert {record.format_faults for record in found.records} == {()}


def test_a_function_that_returns_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.oracle_function", lambda prompt, stop: None)
    player = function_agent(f"{__name__}:oracle_function")
    with pytest.raises(BenchmarkError, match="return a string, got NoneType"):
        run(WORLD, player, tmp_path / "r.jsonl", limit=2)


def test_text_and_tokens_come_to_the_same(tmp_path):
    """A scripted agent as a function writes what it writes as an agent."""
    env = SearchQAEnv(**WORLD.environment())
    by_text = {q.text: q for q in env.questions}

    def complete(request):
        from search_env.benchmarks.players.text import Completion

        question = by_text[request.question]
        done = request.prompt.count("<|end_of_documents|>\n\n")
        if done < len(question.hops):
            return Completion(query_text(env.protocol, question.hops[done].query))
        return Completion(answer_text(env.protocol, question.answers[0], thoughts=["think"]))

    from search_env.benchmarks.players.text import TextAgent

    texts = run(WORLD, TextAgent(complete, {"name": "t"}), tmp_path / "t.jsonl", limit=10)
    agents = run(WORLD, baseline(), tmp_path / "a.jsonl", limit=10)
    assert texts.records == agents.records


# What an agent is called, and what it takes.


@pytest.mark.parametrize(
    ("agent", "options", "message"),
    [
        ("oracel", {}, "Did you mean 'oracle'"),
        ("oracle", {"rows": 3}, "options of oracle among none, got rows"),
        ("model:tiny-trained", {"api": "chat"}, "got api"),
        ("python:no_such_module:f", {}, "PYTHONPATH"),
        ("python:json:no_such", {}, "PYTHONPATH"),
        ("http://localhost:1/v1", {}, "Pass --model"),
    ],
)
def test_agents_that_cannot_be(agent, options, message):
    with pytest.raises(ConfigurationError, match=message):
        make_agent(agent, WORLD, seed=0, **options)


def test_greedy_samples_would_all_be_the_same():
    with pytest.raises(ConfigurationError, match="--temperature 1"):
        Decoding(samples=4)


def test_ids_say_what_departs_from_the_plain_run():
    assert result_id(WORLD) == WORLD.id
    assert result_id(WORLD, limit=500, questions=500) == WORLD.id
    assert result_id(WORLD, Decoding(0.7, 0.9, 2)) == WORLD.id + "@t0.7p0.9x2"


def test_questions_that_were_trained_on():
    asked = [Question("1", "Who  is it?", ("x",)), Question("2", "What?", ("y",))]
    known = [replace(asked[0], id="9", text="who is it? ")]
    assert overlap(known, asked) == ["1"]
    assert overlap([], asked) == []


def test_headers_are_plain_json(tmp_path):
    run(WORLD, baseline(), tmp_path / "r.jsonl", limit=1)
    first = (tmp_path / "r.jsonl").read_text("utf-8").splitlines()[0]
    assert json.loads(first)["search_env_results"] == 1
