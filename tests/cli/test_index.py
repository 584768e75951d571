"""``search-env index``: builds, refuses and checks."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from search_env.cli.main import app

PASSAGE = {"_id": "1", "title": "Ulm", "text": "a town on a river"}


def run(*arguments):
    return CliRunner().invoke(app, ["index", *map(str, arguments)])


@pytest.fixture
def built(tmp_path):
    corpus, index = tmp_path / "c.jsonl", tmp_path / "index"
    corpus.write_text(json.dumps(PASSAGE) + "\n")
    result = run(corpus, index)
    assert result.exit_code == 0, result.output
    return index


def test_b14_check_says_that_an_index_is_as_it_was_written(built):
    result = run("--check", built)
    assert result.exit_code == 0
    assert "as it was written, 1 passages" in result.output


def test_b14_check_finds_a_flipped_bit(built):
    file = built / "postings.impacts.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    result = run("--check", built)
    assert result.exit_code == 2
    assert "a postings.impacts.npy that was changed after it was written" in result.output


def test_b14_check_says_that_an_old_index_has_no_checksums(built):
    file = built / "format.json"
    content = json.loads(file.read_text())
    del content["checksum"], content["checksums"]
    file.write_text(json.dumps(content))
    result = run("--check", built)
    assert result.exit_code == 2
    assert "got an index of an earlier version, which has none" in result.output


@pytest.mark.parametrize("arguments", [[], ["corpus.jsonl"], ["--check", "i", "corpus.jsonl"]])
def test_b14_arguments_that_do_not_go_together(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Expected `search-env index CORPUS OUT` or `search-env index --check" in result.output
