"""Tokenizers as byte tables: exact bytes, inert special names, refusals that help."""

from __future__ import annotations

import json
import lzma
import pickle

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import TokenizerError, UnsupportedTokenizerError
from search_env.tokens.tokenizer import BUNDLED, Tokenizer, load_tokenizer

PRINTABLE = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"]), max_size=60
)


def sentencepiece_spec(**model) -> dict:
    """A SentencePiece-style BPE with byte fallback, as Llama 2 has it, over the letters a to d."""
    pieces = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", *"abcd", "▁a", "ab"]
    return {
        "version": "1.0",
        "added_tokens": [
            dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            | {"id": 1, "content": "</s>", "special": True}
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "ByteFallback"},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [["▁", "a"], ["a", "b"]],
            **model,
        },
    }


def saved(tmp_path, spec) -> str:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec), "utf-8")
    return str(path)


@given(text=PRINTABLE)
def test_bytes_of_encoded_text_are_the_text(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.bytes_of(ids) == text.encode()
    assert tokenizer.decode(ids) == text


def test_table_agrees_with_the_librarys_own_decoder(data_dir):
    library = tokenizers.Tokenizer.from_file(str(data_dir / "tokenizers" / "gpt2.json"))
    ours = load_tokenizer(str(data_dir / "tokenizers" / "gpt2.json"))
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(0, 50257, size=8).tolist()
        assert ours.decode(ids) == library.decode(ids, skip_special_tokens=False)


def test_published_ids_of_hello_world(data_dir):
    qwen = load_tokenizer(str(data_dir / "tokenizers" / "qwen2.json.xz"))
    assert qwen.encode("Hello world").tolist() == [9707, 1879]
    assert qwen.eos_ids == {151643, 151645}


def test_text_cannot_write_a_special_token(tokenizer: Tokenizer):
    name = tokenizer.token_bytes[min(tokenizer.eos_ids)].decode()
    assert not tokenizer.eos_ids & set(tokenizer.encode(f"a {name} b").tolist())
    assert tokenizer.eos_ids & set(tokenizer.encode(f"a {name} b", special=True).tolist())
    assert tokenizer.decode(tokenizer.encode(name)) == name


def test_lone_surrogates_become_question_marks():
    for name in BUNDLED:
        load_tokenizer(name).encode("\ud83d")
    assert load_tokenizer("byte").decode(load_tokenizer("byte").encode("a\ud83db")) == "a?b"


def test_bundled_tokenizers():
    world = load_tokenizer("world-1k")
    assert 900 <= world.size <= 1100
    assert len(world.eos_ids) == 1
    assert load_tokenizer("byte").size == 257
    assert load_tokenizer("toy").encode("find key3 <q>").tolist() == [23, 10, 1]


@given(text=st.text("abcdxé ", max_size=20))
def test_sentencepiece_with_byte_fallback_is_exact_and_adds_no_space(tmp_path_factory, text):
    tokenizer = load_tokenizer(saved(tmp_path_factory.mktemp("sp"), sentencepiece_spec()))
    assert tokenizer.bytes_of(tokenizer.encode(text)) == text.encode()
    assert tokenizer.eos_ids == {1}


def test_unigram_with_byte_fallback(tmp_path):
    spec = sentencepiece_spec()
    pieces = spec["model"]["vocab"]
    spec["model"] = {
        "type": "Unigram",
        "unk_id": 0,
        "byte_fallback": True,
        "vocab": [[piece, -1.0 if len(piece) < 3 else -10.0] for piece in pieces],
    }
    tokenizer = load_tokenizer(saved(tmp_path, spec))
    assert tokenizer.bytes_of(tokenizer.encode("ab cé")) == "ab cé".encode()


def test_metaspace_prefix_is_dropped(tmp_path):
    spec = sentencepiece_spec() | {"normalizer": None}
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}
    tokenizer = load_tokenizer(saved(tmp_path, spec))
    assert tokenizer.bytes_of(tokenizer.encode("ab a")) == b"ab a"


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "WordLevel"),
        (
            {
                "type": "WordPiece",
                "vocab": {"a": 0},
                "unk_token": "a",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 9,
            },
            "WordPiece",
        ),
        ({"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}, "Unigram"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": [], "byte_fallback": True}, "without all"),
    ],
)
def test_other_kinds_are_refused_with_the_kinds_that_work(tmp_path, model, kind):
    spec = sentencepiece_spec() | {"model": model, "added_tokens": []}
    with pytest.raises(UnsupportedTokenizerError, match=f"byte-level BPE.*{kind}"):
        load_tokenizer(saved(tmp_path, spec))


def test_a_token_outside_the_byte_alphabet_is_refused(tmp_path):
    spec = sentencepiece_spec(byte_fallback=False, vocab={"日": 0}, merges=[]) | {
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    }
    with pytest.raises(UnsupportedTokenizerError, match="added_tokens"):
        load_tokenizer(saved(tmp_path, spec))


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "a.json").write_text("{not json")
    (tmp_path / "b.json").write_text('{"model": {}}')
    (tmp_path / "c.json.xz").write_bytes(lzma.compress(b"{}" * 500)[:-9])
    (tmp_path / "d.json").write_bytes(b"\xff\xfe")
    for name in ("a.json", "b.json", "c.json.xz", "d.json"):
        with pytest.raises(TokenizerError, match="Expected"):
            load_tokenizer(str(tmp_path / name))
    with pytest.raises(TokenizerError, match="which is no file"):
        load_tokenizer(str(tmp_path / "missing.json"))
    with pytest.raises(TokenizerError, match="Did you mean 'world-1k'"):
        load_tokenizer("wrld-1k")


def hub_cache(root, repository: str, files: dict[str, str]):
    """Lay files out as the hub's client keeps them."""
    folder = root / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc")
    for name, text in files.items():
        (snapshot / name).write_text(text, "utf-8")


def test_hub_id_from_the_local_hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    spec = sentencepiece_spec()
    spec["added_tokens"][0]["content"] = "<|stop|>"
    config = json.dumps({"eos_token": {"content": "<|stop|>"}})
    files = {"tokenizer.json": json.dumps(spec), "tokenizer_config.json": config}
    hub_cache(tmp_path, "owner/model", files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    tokenizer = load_tokenizer("owner/model")
    assert tokenizer.encode("ab").tolist() == [spec["model"]["vocab"]["ab"]]
    assert tokenizer.eos_ids == {1}
    with pytest.raises(TokenizerError, match="pass the path"):
        load_tokenizer("owner/other-model")


def test_padding_to_the_models_logits():
    padded = load_tokenizer("byte").padded(300)
    assert (padded.size, padded.token_bytes[299]) == (300, b"")
    with pytest.raises(TokenizerError, match="at least 257"):
        load_tokenizer("byte").padded(256)


def test_pickle_keeps_the_name_only(tokenizer: Tokenizer):
    padded = tokenizer.padded(tokenizer.size + 3)
    data = pickle.dumps(padded)
    assert len(data) < 500
    assert pickle.loads(data).digest == padded.digest
    assert padded.digest != tokenizer.digest
