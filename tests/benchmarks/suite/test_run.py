"""Running the suite: jobs, files that are resumed, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from search_env.benchmarks.harness.errors import ResultsError, ResultsMismatchError
from search_env.benchmarks.suite.page import markdown, tab
from search_env.benchmarks.suite.run import (
    AlgorithmError,
    load_algorithm,
    name_of,
    read_runs,
    run_one,
    run_suite,
    write_runs,
)
from search_env.benchmarks.suite.scores import by_algorithm
from search_env.errors import ConfigurationError, DataNotFoundError

HERE = f"{__name__}:"


def answer_at_once(task):
    """An algorithm that learns nothing: it answers ``value0``."""
    script = [3, 15, 4]
    envs = task.make_vec(4)
    envs.reset(seed=task.seed)
    for token in script:
        envs.step(np.full(4, token))

    def act(observation):
        lengths = np.ravel(observation["length"])
        first = (observation["sources"] == 1).sum(1)
        return np.array(script)[(lengths - first).clip(0, 2)]

    return act


def fail(task):
    """An algorithm that raises."""
    raise ZeroDivisionError("no rewards")


def return_nothing(task):
    """An algorithm that forgets its policy."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    file = tmp_path_factory.mktemp("suite") / "made" / "answer.jsonl"
    names = ["search", "credit"]
    return file, run_suite(f"{HERE}answer_at_once", file, experiments=names, seeds=2, jobs=1)


def test_every_experiment_runs_with_every_seed(made):
    file, runs = made
    assert {(run.experiment, run.seed) for run in runs} == {
        (name, seed) for name in ("search", "credit") for seed in (0, 1)
    }
    assert read_runs(file) == runs
    for run in runs:
        assert run.algorithm == "answer_at_once"
        assert run.tokens == 12
        assert len(run.returns) == 128
        assert np.mean(run.returns) == pytest.approx(1 / 8, abs=0.1)


def test_a_stopped_suite_goes_on(made, tmp_path):
    source, runs = made
    file = tmp_path / "runs.jsonl"
    lines = source.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))
    new = []
    again = run_suite(
        f"{HERE}answer_at_once",
        file,
        experiments=["search", "credit"],
        seeds=2,
        jobs=1,
        on_run=new.append,
    )
    assert len(new) == 1
    key = lambda run: (run.experiment, run.seed)  # noqa: E731
    strip = lambda run: (*key(run), run.returns, run.curve)  # noqa: E731
    assert sorted(map(strip, again)) == sorted(map(strip, runs))


def test_runs_compress_to_the_same_bytes(made, tmp_path):
    _, runs = made
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_runs(tmp_path / name, runs)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert read_runs(tmp_path / "a.jsonl.gz") == runs


def test_page_and_markdown_show_every_algorithm(made):
    _, runs = made
    other = [replace(run, algorithm="$x_<b>") for run in runs]
    found = by_algorithm([*runs, *other])
    text, page = markdown(found), tab(found).body
    assert "answer_at_once" in text
    assert "credit" in text
    assert "several-queries" in text  # in the list of experiments
    assert "<b>" not in page
    assert page.count("<img") == 2


@pytest.mark.parametrize("algorithm", ["fail", "return_nothing"])
def test_an_algorithm_that_fails_is_named_with_experiment_and_seed(algorithm):
    with pytest.raises(AlgorithmError, match=r"to train in 'search' with seed 3"):
        run_one(f"{HERE}{algorithm}", "mine", "search", 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpro", r"among reinforce\+\+, grpo.*Did you mean 'gspo'"),
        ("no_such_module:x", "in module 'no_such_module'"),
        (f"{HERE}nothing", "Expected the algorithm 'nothing'"),
        (f"{HERE}HERE", "to be a function of a task, got str"),
    ],
)
def test_a_wrong_name_is_refused(name, message):
    with pytest.raises(ConfigurationError, match=message):
        load_algorithm(name)


def test_a_wrong_experiment_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigurationError, match="Did you mean 'search'"):
        run_suite("grpo", tmp_path / "x.jsonl", experiments=["serach"])
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_other_files_are_refused(tmp_path, made):
    _, (run, *_) = made
    file = tmp_path / "runs.jsonl"
    with pytest.raises(DataNotFoundError):
        read_runs(file)
    file.write_text(json.dumps(run.to_json()) + '\n{"suite": 1}\n')
    with pytest.raises(ResultsError, match="line 2"):
        read_runs(file)
    file.write_text(json.dumps({**run.to_json(), "suite": 0}) + "\n")
    with pytest.raises(ResultsMismatchError, match="version 0"):
        read_runs(file)


def test_names_for_tables():
    assert name_of("my_module:ppo") == "ppo"
    assert name_of("grpo") == "grpo"
    assert name_of(fail) == "fail"
