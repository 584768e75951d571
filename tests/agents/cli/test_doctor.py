"""``search-env doctor``: a report, an exit code, and options as those of train."""

from __future__ import annotations

from typer.testing import CliRunner

from search_env.cli.main import app

SMALL = ["--episodes", "2", "--num-envs", "2", "--max-tokens", "1024", "--dtype", "fp32"]


def run(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_the_bundled_model_passes_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("tiny-base", *SMALL, "--set", "algorithm.group_size=2")
    assert result.exit_code == 0, result.output
    for line in (
        "Tokenizer",
        "the model samples the environment's 1,024 ids",
        "0 errors",
        "a step about",
    ):
        assert line in result.output
    assert not list(tmp_path.iterdir())


def test_an_error_gives_exit_code_1_and_the_next_step():
    result = run("tiny-base", *SMALL, "--max-tokens", "8192")
    assert result.exit_code == 1, result.output
    assert "more than the model's context of 4,096" in result.output
    assert "Pass --max-tokens 4096 or less." in result.output


def test_a_model_that_does_not_exist_is_a_finding():
    result = run("./nope")
    assert result.exit_code in (1, 2)
    assert "does not exist" in result.output


def test_a_misspelt_option_is_found_before_anything_is_loaded():
    result = run("tiny-base", "--protocol", "serach-r1")
    assert result.exit_code == 2
    assert "search-r1" in result.output
