"""The learning benchmark: its conditions, its reward, and its report of results made up here."""

from __future__ import annotations

import json
import sys

import pytest

from search_env.agents.reporting.logs import JsonLinesLog
from search_env.benchmarks.studies import learning
from search_env.benchmarks.studies.learning import CONDITIONS, EXACT, SUPERVISED, TESTS, configure
from search_env.rewards import get_reward
from search_env.rewards.r1_searcher import R1_SEARCHER_STAGE2
from tests.rewards.episodes import B, E, play

QUERY = f"I look.{B}engine{E}found"


def test_conditions_change_what_they_name_and_nothing_else(tmp_path):
    standard = configure("both phases", 3, tmp_path).to_json()
    assert standard["seed"] == 3
    changed = {
        name: {k for k, v in configure(name, 3, tmp_path).to_json().items() if v != standard[k]}
        for name in CONDITIONS
    }
    assert changed.pop("both phases") == set()
    bundled = {"steps", "processes", "hops", "phase_search_rate", "eval_every", "eval_questions"}
    assert changed.pop("as bundled") == bundled
    phases = {"phase 1 alone", "phase 2 alone", "EM as reward"}
    for name in phases:
        assert changed.pop(name) == {"phases"}
    assert changed.pop("asked one and two hops") == {"env_options"}
    assert changed.pop("phase 1 not handed over") == {
        "phase_search_rate",
        "phase_format_rate",
        "phase_episodes",
    }
    assert set().union(*changed.values()) == {"algorithm"}


@pytest.mark.parametrize(
    ("pieces", "f1", "exact"),
    [
        ((QUERY, "</think><answer>Ada Lovelace</answer>"), (1.0, 0.0), (1.0, 0.0)),
        ((QUERY, "</think><answer>Lovelace</answer>"), (pytest.approx(2 / 3), 0.0), (0.0, 0.0)),
        ((QUERY, "<answer>Lovelace</answer>"), (pytest.approx(2 / 3), -2.0), (0.0, -2.0)),
    ],
)
def test_exact_match_takes_the_place_of_f1_alone(pieces, f1, exact):
    transcript = play(*pieces)
    assert get_reward(EXACT.name) is EXACT
    assert tuple(R1_SEARCHER_STAGE2(transcript).parts.values()) == f1
    assert tuple(EXACT(transcript).parts.values()) == exact


def results(folder, scores):
    """Results of runs that ended with these exact matches, by condition."""
    metrics = ("search_rate", "searches", "exact_match", "f1", "well_formed")
    tests = {name: {f"eval/{metric}": 0.0 for metric in metrics} for name in TESTS}
    folder.mkdir()
    (folder / "base.json").write_text(json.dumps(tests))
    for condition, values in scores.items():
        for seed, value in enumerate(values):
            run = folder / condition.replace(" ", "-") / str(seed)
            run.mkdir(parents=True)
            log = JsonLinesLog(run / "metrics.jsonl")
            log.begin(2, {})
            for step in (1, 2):
                log.step(step, {"answer/f1": value, "policy/entropy": 1 - value}, [])
            log.end(2, "all steps are made")
            found = {
                name: {**all_zero, "eval/exact_match": value} for name, all_zero in tests.items()
            }
            record = {"condition": condition, "seed": seed, "cpu_seconds": 60.0, "seconds": 30.0}
            record["tests"] = found
            (run / "result.json").write_text(json.dumps(record))


def test_report_gives_means_and_intervals_over_the_seeds_that_are_there(tmp_path, monkeypatch):
    results(tmp_path / "runs", {"both phases": (0.6, 0.7, 0.8), SUPERVISED: (0.5,)})
    (tmp_path / "runs/both-phases/3").mkdir()  # begun and not over: it counts for nothing
    arguments = ["report", "--folder", tmp_path / "runs", "--output", tmp_path / "a.md"]
    arguments += ["--picture", tmp_path / "pictures/a.png"]
    monkeypatch.setattr(sys, "argv", ["learning", *map(str, arguments)])
    learning.main()
    rows = {
        cells[0]: cells[1:]
        for line in (tmp_path / "a.md").read_text().split("## ")[0].splitlines()
        if line.startswith("|") and (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }
    # Student's t with two degrees of freedom: 4.303 * .1 / sqrt(3).
    assert rows["both phases"][0] == "3"
    assert rows["both phases"][3] == "0.700 ± 0.248"
    assert rows["both phases"][-2:] == ["1.0 ± 0.0", "0.5 ± 0.0"]
    assert rows[SUPERVISED][0] == "1"
    assert rows[SUPERVISED][3] == "0.500"
    assert (tmp_path / "pictures/a.png").stat().st_size > 10_000
