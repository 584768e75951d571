"""Tokenizers inside .gguf files, which transformers reads with the package gguf."""

from __future__ import annotations

import builtins
import os
from pathlib import Path

import pytest

from search_env.errors import TokenizerError
from search_env.tokens.tokenizer import load_tokenizer


def test_a4_without_gguf_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    true_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "gguf":
            raise ModuleNotFoundError("No module named 'gguf'", name="gguf")
        return true_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(TokenizerError, match=r"pip install .*\[gguf\]"):
        load_tokenizer(str(tmp_path / "model.gguf"))


def test_a4_a_missing_gguf_file_is_no_hub_id():
    with pytest.raises(TokenizerError, match="no file"):
        load_tokenizer("models/missing.gguf")


def test_a4_a_damaged_gguf_file_is_named(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(TokenizerError, match=r"model\.gguf.*tokenizer\.json"):
        load_tokenizer(str(tmp_path / "model.gguf"))


def test_a4_a_real_gguf_file_has_the_ids_of_its_tokenizer_json(data_dir):
    """$SEARCH_ENV_GGUF names a file of SmolLM2."""
    pytest.importorskip("gguf")
    path = os.environ.get("SEARCH_ENV_GGUF")
    if not path:
        pytest.skip("SEARCH_ENV_GGUF is not set: this test needs a GGUF file of SmolLM2")
    ours = load_tokenizer(path)
    theirs = load_tokenizer(str(Path(data_dir) / "tokenizers" / "smollm2.json"))
    assert ours.token_bytes == theirs.token_bytes
    assert (ours.bos_ids, ours.eos_ids) == (theirs.bos_ids, theirs.eos_ids)
    assert ours.control_ids == theirs.control_ids
    text = "Hello  world\n\n\u6771\u4eac 1234 <|im_end|>"
    assert ours.encode(text).tolist() == theirs.encode(text).tolist()
    assert ours.chat_template is not None
