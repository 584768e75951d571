"""``search-env score`` on the command line."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from search_env.cli.main import app
from search_env.evaluation.foreign_outputs import read_outputs


def run(*arguments):
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def row(question, answer, right):
    return {
        "question": question,
        "golden_answers": [answer],
        "output": {"pred": answer if right else "no idea"},
    }


@pytest.fixture
def files(tmp_path):
    """The better answers 10 questions of 12 right, the worse 2 of the same and one other."""
    better, worse = tmp_path / "better.json", tmp_path / "worse.json"
    better.write_text(json.dumps([row(f"Q{i}?", f"A{i}", i < 10) for i in range(12)]), "utf-8")
    worse.write_text(json.dumps([row(f"q{i}?", f"A{i}", i < 2) for i in range(13)]), "utf-8")
    return better, worse


def test_the_published_figures(data_dir):
    folder = data_dir / "trajectories"
    result = run(folder / "bamboogle_qwen.jsonl.xz", folder / "2wiki_qwen.jsonl.xz")
    assert result.exit_code == 0, result.output
    # EM, F1, cover EM, in a row, answer recall, judged, searches
    rows = {line.split()[0]: line.split()[1:8] for line in result.stdout.splitlines() if line}
    assert rows["bamboogle_qwen"] == [".456", ".577", ".528", ".488", ".581", ".544", "1.98"]
    assert rows["2wiki_qwen"] == [".554", ".637", ".636", ".640", ".844", ".650", "2.24"]
    assert "against" not in result.stdout  # no question is in both


def test_agents_on_the_same_questions_are_compared(files, tmp_path):
    better, worse = files
    result = run(worse, better, "--out", tmp_path / "scores.json")
    assert result.exit_code == 0, result.output
    assert "worse 13, better 12" in result.stdout
    assert "against worse" in result.stdout
    (line,) = re.findall(r"^better +12 +EM .*$", result.stdout, re.M)
    assert line.split()[3] == "+0.667"
    assert line.split()[-3:] == ["8", "0", "0.0078"]  # 2 / 2 ** 8
    assert max(map(len, result.stdout.splitlines()[:6])) <= 100
    assert list(read_outputs(tmp_path / "scores.json")) == ["worse", "better"]


def test_two_files_of_one_name_stay_apart(files):
    result = run(files[0], files[0])
    assert re.search(r"^better \(2\)", result.stdout, re.M)


def test_the_rule_is_named(files):
    assert "by the rule squad" in run(files[0], "--rule", "squad").stdout
    refused = run(files[0], "--rule", "squat")
    assert refused.exit_code == 2
    assert "Did you mean 'squad'" in refused.stderr


def test_unreadable_files_give_one_line_and_exit_code_2(tmp_path, files):
    missing = run(tmp_path / "none.json")
    assert missing.exit_code == 2
    assert missing.stderr.startswith("Error: Expected a readable file")
    assert run(files[0], "--out", tmp_path).exit_code == 2
    assert run(files[0], "--format", "verl").exit_code == 2
