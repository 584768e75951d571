"""The study of Retro-Search: its parts in small, its claims on results made up here."""

from __future__ import annotations

import argparse
import gzip
import json

import numpy as np
import pytest

from search_env.benchmarks.players.wasteful import Waste, chain_is_right, wasteful_chain
from search_env.benchmarks.studies import retro_search, retro_search_runs
from search_env.benchmarks.studies.retro_search import PAIRS, PARTS, outcomes, page, read_results
from search_env.benchmarks.studies.retro_search_runs import Imitation, run_part
from search_env.recording.revise.retro_search import RetroSearch
from search_env.recording.revise.steps import plain_trace
from tests.recording.revise.episodes import world


def revision(searches=(150, 100), right=(60, 60), steps=(400, 300)):
    return {
        "episodes": 60,
        "revised": 40,
        "hops": 100,
        "searches": searches,
        "steps": steps,
        "tokens": [6000, 4000],
        "right": right,
        "tried": {"skip taken": 30, "skip longer": 10, "stop wrong": 10},
    }


def student(right, effort, tokens, seed):
    """Scores of 100 questions, a little noise in the effort."""
    noise = np.random.default_rng(seed).integers(0, 2, 100)
    return {
        "examples": 60,
        "scores": {
            "exact_match": [float(n < 100 * right) for n in range(100)],
            "searches": (effort + noise).tolist(),
            "steps": (effort + noise).tolist(),
            "tokens": (tokens + noise).tolist(),
        },
    }


def write(folder, changes=(), seeds=3):
    """Results of a study in which all that was claimed holds, unless told otherwise."""
    changed = dict(changes)
    for seed in range(seeds):
        records = {name: revision() for name in ("oracle", "weak-to-strong", "self", "chains")}
        for before, after in PAIRS.values():
            records[before] = student(0.6, 2, 200, seed)
            records[after] = student(0.6, 1, 150, seed + 10)
        for name, value in changed.items():
            records[name] = value(seed) if callable(value) else value
        (folder / str(seed)).mkdir(parents=True)
        for name, record in records.items():
            file = folder / str(seed) / f"{name.replace(', ', '-')}.json"
            file.write_text(json.dumps({**record, "part": name, "seed": seed, "cpu": 60.0}))
    (folder / "0" / "chains-texts.json").write_text("[[1, [2]]]")  # no record
    return read_results(folder)


def verdicts(results):
    return [line.split(":")[0].split(". ")[1] for line in outcomes(results).splitlines()]


def test_claims_that_hold(tmp_path):
    results = write(tmp_path)
    assert set(results) == set(PARTS)
    assert verdicts(results) == ["**Holds**"] * 5


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"oracle": revision(searches=(150, 106))}, {1}),
        ({"oracle": revision(searches=(150, 94))}, {1}),
        ({"oracle": revision(right=(60, 59))}, {1}),
        ({"weak-to-strong": revision(searches=(150, 140))}, {3}),
        ({"self": revision(right=(60, 59))}, {4}),
        ({"chains": revision(steps=(400, 400))}, {5}),
        ({"revised": lambda seed: student(0.5, 1, 150, seed)}, {2}),
        ({"revised": lambda seed: student(0.6, 2, 150, seed)}, {2}),
        ({"revised": lambda seed: student(0.6, 1, 200, seed)}, {2}),
        ({"chains, revised": lambda seed: student(0.6, 2, 150, seed)}, {5}),
    ],
)
def test_claims_that_fail(tmp_path, changes, failing):
    found = verdicts(write(tmp_path, changes))
    assert {n for n, verdict in enumerate(found, 1) if verdict == "**Fails**"} == failing


def test_what_was_not_run_is_not_claimed(tmp_path):
    results = {name: r for name, r in write(tmp_path).items() if name in ("oracle", "revised")}
    assert verdicts(results) == ["**Holds**", *["Not measured in full"] * 4]


def test_the_page_and_the_results_by_question(tmp_path, monkeypatch):
    results = write(tmp_path / "runs")
    text = page(results)
    assert (
        "| oracle | 3 | 60 ± 0 | 0.67 ± 0.00 | 1.67 ± 0.00 | 2.50 ± 0.00 -> 1.67 ± 0.00 |" in text
    )
    assert "| oracle: skip | 120 | 0.75 | 0.25 | 0.00 | 0.00 |" in text
    assert "CPU minutes of each seed: 12.0, 12.0, 12.0." in text
    args = argparse.Namespace(
        folder=tmp_path / "runs", output=tmp_path / "page.md", episodes=tmp_path / "e.json.gz"
    )
    retro_search.report(args)
    assert text in (tmp_path / "page.md").read_text()
    assert json.loads(gzip.decompress(args.episodes.read_bytes())) == results


def test_parts_in_small(tmp_path, monkeypatch):
    """The real thing, on a few episodes: every part runs once and leaves its record."""
    for name, value in (
        *(("TRAINED", 8), ("REVISED", 2), ("TESTED", 2), ("CHAINS_TRAINED", 4)),
        ("CHAIN_TOKENS", 640),
    ):
        monkeypatch.setattr(retro_search_runs, name, value)
    for name in ("EPISODES", "FEW_EPISODES", "THOUGHTS"):
        monkeypatch.setattr(retro_search_runs, name, Imitation(2, 2048, 1e-5))
    monkeypatch.setitem(retro_search_runs.ENV["dataset_options"], "questions", 40)
    monkeypatch.setitem(retro_search_runs.ENV["dataset_options"], "articles", 200)
    for cached in ("make", "oracle_episodes", "oracle_revisions", "chains"):
        getattr(retro_search_runs, cached).cache_clear()
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "original").symlink_to(tmp_path / "7" / "revised")  # saves a training
    for name in ("oracle", "revised", "weak-to-strong", "chains, original", "chains"):
        assert run_part(name, 7, tmp_path / "7")
        assert not run_part(name, 7, tmp_path / "7")
    results = read_results(tmp_path)
    for cached in ("make", "oracle_episodes", "oracle_revisions", "chains"):
        getattr(retro_search_runs, cached).cache_clear()
    (found,) = results["oracle"]
    assert found["searches"][1] == found["hops"] < found["searches"][0]
    assert found["right"] == [8, 8]
    assert results["weak-to-strong"][0]["right"] == [2, 2]
    assert len(results["revised"][0]["scores"]["tokens"]) == 2
    assert len(results["chains, original"][0]["scores"]["steps"]) == 2
    assert results["chains"][0]["right"] == [4, 4]
    assert "Not measured in full" in page(results)


def test_wasteful_chains_are_right_and_hold_more_than_they_need():
    env, random = world(), np.random.default_rng(0)
    plain = [wasteful_chain(env, n, random, Waste(0.0, 0.0, 0.0)) for n in range(9)]
    wasteful = [wasteful_chain(env, n, random, Waste(0.0, 0.4, 0.4)) for n in range(9)]
    search = RetroSearch(env.tokenizer, retro_search_runs.CHAINS, chain_is_right(env))
    counts = [[len(search.steps.read(c).steps) for c in side] for side in (plain, wasteful)]
    assert all(search.verify(chain) for chain in (*plain, *wasteful))
    assert counts[0] == [3 + 2 * len(env.questions[n].hops) for n in range(9)]
    assert sum(counts[1]) > 1.3 * sum(counts[0])
    assert all(not search.steps.read(chain).transitions for chain in plain)
    ids = plain[0].tokens.tolist()
    cut = plain_trace(env.tokenizer, ids[:50], ids[50:-1], plain[0].question.answers[0])
    assert not search.verify(cut)
