from __future__ import annotations

import pytest

from agents.ladder import Stage, stage_examples, world_examples

STAGE = Stage("all", 1, 100, 2, copies=2, cards=3, thoughts=4, episodes=5)


def _tokens(examples):
    return [example.tokens.tolist() for example in examples]


def test_worlds_are_functions_of_their_numbers():
    first, again, other = (
        world_examples(number, stage=STAGE, articles=100, seed=1) for number in (3, 3, 4)
    )
    assert len(first) == 2 + 3 + 4 + 2 * 5
    assert _tokens(first) == _tokens(again)
    assert _tokens(first) != _tokens(other)


def test_stages_share_no_world_and_hold_one_out():
    stage = Stage("thinking", 1, 100, 2, thoughts=3)
    (train, held), (later, kept) = (
        stage_examples(number, stage, articles=100, seed=1) for number in (0, 1)
    )
    assert len(train) == len(later) == 2 * 3
    seen = {tuple(tokens) for tokens in _tokens(train)}
    for others in (held, later, kept):
        assert seen.isdisjoint(map(tuple, _tokens(others)))


@pytest.mark.slow
def test_processes_write_the_same_worlds():
    stage = Stage("thinking", 1, 100, 3, thoughts=2)
    alone = stage_examples(0, stage, articles=100, seed=1)
    together = stage_examples(0, stage, articles=100, seed=1, workers=2)
    assert [_tokens(part) for part in alone] == [_tokens(part) for part in together]
