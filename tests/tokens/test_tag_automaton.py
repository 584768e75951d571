"""The tag automaton against regular expressions over the joined bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env import paths
from search_env.errors import ProtocolError
from search_env.protocols.registry import get_protocol
from search_env.tokens.tag_automaton import (
    END_OF_SEQUENCE,
    EVENT_SHIFT,
    STATE_MASK,
    TagEnd,
    build_tag_automaton,
    load_tag_automaton,
)
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.work import count_calls

PROTOCOLS = ("r1-searcher", "search-r1")


def tags_of(protocol: str) -> tuple[str, ...]:
    return get_protocol(protocol).tag_texts


def expected(tokenizer: Tokenizer, tags: Sequence[str], ids: list[int]) -> list[tuple[int, int]]:
    """(position of the id in which it ends, tag), found by re in the joined bytes."""
    owner = [i for i, token in enumerate(ids) for _ in tokenizer.token_bytes[token]]
    pattern = re.compile(b"|".join(re.escape(tag.encode()) for tag in tags))
    return [
        (owner[m.end() - 1], tags.index(m.group().decode()))
        for m in pattern.finditer(tokenizer.bytes_of(ids))
    ]


def streams(tokenizer: Tokenizer, tags: Sequence[str]):
    """Ids of tag-like text and ids from anywhere, mixed."""
    pieces = [*tags, *(tag[:-1] for tag in tags), *(tag[1:] for tag in tags), ">", "<", "é", " x"]
    text = st.lists(st.sampled_from(pieces), max_size=6).map("".join)
    encoded = text.map(lambda t: tokenizer.encode(t).tolist())
    anywhere = st.lists(st.integers(0, tokenizer.size - 1), max_size=4)
    runs = st.lists(encoded | anywhere, max_size=6)
    return runs.map(lambda parts: [i for part in parts for i in part])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(data=st.data())
def test_finds_what_a_regular_expression_finds(tokenizer, protocol, data):
    tags = tags_of(protocol)
    ids = data.draw(streams(tokenizer, tags))
    ids = [i for i in ids if i not in tokenizer.eos_ids]
    assert load_tag_automaton(tokenizer, tags).find(ids) == expected(tokenizer, tags, ids)


@given(text=st.lists(st.sampled_from("ab<>/"), max_size=40).map("".join))
def test_overlapping_tags_match_as_finditer_does(text):
    byte, tags = load_tokenizer("byte"), ["aba", "bb", "<a", "a>b"]
    ids = byte.encode(text).tolist()
    assert build_tag_automaton(byte, tags).find(ids) == expected(byte, tags, ids)


def word_tokenizer(*words: bytes) -> Tokenizer:
    return Tokenizer("words", words, lambda text, special: [], [len(words) - 1])


def test_several_tags_and_left_over_bytes_in_one_token():
    automaton = build_tag_automaton(word_tokenizer(b"x<q>ab</q>c", b"<eos>"), ["<q>", "</q>"])
    code = int(automaton.table[0, automaton.classes[0]])
    assert automaton.events[code >> EVENT_SHIFT] == (TagEnd(0, 7), TagEnd(1, 1))
    assert code & STATE_MASK == 0


def test_a_tag_over_tokens_that_split_a_character():
    words = ["<é>".encode()[:2], "<é>".encode()[2:], b"."]
    assert build_tag_automaton(word_tokenizer(*words), ["<é>"]).find([0, 1, 0, 0, 1]) == [
        (1, 0),
        (4, 0),
    ]


def test_end_of_sequence_is_an_event_in_every_state():
    byte = load_tokenizer("byte")
    automaton = build_tag_automaton(byte, ["<q>"])
    for state in range(len(automaton.table)):
        code = int(automaton.table[state, automaton.classes[256]])
        assert automaton.events[code >> EVENT_SHIFT] == (END_OF_SEQUENCE,)


def test_a_tag_that_is_an_added_special_token():
    tokenizer = word_tokenizer(b"<search>", b"x", b"<eos>")
    assert build_tag_automaton(tokenizer, ["<search>"]).find([1, 0]) == [(1, 0)]


@pytest.mark.parametrize("tags", [["<q>", "<q>"], ["<q", "a<qb"], [""]])
def test_tags_that_cannot_be_told_apart_are_refused(tags):
    with pytest.raises(ProtocolError, match="Expected"):
        build_tag_automaton(load_tokenizer("byte"), tags)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_qwen_vocabulary_builds_with_few_calls_small_and_cached(
    data_dir, protocol, tmp_path, monkeypatch
):
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(tmp_path))
    qwen = load_tokenizer(str(data_dir / "tokenizers" / "qwen2.json.xz")).padded(151_936)
    load_tag_automaton.cache_clear()
    calls = count_calls(lambda: load_tag_automaton(qwen, tags_of(protocol)))
    assert calls < 4 * qwen.size
    built = load_tag_automaton(qwen, tags_of(protocol))
    assert built.nbytes < 32e6
    (file,) = (tmp_path / "matchers").iterdir()
    load_tag_automaton.cache_clear()
    cached = load_tag_automaton(qwen, tags_of(protocol))
    np.testing.assert_array_equal(cached.table, built.table)
    np.testing.assert_array_equal(cached.classes, built.classes)
    assert cached.events == built.events
    file.write_bytes(file.read_bytes()[:1000])  # a damaged cache is rebuilt
    load_tag_automaton.cache_clear()
    np.testing.assert_array_equal(load_tag_automaton(qwen, tags_of(protocol)).table, built.table)
