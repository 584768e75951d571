"""``search-env convert``: a folder with the numbers and the tokenizer of its ``.gguf`` file."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from typer.testing import CliRunner

from search_env.agents.cli import convert as converting
from search_env.agents.models import load_model
from search_env.cli.main import app
from search_env.tokens.tokenizer import load_tokenizer
from tests.agents.test_gguf import logits, make_model, write


def run(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.mark.parametrize(("kind", "dtype"), [("F32", "fp32"), ("Q4_1", "fp32"), ("Q8_0", "bf16")])
def test_the_folder_computes_what_the_file_computes(tmp_path, kind, dtype):
    path = write(tmp_path / "tiny.gguf", make_model(), kind=kind)
    result = run(path, "--out", tmp_path / "made" / "tiny", "--dtype", dtype)
    assert result.exit_code == 0, result.output
    folder, torch_dtype = tmp_path / "made" / "tiny", getattr(torch, _TORCH[dtype])
    converted, source = (load_model(name, dtype=torch_dtype) for name in (folder, path))
    assert torch.equal(logits(converted), logits(source))
    assert json.loads((folder / "config.json").read_text())["dtype"] == _TORCH[dtype]
    own, theirs = load_tokenizer(str(folder)), load_tokenizer(str(path))
    assert own.digest == theirs.digest
    assert own.chat_template.text == "{{ messages }}"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 95


_TORCH = {"fp32": "float32", "bf16": "bfloat16"}


def test_the_card_names_the_source(tmp_path):
    path = write(tmp_path / "tiny.gguf", make_model(), kind="Q4_1")
    card = converting.convert(path, tmp_path / "tiny")
    assert card == json.loads((tmp_path / "tiny" / converting.CARD).read_text())
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (card["source"], card["architecture"]) == ("tiny.gguf", "llama")
    # Q4_1: embedding and seven matrices in each of two layers; the five norms stay float32.
    assert card["tensors"] == {"Q4_1": 15, "F32": 5}
    assert card["parameters"] == sum(p.numel() for p in make_model().parameters())
    assert {"python", "transformers", "gguf"} <= card["versions"].keys()


def test_what_is_there_is_kept_and_nothing_is_left_half_made(tmp_path, monkeypatch):
    path = write(tmp_path / "tiny.gguf", make_model())
    (tmp_path / "there").mkdir()
    result = run(path, "--out", tmp_path / "there")
    assert result.exit_code == 2
    assert "a folder that does not exist" in " ".join(result.output.split())
    assert not any((tmp_path / "there").iterdir())

    def failing(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converting.json, "dumps", failing)
    assert run(path, "--out", tmp_path / "new").exit_code == 2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["there", "tiny.gguf"]


def test_other_sources_and_types_are_refused(tmp_path):
    path = write(tmp_path / "tiny.gguf", make_model())
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.bin").write_bytes(b"GGUF")
    for source, words in (
        (tmp_path / "none.gguf", "got no file"),
        (tmp_path / "folder", "got a folder"),
        (tmp_path / "a.bin", "got another file"),
    ):
        result = run(source, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())
    result = run(path, "--out", tmp_path / "out", "--dtype", "int8")
    assert result.exit_code == 2
    assert "int8" in result.output
