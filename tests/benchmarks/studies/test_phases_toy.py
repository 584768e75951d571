"""The study of the phases on the toy: its base, its claims, its file of runs."""

from __future__ import annotations

import argparse
import gzip
import json

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from search_env.benchmarks.studies import phases_toy, phases_toy_runs
from search_env.benchmarks.studies.phases_toy import ARMS, BETWEEN, COMMON, Job, Result, plan

EARLY, PAYING = COMMON.values()


def made(right: float, searched: float, seed: int) -> Result:
    """A result of 1,024 questions with these shares."""
    random = np.random.default_rng(seed)
    bits = (random.random(1024) < right, np.arange(1024) < 1024 * searched)
    return Result([(4096, 0.5, 0.25, 0), (8192, searched, right, 1)], *bits)


def results(both: float = 0.97, alone: float = 0.42, seeds: int = 20) -> dict[Job, Result]:
    """As the claims say, unless told otherwise."""
    early = {"base": (0.42, 0), "phase 1 alone": (0.1, 1), "phase 2 alone": (alone, 0)}
    paying = {"base": (0.13, 0), "phase 1 alone": (0.1, 1), "phase 2 alone": (0.97, 1)}
    shares = {EARLY: early, PAYING: paying}
    return {
        job: made(*shares.get(job.common, early).get(job.arm, (both, 1)), seed=job.seed)
        for job in plan(seeds, 5)
    }


def test_the_plan_has_every_arm_and_seed_once():
    jobs = plan(20, 5)
    assert len(jobs) == len(set(jobs)) == 2 * 4 * 20 + len(BETWEEN) * 2 * 5
    assert {job.arm for job in jobs} == {"base", *ARMS}


def test_claims_that_hold():
    assert phases_toy.outcomes(results()).count("**Holds**") == 4


@pytest.mark.parametrize(
    ("changed", "failing"), [({"both": 0.45}, {2, 4}), ({"both": 0.15}, {2, 3, 4})]
)
def test_claims_that_fail(changed, failing):
    lines = phases_toy.outcomes(results(**changed)).splitlines()
    assert {n for n, line in enumerate(lines, 1) if "**Fails**" in line} == failing


def test_search_rates_decide_the_first_claim():
    found = results()
    for seed in range(5):
        found[Job(EARLY, "phase 2 alone", seed)] = made(0.9, 0.95, seed)
    first = phases_toy.outcomes(found).splitlines()[0]
    assert first == "1. **Fails**: below .1 in 15 of 20 seeds."


def test_results_go_through_json():
    result = made(0.3, 0.7, 1)
    again = Result.from_json(json.loads(json.dumps(result.to_json())))
    assert again.curve == result.curve
    assert (again.right == result.right).all()
    assert (again.searched == result.searched).all()


def test_the_page_is_of_the_runs_in_the_file(tmp_path, monkeypatch):
    """Nothing is run again, and the page, its plot and the results by question are written."""
    monkeypatch.setattr(phases_toy, "run", None)  # not called
    found, file = results(seeds=3), tmp_path / "runs.jsonl"
    lines = [json.dumps([job, result.to_json()]) + "\n" for job, result in found.items()]
    file.write_text("".join(lines))
    paths = {"episodes": tmp_path / "episodes.json.gz", "plot": tmp_path / "plot.png"}
    args = argparse.Namespace(seeds=3, fewer=5, jobs=1, runs=file, **paths)
    page = phases_toy.page(args)
    assert page.count("\n| both phases | 3 |") == 2
    assert "## What was claimed, before the runs" in page
    assert gzip.decompress(paths["episodes"].read_bytes()).decode() == "".join(lines)
    assert paths["plot"].stat().st_size > 10_000


def test_a_base_guesses_or_searches_and_cannot_read(monkeypatch):
    """The real thing, in small: cloned, then trained for two rollouts."""
    monkeypatch.setattr(phases_toy_runs, "TEST_SEEDS", range(2))
    monkeypatch.setitem(phases_toy_runs.CLONING, "episodes", 10)
    monkeypatch.setitem(phases_toy_runs.CLONING, "epochs", 8)
    base = phases_toy_runs.run(Job(EARLY, "base", 0), split="validation")
    assert base.curve == []
    assert base.searched.mean() == 0.0  # greedy: it guesses
    assert 0.3 < base.right.mean() < 0.55
    two = 2 * phases_toy_runs.NUM_ENVS * phases_toy_runs.ROLLOUT
    trained = phases_toy_runs.run(Job(EARLY, "both phases", 0), two, "validation")
    again = phases_toy_runs.run(Job(EARLY, "both phases", 0), two, "validation")
    (steps, rate, _, phase), (last, later, _, _) = trained.curve
    assert (steps, last, phase) == (two // 2, two, 0)
    assert 0.1 < rate < 0.3
    assert later > 0.05
    assert trained.to_json() == again.to_json()
