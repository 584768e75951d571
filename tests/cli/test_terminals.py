"""The command line in plain terminals, other encodings, and other folders than the package's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import gymnasium as gym
import pytest
from typer.testing import CliRunner

from search_env.cli.main import app
from tests.rendering.episodes import episode

MAIN = "from search_env.cli.main import main; main()"
BENCH = "world-1hop/r1-searcher/bm25-world1k/v1"


def command(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.getcwd(), **environment},
        check=False,
    )


@pytest.mark.parametrize("agent", ["model:x", "python:m:f", "http://me:pa55@host/v1"])
def test_c8_eval_names_the_command_of_other_agents(agent):
    result = CliRunner().invoke(app, ["eval", "--agent", agent])
    assert result.exit_code == 2
    assert "search-env bench PROTOCOL --agent" in result.output
    assert "pa55" not in result.output


def test_c8_a_function_in_the_current_folder_plays(tmp_path):
    (tmp_path / "mine.py").write_text("def f(prompt, stop):\n    return '<answer> x </answer>'\n")
    out = tmp_path / "r.jsonl"
    script = tmp_path / "bin" / "search-env"  # as installed: its own folder is on the path
    script.parent.mkdir()
    script.write_text(MAIN)
    result = subprocess.run(
        [
            *(sys.executable, script, "bench", BENCH, "--agent", "python:mine:f"),
            *("--limit", "1", "--out", out),
        ],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(out.read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize(
    ("source", "agent", "message"),
    [
        ("f = 3", "python:odd:f", "to be a function (prompt, stop) -> text, got int"),
        ("1 / 0", "python:odd:f", "ZeroDivisionError"),
        ("def f(:", "python:odd:f", "SyntaxError"),
        ("", "python:odd:f", "has no attribute 'f'"),
        ("", "python:odd", "Name both, with a colon between"),
        ("", "python::f", "Name both, with a colon between"),
    ],
)
def test_c8_functions_that_cannot_be_used(tmp_path, monkeypatch, source, agent, message):
    (tmp_path / "odd.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "odd", raising=False)
    result = CliRunner().invoke(app, ["bench", BENCH, "--agent", agent])
    sys.modules.pop("odd", None)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("name", "value", "colors"),
    [("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("TERM", "dumb", False)],
)
def test_c8_ansi_rendering_follows_the_terminal(monkeypatch, name, value, colors):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    env = gym.make("SearchQA-Toy-v0", render_mode="ansi")
    env.reset(seed=0)
    assert ("\x1b[" in env.render()) == colors
    env.close()
    from search_env.rendering import render_ansi

    assert "\x1b[" in render_ansi(episode().frame(), color=True)
    assert "\x1b[" not in render_ansi(episode().frame(), color=False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_c8_any_encoding(tmp_path, encoding):
    path = tmp_path / "\u540d.json"
    row = {"question": "?", "golden_answers": ["a"], "output": {"pred": "\u4e2d\u6587"}}
    path.write_text(json.dumps([row]), "utf-8")
    result = command("score", path, cwd=tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert result.returncode == 0, result.stderr
    assert (b"\xe5\x90\x8d" in result.stdout) == (encoding == "utf-8")
    missing = command("score", tmp_path / "\u4e2d", cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert missing.returncode == 2
    assert b"Traceback" not in missing.stderr
