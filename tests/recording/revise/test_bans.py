"""Bans: no forbidden text comes out of any tokenizer, and all else stays possible."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from search_env.protocols.registry import get_protocol
from search_env.recording.revise.bans import ActiveBan, Ban, BanTables, forbidden_ids, tags_of
from search_env.recording.revise.settings import KEYWORDS
from search_env.tokens.tokenizer import load_tokenizer

BYTE = load_tokenizer("byte")
TAGS, ALLOWED, ENDS = tags_of(get_protocol("r1-searcher").markup, forbid_queries=True)


def follow(ban, tokenizer, text, prefix=""):
    """Whether each id of a text is allowed by a ban, and whether the ban is over then."""
    active = ActiveBan(BanTables(ban, tokenizer), tokenizer.encode(prefix).tolist())
    ids = tokenizer.encode(text).tolist() if isinstance(text, str) else text
    allowed = []
    for token in ids:
        allowed.append(active.is_over or token not in active.forbidden())
        active.advance(token)
    return allowed, active.is_over


def refused(ban, tokenizer, text, prefix=""):
    return not all(follow(ban, tokenizer, text, prefix)[0])


def test_tags_of_a_protocol_by_role():
    assert TAGS == ("<|begin_of_query|>",)
    assert ALLOWED == ("<think>", "</think>", "<answer>", "</answer>")
    assert ENDS == ("</think>", "<answer>")
    tags, allowed, ends = tags_of(get_protocol("r1-searcher").markup, forbid_queries=False)
    assert (tags, allowed, ends) == ((), (), ("</think>", "<answer>", "<|begin_of_query|>"))
    assert tags_of(None, forbid_queries=True) == ((), (), ())


@pytest.mark.parametrize("text", ["Wait", "wait, so", " WAIT", "\n  But then", "butter"])
def test_no_step_begins_with_a_keyword(tokenizer, text):
    assert refused(Ban(KEYWORDS), tokenizer, text)
    assert refused(Ban(KEYWORDS), tokenizer, text, prefix="So.\n\n")


@pytest.mark.parametrize("text", ["We wait", " So. But", "Thus\nWait", "A man", "Bob", "Hence"])
def test_keywords_elsewhere_and_other_words_are_allowed(tokenizer, text):
    assert not refused(Ban(KEYWORDS), tokenizer, text)
    assert not refused(Ban(KEYWORDS), tokenizer, text, prefix="So.\n\n")


def test_only_the_next_step_is_without_keywords(tokenizer):
    ban = Ban(KEYWORDS)
    assert not refused(ban, tokenizer, "Thus it is.\n\nWait, no.")
    assert follow(ban, tokenizer, "Thus it is.\n\nW")[1]
    assert not follow(ban, tokenizer, "Thus it is.\nW")[1]
    assert not follow(ban, tokenizer, "\n\n")[1]  # nothing is written yet
    # In the middle of a step, that step is the next one.
    assert not refused(ban, tokenizer, "Wait", prefix="I say ")
    assert follow(ban, tokenizer, "so.\n\nA", prefix="I say ")[1]


def test_a_prefix_that_was_cut_before_its_separator_ends_its_step_first():
    ban = Ban(("Wait",))
    assert refused(ban, BYTE, "\n\nWait", prefix="So.")
    assert not refused(ban, BYTE, "\n\nNo, Wait", prefix="So.")


def test_half_a_keyword_is_begun_only_below_so_many_letters():
    """In bytes, where a keyword is spelled out: with 1 its first letter is forbidden."""
    for least, allowed in ((1, False), (2, True)):
        assert refused(Ban(("Wait",), ban_from=least), BYTE, "We") is not allowed
    assert not refused(Ban(("Wait",), ban_from=9), BYTE, "Wai")
    assert refused(Ban(("Wait",), ban_from=9), BYTE, "Wait")


def test_a_long_beginning_in_the_tokenizers_own_spelling_is_forbidden(tokenizer):
    word = "Alternatively"
    first, *rest = tokenizer.encode(word).tolist()
    letters = len(tokenizer.token_bytes[first])
    if not rest or letters < 3:
        pytest.skip("it is one id, or spelled in short ones")
    assert refused(Ban((word,)), tokenizer, [first])
    assert not refused(Ban((word,), ban_from=letters + 1), tokenizer, [first])
    assert refused(Ban((word,), ban_from=letters + 1), tokenizer, [first, *rest])


def test_keywords_of_two_words_are_begun_at_most(tokenizer):
    assert not refused(Ban(("Not sure",)), tokenizer, "Not only")
    assert refused(Ban(("Not sure",)), tokenizer, "Not sure")


def test_no_query_is_opened_and_no_half_of_its_tag_is_left(tokenizer):
    ban = Ban((), TAGS, ALLOWED, ENDS)
    for before in ("", "Thus", "Thus <", "<<", " </th"):
        ids = tokenizer.encode(before + TAGS[0]).tolist()
        allowed, _ = follow(ban, tokenizer, ids)
        written = tokenizer.decode(
            list(itertools.compress(ids, itertools.accumulate(allowed, min)))
        )
        assert not written.endswith("<|")  # stopped before what only the tag begins with
        assert not all(allowed)


@pytest.mark.parametrize("text", ["</think>", "<answer> x </answer>", "a < b <c> |d|", "<", "|>"])
def test_other_tags_and_signs_stay_allowed(tokenizer, text):
    assert not refused(Ban((), TAGS, ALLOWED, ENDS), tokenizer, text)
    assert not refused(Ban((), TAGS, ALLOWED, ENDS, for_good=True), tokenizer, text)


def test_the_next_step_ends_with_the_thought_or_the_answer_and_for_good_never_does(tokenizer):
    step, good = Ban((), TAGS, ALLOWED, ENDS), Ban((), TAGS, ALLOWED, ENDS, for_good=True)
    for text in ("So.\n\n.", "So</think>", "<answer>"):
        assert follow(step, tokenizer, text)[1]
        assert not follow(good, tokenizer, text)[1]
        assert not refused(step, tokenizer, text + TAGS[0])
        assert refused(good, tokenizer, text + TAGS[0])


@pytest.mark.parametrize("name", ["byte", "world-1k"])
def test_random_writers_never_write_what_is_forbidden(name):
    """A thousand writers try phrases in turn and drop one where its next id is forbidden."""
    tokenizer, random = load_tokenizer(name), np.random.default_rng(3)
    ban = Ban(("Wait", "But"), TAGS, ALLOWED, ENDS, ban_from=2)
    tables = BanTables(ban, tokenizer)
    phrases = ["Wait", " But", "\n\n", TAGS[0], "</think>", "Bu", "a.", " ", "<", "<|", "wAIt"]
    spelled = [tokenizer.encode(phrase).tolist() for phrase in phrases]
    dropped = steps = thoughts = 0
    for _ in range(1000):
        active, written = ActiveBan(tables), []
        while not active.is_over and len(written) < 30:
            for token in spelled[int(random.integers(len(spelled)))]:
                if active.is_over or token in active.forbidden():
                    dropped += not active.is_over
                    break
                written.append(token)
                active.advance(token)
        text = tokenizer.decode(written)
        assert not text.lower().lstrip().startswith(("wait", "but"))
        assert TAGS[0] not in text
        steps += "\n\n" in text.lstrip()
        thoughts += "</think>" in text
    assert min(dropped, steps, thoughts) > 200


def test_rows_without_a_ban_forbid_nothing():
    active = ActiveBan(BanTables(Ban(("Wait",)), BYTE))
    over = ActiveBan(BanTables(Ban(), BYTE))
    assert over.is_over
    assert forbidden_ids([None, over]) is None
    for letter in b"Wai":
        assert forbidden_ids([None, active, over]) is None  # no id completes the word yet
        active.advance(letter)
    assert [i.tolist() for i in forbidden_ids([None, active])] == [[], [ord("T"), ord("t")]]
