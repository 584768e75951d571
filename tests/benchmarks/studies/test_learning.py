"""The learning benchmark: its conditions, its base, and its report of results made up here."""

from __future__ import annotations

import gzip
import json
import sys

import gymnasium as gym
import numpy as np
import pytest

from search_env.agents.models import tiny_config, untrained
from search_env.agents.reporting.logs import JsonLinesLog
from search_env.agents.training.default_run import tiny_run
from search_env.benchmarks.studies import learning
from search_env.benchmarks.studies.learning import (
    BASE,
    CONDITIONS,
    FORCED,
    SUPERVISED,
    TESTS,
    QuestionFirst,
    configure,
)
from search_env.evaluation.evaluate import evaluate


def test_conditions_change_what_they_name_and_nothing_else(tmp_path):
    standard = configure("both phases", 3, tmp_path)
    assert standard.seed == 3
    assert {**standard.to_json(), "seed": 0, "out": "runs/train"} == tiny_run().to_json()
    for name in CONDITIONS:
        other = configure(name, 3, tmp_path).to_json()
        changed = {k for k, v in other.items() if v != standard.to_json()[k]}
        expected = {"both phases": set(), "phase 1 alone": {"phases"}, "phase 2 alone": {"phases"}}
        assert changed == expected.get(name, {"algorithm"})


def scores(right, hops=(1, 2, 3, 4)):
    size = len(right)
    return {
        "exact_match": [float(r) for r in right],
        "num_searches": [1] * size,
        "well_formed": [True] * size,
        "hops": [hops[i % len(hops)] for i in range(size)],
    }


def results(folder, by_condition):
    """Results of runs with these exact matches by question, by condition."""
    folder.mkdir()
    half = scores([1, 0] * 20)
    base = {BASE: dict.fromkeys(TESTS, scores([0] * 40)), FORCED: dict.fromkeys(TESTS, half)}
    (folder / "base.json").write_text(json.dumps(base))
    for condition, seeds in by_condition.items():
        for seed, right in enumerate(seeds):
            run = folder / condition.replace(" ", "-") / str(seed)
            run.mkdir(parents=True)
            log = JsonLinesLog(run / "metrics.jsonl")
            log.begin(2, {})
            for step in (1, 2):
                log.step(step, {"answer/f1": 0.5, "policy/entropy": 0.5}, [])
            log.end(2, "all steps are made")
            names = TESTS if condition == "both phases" else ["test world"]
            record = {"condition": condition, "seed": seed, "cpu_seconds": 60.0, "seconds": 30.0}
            record["tests"] = {name: scores(right) for name in names}
            (run / "result.json").write_text(json.dumps(record))


def test_report_compares_with_the_forced_base_over_seeds_and_questions(tmp_path, monkeypatch):
    better, all_right = [1, 0] * 10 + [1, 1] * 10, [1] * 40
    runs = {"both phases": (better, all_right, better), SUPERVISED: (all_right,)}
    results(tmp_path / "runs", runs)
    (tmp_path / "runs/both-phases/3").mkdir()  # begun and not over: it counts for nothing
    arguments = ["report", "--folder", tmp_path / "runs", "--output", tmp_path / "a.md"]
    arguments += ["--picture", tmp_path / "pictures/a.png", "--episodes", tmp_path / "a.json.gz"]
    monkeypatch.setattr(sys, "argv", ["learning", *map(str, arguments)])
    learning.main()
    rows = {
        cells[0]: cells[1:]
        for line in (tmp_path / "a.md").read_text().split("## ")[0].splitlines()
        if line.startswith("|") and (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }
    assert rows["both phases"][0] == "3"
    assert rows["both phases"][4].startswith("0.833 (")
    assert rows["both phases"][5].startswith("+0.333 (+")
    assert rows["both phases"][6] == "1.9e-06"  # 20 questions, all of them better: 2 / 2 ** 20
    assert rows["both phases"][-2:] == ["1.0 ± 0.0", "0.5 ± 0.0"]
    assert rows[SUPERVISED][4:6] == ["1.000 (1.000 to 1.000)", rows[SUPERVISED][5]]
    assert rows[SUPERVISED][5].startswith("+0.500")
    assert rows[FORCED][5:7] == ["", ""]
    assert (tmp_path / "pictures/a.png").stat().st_size > 10_000
    stored = json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes()))
    assert stored["both phases"][1]["tests"]["test world"]["exact_match"] == all_right


def test_the_question_comes_first_then_the_model():
    """An untrained model goes on after the documents of the question as its query."""
    model = untrained(tiny_config(), 3)
    options = {"max_tokens": 2048, "max_policy_tokens": 200, "dataset_options": {"questions": 4}}
    env = gym.make("SearchQA-v0", **options).unwrapped
    for episode, question in zip(
        evaluate(env, QuestionFirst(model), range(4)), env.questions, strict=True
    ):
        assert episode.queries[0] == question.text.replace('"', "")
        assert episode.document_ids[0]


def test_scores_by_question_of_a_forced_base():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "TESTS", {"test world": (6, {})})
        free = learning.score(tiny_run().model, "test world")
        forced = learning.score(tiny_run().model, "test world", forced=True)
    assert len(free.exact_match) == len(forced.exact_match) == 6
    assert max(free.num_searches) == 0
    assert np.mean(np.array(forced.num_searches) > 0) > 0.6
    assert forced.hops == free.hops
