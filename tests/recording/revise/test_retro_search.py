"""The algorithm on plain traces, whose roll-outs a script writes: order, value, acceptance."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import ConfigurationError
from search_env.recording.revise.retro_search import RetroSearch, figures, retro_search
from search_env.recording.revise.settings import KEYWORDS, PLAIN, RevisionSettings
from search_env.recording.revise.steps import plain_trace
from search_env.tokens.tokenizer import load_tokenizer

BYTE = load_tokenizer("byte")
LONG = "A.\n\nWait, b.\n\nBut c.\n\nd.\n\nHmm, e.\n\n4"


def trace_of(text, prompt="?"):
    return plain_trace(BYTE, prompt, text, "4")


def is_right(trace):
    return BYTE.decode(trace.tokens).endswith("4")


def search_with(**changes):
    return RetroSearch(BYTE, replace(PLAIN, **changes), is_right)


class Script:
    """Writes given tails, one list of them for each branch, and keeps the branches."""

    def __init__(self, *tails):
        self.tails, self.branches = list(tails), []

    def __call__(self, branch, count):
        self.branches.append(branch)
        tails = self.tails.pop(0) if self.tails else ["3"]
        tails = [tails] * count if isinstance(tails, str) else tails
        prefix = branch.trace.tokens[: branch.position].tolist()
        return [plain_trace(BYTE, "?", [*prefix[1:], *BYTE.encode(t)], "4") for t in tails]

    @property
    def prefixes(self):
        return [BYTE.decode(b.trace.tokens[1 : b.position]) for b in self.branches]


def text_of(revision):
    return BYTE.decode(revision.after.tokens[1:])


def test_every_switch_is_tried_in_order_and_nothing_wrong_is_taken():
    script, search = Script(), search_with()
    trace = trace_of(LONG)
    revision = retro_search(search, trace, script)
    assert revision.after is trace
    assert revision.taken == ()
    assert script.prefixes == [
        "A.\n\n",
        "A.\n\nWait, b.\n\n",
        "A.\n\nWait, b.\n\nBut c.\n\nd.\n\n",
    ]
    assert [branch.number for branch in script.branches] == [0, 1, 2]
    assert [branch.cost for branch in script.branches] == [5, 4, 2]
    assert revision.tried == Counter({("continue", "wrong"): 3})
    assert all(branch.ban.keywords == KEYWORDS for branch in script.branches)


@pytest.mark.parametrize(
    ("tail", "taken"),
    [("b.\n\nc.\n\nd.\n\n4", True), ("b.\n\nc.\n\nd.\n\ne.\n\n4", False), ("4", True)],
)
def test_a_right_roll_out_is_taken_only_if_it_has_strictly_fewer_steps(tail, taken):
    """Five steps follow the first switch: four are fewer, five are not."""
    revision = retro_search(search_with(), trace_of(LONG), Script(tail))
    assert text_of(revision) == ("A.\n\n" + tail if taken else LONG)
    assert revision.taken == (("continue",) if taken else ())
    why = "taken" if taken else "longer"
    assert revision.tried["continue", why] == 1


def test_the_new_trace_is_revised_from_the_same_place_on():
    script = Script("x.\n\nWait, y.\n\nBut 4", "4")
    revision = retro_search(search_with(), trace_of(LONG), script)
    assert script.prefixes == ["A.\n\n", "A.\n\nx.\n\n"]
    assert text_of(revision) == "A.\n\nx.\n\n4"
    assert revision.taken == ("continue", "continue")


def test_without_a_second_look_the_place_after_it_is_next():
    script = Script("x.\n\nWait, y.\n\nBut 4")
    revision = retro_search(search_with(reexamine=False), trace_of(LONG), script)
    assert script.prefixes == ["A.\n\n", "A.\n\nx.\n\nWait, y.\n\n"]
    assert text_of(revision) == "A.\n\nx.\n\nWait, y.\n\nBut 4"


@pytest.mark.parametrize(
    ("tails", "k", "taken"),
    [
        (["4", "4", "4", "3"], 3, "4"),
        (["4", "4", "3", "3"], 3, None),  # too few are right
        (["4", "4", "3", "3"], 2, None),  # 0.9 ** -4 / 2 is less than 1
        (["4", "4", "4", "3"], 2, "4"),
        (["x.\n\n4", "x.\n\n4", "4", "x.\n\n4"], 3, "4"),  # the cheapest is kept
        (["x.\n\ny.\n\nz.\n\n4", "3", "x.\n\ny.\n\nz.\n\n4", "3"], 2, None),  # no gain in the mean
    ],
)
def test_k_of_n_must_be_right_and_their_mean_worth_more(tails, k, taken):
    search = search_with(rollouts=4, least_right=k)
    revision = retro_search(search, trace_of(LONG), Script(tails))
    assert text_of(revision) == (LONG if taken is None else "A.\n\n" + taken)


def test_the_value_by_hand():
    """Five steps are left; roll-outs have 1, 3 and 5, of which the last is wrong."""
    search = search_with(rollouts=3, least_right=2, gamma=0.5)
    script = Script(["4", "b.\n\nc.\n\n4", "b.\n\nc.\n\nd.\n\ne.\n\n5"])
    rollouts = script(next(search.revise(trace_of(LONG))), 3)
    outcome = search.judge(script.branches[0], rollouts)
    assert (outcome.why, outcome.right) == ("taken", 2)
    assert outcome.gain == (0.5**-4 + 0.5**-2) / 3
    assert outcome.trace is rollouts[0]


def test_tails_of_thousands_of_steps_have_a_value():
    search = search_with()
    long = trace_of("A.\n\nWait, b.\n\n" + "c.\n\n" * 20_000 + "4")
    script = Script("4")
    assert text_of(retro_search(search, long, script)) == "A.\n\n4"
    other = Script("c.\n\n" * 20_000 + "4")
    assert text_of(retro_search(search, trace_of("A.\n\nWait.\n\n4"), other)) == "A.\n\nWait.\n\n4"


def test_of_equally_cheap_ones_the_one_with_fewer_tokens_is_kept():
    search = search_with(rollouts=3, least_right=3)
    revision = retro_search(search, trace_of(LONG), Script(["abc 4", "a 4", "b 4"]))
    assert text_of(revision) == "A.\n\na 4"


def test_tokens_may_cost_too():
    trace = trace_of("A.\n\nWait, bcdefgh.\n\n4")
    cheaper = Script("b.\n\n4")
    assert retro_search(search_with(), trace, Script("b.\n\n4")).taken == ()
    assert retro_search(search_with(token_cost=0.01), trace, cheaper).taken == ("continue",)


def test_a_partial_revision_begins_at_a_place_that_the_seed_draws():
    starts = set()
    for seed in range(30):
        script = Script()
        retro_search(search_with(partial=True), trace_of(LONG), script, (seed,))
        again = Script()
        retro_search(search_with(partial=True), trace_of(LONG), again, (seed,))
        assert script.prefixes == again.prefixes
        starts.add(len(script.branches))
    assert starts == {1, 2, 3}
    assert retro_search(search_with(partial=True), trace_of("4"), Script()).taken == ()


def test_a_roll_out_may_be_as_long_as_the_settings_say():
    assert _first(search_with()).limit == 64
    assert _first(search_with(longest=None)).limit is None
    long = trace_of("A.\n\nWait, " + "b" * 200 + "4")
    assert next(search_with(longest=1.5).revise(long)).limit == 311  # 1.5 times 207 bytes


def _first(search):
    return next(search.revise(trace_of(LONG)))


def test_figures_of_a_revision():
    search = search_with()
    revision = retro_search(search, trace_of(LONG), Script("4"))
    tokens = (len(LONG), len("A.\n\n4"))
    assert figures(search, revision) == ((0, 0), (6, 2), tokens)


@given(st.data())
def test_a_revision_is_right_and_never_costs_more(data):
    """Whatever roll-outs write, right or wrong, shorter or longer."""
    pieces = st.lists(st.sampled_from(["a.", "Wait", "\n\n", "But", "4", " "]), max_size=12)
    text = "".join(data.draw(pieces)) + "4"
    settings = replace(PLAIN, rollouts=3, least_right=data.draw(st.integers(1, 3)))
    search = RetroSearch(BYTE, settings, is_right)

    def sample(branch, count):
        tails = ["".join(data.draw(pieces)) for _ in range(count)]
        prefix = branch.trace.tokens[1 : branch.position].tolist()
        return [plain_trace(BYTE, "?", [*prefix, *BYTE.encode(tail)]) for tail in tails]

    trace = trace_of(text)
    revision = retro_search(search, trace, sample)
    assert is_right(revision.after)
    cost = search.steps.cost
    assert cost(revision.after) < cost(trace) if revision.taken else revision.after is trace
    assert sum(revision.tried.values()) >= len(revision.taken)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"least_right": 5}, "at most rollouts=4, got 5"),
        ({"rollouts": 0}, "rollouts"),
        ({"gamma": 1.0}, "gamma to be a number above 0 and below 1"),
        ({"gamma": float("nan")}, "gamma"),
        ({"operators": ("skp",)}, "Did you mean 'skip'"),
        ({"operators": ()}, "at least one operator"),
        ({"keywords": ("Wait", " ")}, "keywords with letters"),
        ({"separator": "a"}, "a separator of white space"),
        ({"separator": ""}, "a separator of white space"),
        ({"search_cost": -1}, "search_cost"),
        ({"matcher": "em"}, "matcher"),
        ({"least_score": 0.0}, "least_score"),
        ({"grounding": "none"}, "grounding"),
        ({"longest": 0}, "longest"),
        ({"skip_from": "start"}, "skip_from"),
        ({"partial": 1}, "partial"),
        ({"ban_from": 0}, "ban_from"),
        ({"rolouts": 3}, "Did you mean 'rollouts'"),
    ],
)
def test_settings_that_cannot_work_are_named(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        RevisionSettings().changed(changes)


def test_settings_go_through_json():
    settings = RevisionSettings(keywords=("So",), gamma=0.5)
    assert RevisionSettings().changed(settings.to_json()) == settings
    assert np.isclose(RevisionSettings().gamma, 0.9)
