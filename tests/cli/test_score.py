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


def test_a8_unknown_is_a_dash_and_the_rule_is_said(files, tmp_path):
    better, _ = files
    result = run(better, "--out", tmp_path / "out.json")
    (line,) = re.findall(r"^better .*$", result.stdout, re.M)
    assert line.split()[5:8] == ["-", "-", "-"]  # answer recall, judged, searches
    assert "the rule hotpotqa" in result.stdout
    assert "the rule squad" in run(better, "--rule", "squad").stdout
    assert "the rule hotpotqa" in run(tmp_path / "out.json").stdout  # as it was written


def test_a8_files_of_two_rules_are_compared_by_the_first(tmp_path):
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.jsonl"
    ours.write_text(json.dumps([row("Q?", "U.S.A.", True)]), "utf-8")
    r1 = {"question": "Q?", "answer": "U.S.A.", "pred_ans": "USA"}
    theirs.write_text(json.dumps(r1) + "\n", "utf-8")
    result = run(ours, theirs)
    assert "ours by hotpotqa; theirs by r1-searcher" in result.stdout
    (line,) = re.findall(r"^theirs +1 +EM .*$", result.stdout, re.M)
    assert "+0.000" in line  # both are right by the first file's rule


def test_a8_a_file_without_any_answer_is_pointed_out(tmp_path):
    path = tmp_path / "1.jsonl"
    text = {"input": "Question: Who?", "output": "Final: Holt", "gts": ["Holt"]}
    path.write_text(json.dumps(text) + "\n", "utf-8")
    result = run(path)
    assert "none of the 1 episodes of 1 has an answer in a known form" in result.stderr
