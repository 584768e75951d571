"""The benchmark of the GRPO in one file: seeds with no steps, and its table."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("torch")
from search_env.benchmarks.studies import example_grpo
from search_env.benchmarks.studies.example_grpo import SCORES, Result, report


def test_report_has_the_base_every_seed_and_the_mean():
    before, low, high = (dict.fromkeys(SCORES, value) for value in (0.0, 0.8, 1.0))
    text = report([Result(before, low, 200.0, 100.0), Result(before, high, 200.0, 100.0)])
    assert "| before | 0.000 | 0.000 | 0.000 | 0.000 | 0.000 | - | - |" in text
    assert "| seed 0 | 0.800 | 0.800 | 0.800 | 0.800 | 0.800 | 200 | 100 |" in text
    assert "| seed 1 | 1.000 |" in text
    # Student's t with one degree of freedom: 12.706 * .1.
    assert "| after, mean | 0.900 ± 1.271 |" in text
    assert text.splitlines()[-1].endswith("| 200 ± 0 | 100 ± 0 |")


def test_two_seeds_are_run(tmp_path, monkeypatch, capsys):
    def little(**settings):
        return args_of(**settings, steps=0, questions=2, max_policy_tokens=24)

    args_of, output = example_grpo.Args, tmp_path / "a.md"
    monkeypatch.setattr(example_grpo, "Args", little)
    monkeypatch.setattr(sys, "argv", ["example_grpo", "--seeds", "2", "--output", str(output)])
    example_grpo.main()
    text = output.read_text()
    assert text in capsys.readouterr().out
    assert "| seed 1 | 0.000 |" in text
