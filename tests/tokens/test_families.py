"""Tokenizers of published families: how sequences begin and end, exact bytes, inert text."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import TokenizerError, UnsupportedTokenizerError
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.tokens.families import FAMILIES, TEXT, added, byte_level, sentencepiece

CASES = sorted(FAMILIES)


def real_tokenizers() -> list[str]:
    """Real files: the data folder's, and those in the folders of $SEARCH_ENV_TOKENIZERS."""
    paths = []
    if data := os.environ.get("SEARCH_ENV_DATA"):
        paths += [str(p) for p in sorted(Path(data, "tokenizers").glob("*.json*"))]
    if folder := os.environ.get("SEARCH_ENV_TOKENIZERS"):
        paths += [str(p.parent) for p in sorted(Path(folder).glob("*/tokenizer.json"))]
    return paths


REAL = real_tokenizers()


def saved(folder: Path, spec: dict, **files: object) -> str:
    (folder / "tokenizer.json").write_text(json.dumps(spec), "utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return str(folder)


def names_of(tokenizer: Tokenizer, ids) -> tuple[str, ...]:
    names = {i: name for name, i in tokenizer.control_tokens.items()}
    return tuple(names[i] for i in ids)


# A4: how sequences begin and end.


@pytest.mark.parametrize("case", CASES)
def test_a4_beginning_and_ends_are_those_of_the_owner(case, written):
    family, tokenizer = FAMILIES[case], load_tokenizer(written[case])
    assert names_of(tokenizer, tokenizer.bos_ids) == family.bos
    assert frozenset(names_of(tokenizer, tokenizer.eos_ids)) == family.ends


def test_a4_the_configuration_comes_before_the_post_processor(tmp_path):
    spec = byte_level(["<s>", "</s>"], bos=["<s>"])
    assert load_tokenizer(saved(tmp_path, spec)).bos_ids == (261,)
    saved(tmp_path, spec, tokenizer_config={"add_bos_token": False, "bos_token": "<s>"})
    assert load_tokenizer(str(tmp_path)).bos_ids == ()


def test_a4_a_name_counts_as_an_end_only_where_the_vocabulary_says_special(tmp_path):
    spec = byte_level(["<eos>", ("</s>", TEXT)])
    assert load_tokenizer(saved(tmp_path, spec)).eos_ids == {261}
    saved(tmp_path, spec, tokenizer_config={"eos_token": "</s>"})
    assert load_tokenizer(str(tmp_path)).eos_ids == {261, 262}


def test_a4_no_known_end_is_said(tmp_path):
    name = saved(tmp_path, byte_level(["<fin>", "<begin>"]))
    with pytest.warns(UserWarning, match=r"eos_token=.*generation_config\.json"):
        assert not load_tokenizer(name).eos_ids
    assert not load_tokenizer(name, eos_token=()).eos_ids
    chosen = load_tokenizer(name, eos_token="<fin>", bos_token="<begin>")
    assert (chosen.eos_ids, chosen.bos_ids) == ({261}, (262,))
    assert load_tokenizer(name, eos_token=["<fin>", "<begin>"]).eos_ids == {261, 262}
    assert pickle.loads(pickle.dumps(chosen)).bos_ids == (262,)
    with pytest.raises(TokenizerError, match=r"eos_token.*'<fim>'.*Did you mean '<fin>'"):
        load_tokenizer(name, eos_token="<fim>")


def test_a4_arguments_come_before_the_files(written):
    tokenizer = load_tokenizer(written["gemma"], bos_token="", eos_token="<end_of_turn>")
    assert (tokenizer.bos_ids, len(tokenizer.eos_ids)) == ((), 1)


def test_a4_digests_tell_beginnings_apart(written):
    with_bos = load_tokenizer(written["llama-2"])
    without = load_tokenizer(written["llama-2"], bos_token="")
    assert with_bos.digest != without.digest
    assert load_tokenizer("byte").digest.startswith("f47bac09")  # as published


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", "[1]"),
        ("generation_config.json", "{"),
        ("generation_config.json", '{"eos_token_id": "2"}'),
        ("generation_config.json", '{"eos_token_id": [true]}'),
        ("special_tokens_map.json", "[" * 100_000),
    ],
)
def test_a4_damaged_side_files_are_named(tmp_path, file, content):
    name = saved(tmp_path, byte_level(["<eos>"]))
    (tmp_path / file).write_text(content)
    with pytest.raises(TokenizerError, match=file):
        load_tokenizer(name)


def test_a4_tokens_that_only_the_configuration_adds(tmp_path):
    spec = byte_level(["<eos>"])
    entry = {**added("<late>", 262), "special": False}
    del entry["id"]
    saved(tmp_path, spec, tokenizer_config={"added_tokens_decoder": {"262": entry}})
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.size, tokenizer.token_bytes[262]) == (263, b"<late>")
    assert tokenizer.encode("<late>", special=True).tolist() == [262]
    assert 262 not in tokenizer.encode("<late>")


def test_all_files_are_kept(written):
    assert set(load_tokenizer(written["gemma"]).files) == {
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    }


# A5: exact bytes.


def check_table(tokenizer: Tokenizer) -> None:
    """Compare each id behind an "a": SentencePiece strips the space in front of a whole text."""
    library = tokenizers.Tokenizer.from_str(tokenizer.files["tokenizer.json"])
    first = max(i for i, text in enumerate(tokenizer.token_bytes) if text == b"a")  # no byte token
    for i, text in enumerate(tokenizer.token_bytes):
        theirs = library.decode([first, i], skip_special_tokens=False)
        assert theirs == "a" + text.decode("utf-8", "replace"), i


@pytest.mark.parametrize("case", CASES)
def test_a5_the_table_is_the_librarys_decoding_of_each_id(case, written):
    check_table(load_tokenizer(written[case]))


@pytest.mark.parametrize("name", REAL, ids=lambda name: Path(name).name)
def test_a5_the_table_is_the_librarys_decoding_of_each_id_of_real_files(name):
    check_table(load_tokenizer(name))


@pytest.mark.parametrize(
    "decoder",
    [
        {
            "type": "Sequence",
            "decoders": [
                {"type": "ByteFallback"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
            ],
        },
        {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"Regex": "▁|_"}, "content": " "},
                {"type": "Strip", "content": "x", "start": 1, "stop": 0},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
    ],
)
def test_a5_other_decoders(tmp_path, decoder):
    spec = sentencepiece(["<unk>", ("▁▁", TEXT), ("a▁b", TEXT), "</s>"])
    check_table(load_tokenizer(saved(tmp_path, {**spec, "decoder": decoder})))


def test_a5_added_tokens_of_byte_level_vocabularies(tmp_path):
    entries = [("Ġx", TEXT), ("two words", TEXT), ("東京", TEXT), "<eos>"]
    tokenizer = load_tokenizer(saved(tmp_path, byte_level(entries)))
    assert tokenizer.token_bytes[261:264] == (b" x", b"two words", "東京".encode())
    check_table(tokenizer)


def test_a5_a_byte_may_be_a_token_of_its_own(tmp_path):
    """Gemma 2 writes a tab as itself, and has no <0x09>."""
    spec = sentencepiece(["<unk>", "</s>"], pieces=["\t"])
    vocabulary = spec["model"]["vocab"]
    vocabulary["\t"] = vocabulary.pop("<0x09>")
    tokenizer = load_tokenizer(saved(tmp_path, spec))
    check_table(tokenizer)
    assert tokenizer.decode(tokenizer.encode("a\tb\x08")) == "a\tb\x08"


def test_a5_a_decoder_of_another_kind_is_refused(tmp_path):
    spec = {**byte_level(["<eos>"]), "decoder": {"type": "BPEDecoder", "suffix": "</w>"}}
    with pytest.raises(UnsupportedTokenizerError, match="BPEDecoder"):
        load_tokenizer(saved(tmp_path, spec))


# A6: outside text stays text.


def outside_texts(tokenizer: Tokenizer) -> st.SearchStrategy[str]:
    names = sorted(tokenizer.control_tokens)
    pieces = st.one_of(
        st.sampled_from(names),
        st.builds(lambda name, cut: name[:cut], st.sampled_from(names), st.integers(1, 12)),
        st.text("ab <|>/h1\n é東", max_size=6),
    )
    return st.lists(pieces, max_size=8).map("".join)


@pytest.mark.parametrize("case", CASES)
def test_a6_no_added_token_comes_out_of_outside_text(case, written):
    tokenizer = load_tokenizer(written[case])

    @given(outside_texts(tokenizer))
    def check(text: str) -> None:
        ids = tokenizer.encode(text).tolist()
        assert tokenizer.control_ids.isdisjoint(ids)
        if "▁" not in text:  # SentencePiece has a space for it
            assert tokenizer.decode(ids) == text

    check()


@pytest.mark.parametrize("name", REAL, ids=lambda name: Path(name).name)
def test_a6_no_added_token_of_real_files_comes_out_of_outside_text(name):
    tokenizer = load_tokenizer(name)
    for token, i in tokenizer.control_tokens.items():
        for text in (token, f"a {token}b", token * 2):
            assert tokenizer.control_ids.isdisjoint(tokenizer.encode(text).tolist()), token
        assert i in tokenizer.encode(token, special=True)


def test_a6_every_added_token_but_white_space_is_a_control_token(written):
    for case in CASES:
        spec = FAMILIES[case].spec()
        tokenizer = load_tokenizer(written[case])
        for entry in spec["added_tokens"]:
            is_space = not entry["content"].strip(" \n\u2581")
            assert (entry["id"] in tokenizer.control_ids) is not is_space, entry


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_a6_tokens_that_the_model_merges_itself(tmp_path, ignore_merges):
    """A marker in the vocabulary may be reached by merges, or as a word of its own."""
    words = ("<t", "<to", "<too", "<tool", "<tool>")
    spec = byte_level(["<eos>", ("<tool>", TEXT), ("é", TEXT)], words=words)
    spec["added_tokens"][1]["id"] = spec["model"]["vocab"]["<tool>"]
    spec["added_tokens"][2]["id"] = 262
    spec["model"]["ignore_merges"] = ignore_merges
    spec["pre_tokenizer"] = spec["pre_tokenizer"]["pretokenizers"][1]
    tokenizer = load_tokenizer(saved(tmp_path, spec))
    for text in ("<tool>", "a<tool><tool>b", "<tool>é<tool>"):
        ids = tokenizer.encode(text)
        assert tokenizer.control_ids.isdisjoint(ids.tolist())
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("<tool>", special=True).tolist() == [spec["added_tokens"][1]["id"]]


def test_white_space_that_is_added_stays_in_use(written):
    tokenizer = load_tokenizer(written["gemma"])
    newlines = FAMILIES["gemma"].spec()["model"]["vocab"]["\n\n"]
    assert newlines in tokenizer.encode("a\n\nb")


# B13: long texts.


@given(text=st.text("ab the\n.é", max_size=400), times=st.integers(1, 60), limit=st.integers(1, 50))
def test_b13_the_first_ids_are_those_of_the_whole_text(text, times, limit):
    tokenizer = load_tokenizer("world-1k")
    assert (
        tokenizer.encode(text * times, limit=limit).tolist()
        == tokenizer.encode(text * times)[:limit].tolist()
    )


@pytest.mark.parametrize("name", REAL, ids=lambda name: Path(name).name)
def test_b13_the_first_ids_of_real_texts_are_those_of_the_whole_text(name):
    tokenizer = load_tokenizer(name)
    rng = np.random.default_rng(0)
    words = ["Oslo", " the", " of", "\n\n", "  ", " 1234567", "é", "東京", "...", " <h1>", "aaaa"]
    text = "".join(rng.choice(words, 20_000))
    whole = tokenizer.encode(text)
    for limit in (1, 100, 1000, 5000):
        assert tokenizer.encode(text, limit=limit).tolist() == whole[:limit].tolist()
