"""The benchmark of Stable-Baselines3: a run with next to no steps, and its table."""

from __future__ import annotations

import sys

from search_env.agents.examples.sb3_tiny import Score
from search_env.benchmarks.studies import sb3_learning
from search_env.benchmarks.studies.sb3_learning import SeedResult, report


def test_report_has_means_and_every_seed():
    before = Score(0.25, 1.0, 0.5)
    afters = Score(0.8, 0.9, 0.6), Score(1.0, 0.9, 0.8)
    text = report([SeedResult(before, after, 32_768, 6.0) for after in afters])
    # Student's t with one degree of freedom: 12.706 * .1.
    assert "| after | 0.90 ± 1.27 | 0.90 ± 0.00 | 0.70 ± 1.27 |" in text
    assert "| before | 0.25 ± 0.00 | 1.00 ± 0.00 | 0.50 ± 0.00 |" in text
    assert "| after, seed 1 | 1.00 | 0.90 | 0.80 |" in text
    assert "32,768, 32,768. CPU minutes of training: 6.0 ± 0.0." in text


def test_two_seeds_are_run(tmp_path, monkeypatch, capsys):
    little = ["--steps", "16", "--rows", "2", "--rollout", "8", "--questions", "2", "--seeds", "2"]
    output = tmp_path / "a.md"
    monkeypatch.setattr(sys, "argv", ["sb3_learning", *little, "--output", str(output)])
    sb3_learning.main()
    text = output.read_text()
    assert text in capsys.readouterr().out
    assert "training: 16, 16." in text
