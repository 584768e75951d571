"""The examination of a run: what it finds, and that it goes on where it can."""

from __future__ import annotations

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from search_env.agents.doctor.data import examine_questions, examine_retrieval
from search_env.agents.doctor.estimates import Memory, estimate_memory, estimate_time, weight_bytes
from search_env.agents.doctor.examine import SECTIONS, examine
from search_env.agents.doctor.findings import Finding, Section, guarded, worst
from search_env.agents.doctor.tokenizer import examine_tokenizer
from search_env.agents.doctor.trial import Measured, examine_rollouts
from search_env.agents.rollouts.collect import Rollouts
from search_env.errors import ConfigurationError
from search_env.protocols.registry import get_protocol
from search_env.retrieval.base import FakeRetriever
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Document
from tests.agents.toy_runs import tiny_model, toy_config, toy_trajectories


def levels(findings, section=None):
    return [f.level for f in findings if section in (None, f.section)]


def text_of(findings, level):
    return " | ".join(f"{f.text} {f.advice}" for f in findings if f.level == level)


def toy_envs(**arguments):
    arguments = {"autoreset_mode": "Disabled", **arguments}
    return gym.make_vec("SearchQA-Toy-v0", num_envs=2, **arguments).unwrapped


def test_a_sound_run_has_every_section_and_no_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = []
    config = toy_config(tmp_path / "run")
    findings = list(
        examine(
            config, model=tiny_model(), episodes=8, progress=lambda *counts: done.append(counts)
        )
    )
    assert list(dict.fromkeys(f.section for f in findings)) == [
        *("Model", "Environment", "Tokenizer", "Questions", "Retrieval"),
        *("Rollout", "Learner", "Estimates"),
    ]
    assert "error" not in levels(findings)
    assert done[-1] == (8, 8)
    assert not list(tmp_path.iterdir())  # nothing is written


def test_engine_and_learner_are_compared(tmp_path):
    findings = examine(toy_config(tmp_path), model=tiny_model(), episodes=8)
    learner = [f for f in findings if f.section == "Learner"]
    assert levels(learner) == ["OK", "OK"]
    assert "log-probabilities of engine and learner differ" in learner[0].text


def test_what_cannot_be_examined_is_said(tmp_path):
    findings = list(examine(toy_config(tmp_path), model=tiny_model(vocabulary=5)))
    assert levels(findings, "Environment") == ["error"]
    after = findings[-6:]
    assert [f.section for f in after] == list(SECTIONS[2:])
    assert {f.text for f in after} == {"not examined, because of the error above"}


def test_a_model_that_is_not_there_is_an_error_not_an_exception(tmp_path):
    config = toy_config(tmp_path, model=str(tmp_path / "nope"))
    findings = list(examine(config))
    assert set(levels(findings)) == {"error"}
    assert "does not exist" in findings[0].text


def test_a_context_that_is_too_short_is_found_before_the_run(tmp_path):
    config = toy_config(tmp_path, max_tokens=64)  # the tiny model has 32 positions
    findings = list(examine(config, model=tiny_model(), episodes=2))
    assert "more than the model's context of 32" in text_of(findings, "error")


def test_a_bad_number_of_episodes_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="episodes"):
        list(examine(toy_config(tmp_path), episodes=0))


def test_guarded_turns_expected_errors_into_findings_and_no_others():
    def fails(error):
        yield Section("A").ok("first")
        raise error

    found = list(guarded("A", lambda: fails(ConfigurationError("Expected x, got y."))))
    assert levels(found) == ["OK", "error"]
    assert worst(found) == "error"
    assert worst([]) == "OK"
    with pytest.raises(ZeroDivisionError):
        list(guarded("A", lambda: fails(ZeroDivisionError())))


# Tokenizers


def test_a_tokenizer_without_an_end_is_an_error():
    tokenizer = load_tokenizer("byte").padded(300)
    tokenizer.eos_ids = frozenset()
    findings = list(examine_tokenizer(tokenizer, get_protocol("r1-searcher"), "base"))
    assert "no end id is known" in text_of(findings, "error")
    assert "43 of them without text" in findings[0].text


def test_the_ids_of_the_tags_are_listed():
    findings = list(examine_tokenizer(load_tokenizer("byte"), get_protocol("search-r1"), "base"))
    assert any("<search> is 8 ids" in f.text for f in findings)
    assert set(levels(findings)) == {"OK"}


def test_tags_that_no_ids_can_write_are_named():
    findings = list(examine_tokenizer(load_tokenizer("toy"), get_protocol("search-r1"), "base"))
    assert any("<search> is not written by any sequence of ids" in f.text for f in findings)


# Questions and retrieval


def test_questions_in_training_and_evaluation_are_counted():
    envs = toy_envs()
    findings = list(examine_questions(envs, envs))
    assert f"{len(envs.questions):,} of the evaluation's questions" in text_of(findings, "warning")


def test_golds_without_words_are_named(tmp_path):
    rows = [{"id": "a", "question": "Who?", "golden_answers": ["The"]}]
    rows += [{"id": "b", "question": "What?", "golden_answers": ["42"]}]
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(UserWarning, match="gold answers"):
        envs = gym.make_vec(
            "SearchQA-v0", num_envs=1, dataset=str(file), retriever=FakeRetriever({})
        ).unwrapped
    findings = list(examine_questions(envs, envs))
    assert "1 questions have no gold answer" in text_of(findings, "warning")


def test_a_retriever_that_finds_nothing_is_a_warning():
    findings = list(examine_retrieval(toy_envs(retriever=FakeRetriever({}))))
    assert "none of 16 questions, used as a query, finds a" in text_of(findings, "warning")


def test_a_retriever_that_fails_does_not_end_the_examination(tmp_path):
    config = toy_config(
        tmp_path, env_options={"retriever": FakeRetriever({}, error=RuntimeError("no route"))}
    )
    findings = list(examine(config, model=tiny_model(), episodes=4))
    assert "no route" in text_of(findings, "error")
    assert levels(findings, "Retrieval") == ["error"]
    assert "OK" in levels(findings, "Learner")


def test_a_retriever_whose_answers_depend_on_the_batch_is_noticed():
    class Batched:
        def search(self, queries, k):
            return [[Document(str(len(queries)), "", "text")] for _ in queries]

    findings = list(examine_retrieval(toy_envs(retriever=Batched())))
    assert "alone and in a batch" in text_of(findings, "warning")


def test_found_golds_are_counted_by_whole_words():
    envs = toy_envs()
    gold = envs.questions[0].answers[0]
    queries = {q.text: [Document("d", "", f"x {gold}")] for q in envs.questions[:1]}
    queries |= {q.text: [Document("e", "", f"x{q.answers[0]}x")] for q in envs.questions[1:]}
    envs = toy_envs(retriever=FakeRetriever(queries))
    assert "1 of 16 questions find a gold answer" in " ".join(
        f.text for f in examine_retrieval(envs)
    )


# Rollouts and estimates


def rollouts_of(trajectories):
    return Rollouts(trajectories, {}, sum(t.num_policy_tokens for t in trajectories), 0, 0)


def test_groups_without_a_spread_are_a_warning(tmp_path):
    flat = [replace(t, reward=1.0) for t in toy_trajectories(tiny_model())]
    findings = examine_rollouts(toy_config(tmp_path), rollouts_of(flat), 1.0)
    assert "0% of groups have a spread" in text_of(list(findings), "warning")


def test_the_memory_of_weights_is_counted_by_hand(tmp_path):
    model = tiny_model()
    count = sum(p.numel() for p in model.parameters())
    fp32 = toy_config(tmp_path)
    assert weight_bytes(model, fp32) == (4 + 4 + 8) * count
    assert weight_bytes(model, replace(fp32, dtype="bf16")) == (2 + 4 + 4 + 8) * count
    kl = replace(fp32, algorithm=replace(fp32.algorithm, kl="loss", kl_coefficient=0.1))
    assert weight_bytes(model, kl) == (4 + 4 + 4 + 8) * count


def test_more_memory_than_there_is_is_a_warning(tmp_path):
    device = torch.device("cpu")
    for size, level in ((1e15, "warning"), (1e3, "OK")):
        memory = Memory(weights=size, cache=0.0, learning=0.0)
        assert levels(estimate_memory(toy_config(tmp_path), memory, device)) == [level]


def test_the_time_of_a_run_is_scaled_from_the_trial(tmp_path):
    trajectories = toy_trajectories(tiny_model(), questions=2, group_size=4)
    measured = Measured(rollouts_of(trajectories), 4.0, score_seconds=1.0, learn_seconds=2.0)
    config = toy_config(tmp_path, steps=10, eval_every=5, eval_questions=16)
    # A step has 16 episodes, the trial 8: 8 s and 4 s. Three evaluations take 8 s each.
    (finding,) = estimate_time(config, measured)
    assert "a step about 12 s (8 s rollouts, 4 s learning), 3 evaluations of 8 s" in finding.text
    assert "10 steps about 2 min 24 s" in finding.text


def test_a_finding_says_what_to_do():
    assert Section("A").checked(False, "text", "Do this.") == Finding(
        "A", "warning", "text", "Do this."
    )
    assert np.isclose(Memory(1.0, 2.0, 3.0).total, 6.0)
