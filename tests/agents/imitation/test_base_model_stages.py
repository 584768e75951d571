from __future__ import annotations

import gymnasium as gym
import pytest

from search_env.agents.imitation.base_model_stages import (
    BaseModelStage,
    stage_examples,
    world_examples,
)
from search_env.envs.search_qa import bare_env

STAGE = BaseModelStage("all", 1, 100, 2, copies=2, cards=3, thoughts=4, episodes=5)


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
    stage = BaseModelStage("thinking", 1, 100, 2, thoughts=3)
    (train, held), (later, kept) = (
        stage_examples(number, stage, articles=100, seed=1) for number in (0, 1)
    )
    assert len(train) == len(later) == 2 * 3
    seen = {tuple(tokens) for tokens in _tokens(train)}
    for others in (held, later, kept):
        assert seen.isdisjoint(map(tuple, _tokens(others)))


def test_branched_thoughts_are_on_no_chains():
    stage = BaseModelStage("thinking", 1, 100, 1, branched=6)
    kinds = ["composition", "intersection", "comparison"]
    world = {"articles": 100, "questions": 6, "seed": 1, "hops": [1, 2, 3, 4], "kinds": kinds}
    env = bare_env(gym.make("SearchQA-v0", dataset_options=world))
    thoughts = _tokens(world_examples(0, stage=stage, articles=100, seed=1))
    assert len({question.kind for question in env.questions}) > 1
    for tokens, question in zip(thoughts, env.questions, strict=True):
        assert question.text in env.tokenizer.decode(tokens)


@pytest.mark.slow
def test_processes_write_the_same_worlds():
    stage = BaseModelStage("thinking", 1, 100, 3, thoughts=2)
    alone = stage_examples(0, stage, articles=100, seed=1)
    together = stage_examples(0, stage, articles=100, seed=1, workers=2)
    assert [_tokens(part) for part in alone] == [_tokens(part) for part in together]
