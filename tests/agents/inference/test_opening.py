"""Episodes that begin as they are told to."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from search_env.agents.imitation.demonstrations import oracle_example, search_opening
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.opening import OpeningEngine, ScriptedEngine
from search_env.agents.inference.rollout_engine import RolloutEngine
from search_env.agents.inference.sampling import GREEDY, Sampling
from search_env.agents.rollouts.collect import make_envs
from search_env.agents.rollouts.lm_agent import play_questions
from search_env.envs.search_qa import bare_env
from search_env.errors import ConfigurationError
from search_env.types import Source
from tests.agents.toy_runs import tiny_model

OPENING = np.array([7, 9, 7])


@pytest.fixture
def model():
    return tiny_model()


def played(model, opening, sampling=GREEDY, rows=4):
    envs = make_envs(
        "SearchQA-Toy-v0", num_envs=rows, vocabulary=model.config.vocab_size, options={}
    )
    engine = Engine(model, rows=rows, max_tokens=envs.protocol.max_tokens, sampling=sampling)
    player = engine if opening is None else OpeningEngine(engine, opening)
    return play_questions(player, envs, range(9), sampling=sampling)


def test_it_is_an_engine(model):
    engine = OpeningEngine(Engine(model, rows=2, max_tokens=16), OPENING)
    assert isinstance(engine, RolloutEngine)
    with pytest.raises(ConfigurationError, match="at least one id"):
        OpeningEngine(engine, OPENING[:0])


@pytest.mark.parametrize("rows", [1, 4])
def test_the_first_tokens_are_given_and_the_others_the_models(model, rows):
    for trajectory in played(model, OPENING, rows=rows):
        policy = np.flatnonzero(trajectory.sources == Source.POLICY)
        assert trajectory.tokens[policy[:3]].tolist() == OPENING[: len(policy)].tolist()
        assert (trajectory.log_probs[policy[:3]] == 0).all()
        ids = torch.from_numpy(trajectory.tokens.astype(np.int64))
        with torch.inference_mode():
            likeliest = model(input_ids=ids[None]).logits[0].argmax(-1).numpy()
        assert (likeliest[policy[3:] - 1] == trajectory.tokens[policy[3:]]).all()


def test_episodes_do_not_depend_on_rows(model):
    one, many = (played(model, OPENING, Sampling(), rows) for rows in (1, 4))
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(one, many, strict=True))


def test_without_it_the_model_begins_otherwise(model):
    first = [trajectory.tokens[trajectory.sources == Source.POLICY][:3] for trajectory in
             played(model, None)]  # fmt: skip
    assert not any(np.array_equal(ids, OPENING) for ids in first)


@pytest.mark.parametrize("protocol", ["r1-searcher", "search-r1"])
def test_the_opening_is_what_oracles_begin_with(protocol):
    env = bare_env(gym.make("SearchQA-v0", protocol=protocol))
    opening = search_opening(env)
    assert env.tokenizer.decode(opening) == " Steps:"
    for index in (20, 30):
        example = oracle_example(env, index, tags=1.0)
        assert example.tokens[example.weights > 0][: len(opening)].tolist() == opening.tolist()


def test_pieces_follow_the_prompt_and_what_is_inserted(model):
    engine = ScriptedEngine(
        Engine(model, rows=3, max_tokens=16, sampling=GREEDY),
        lambda prompt: {1: [[5, 6], [7]], 2: [], 3: [[], [8]]}[int(prompt[0])],
    )
    engine.begin([2, 0, 1], [[1], [2], [3]], [0, 0, 0])
    plain = Engine(model, rows=3, max_tokens=16, sampling=GREEDY)
    plain.begin([0, 1, 2], [[2], [3], [1, 5, 6]], [0, 0, 0])
    assert engine.decode([0, 1, 2]).ids[2] == 5
    assert engine.decode([2]).ids.tolist() == [6]
    free = plain.decode([0, 1, 2]).ids
    assert engine.decode([2]).ids[0] == free[2]
    engine.insert([1, 2, 0], [[9, 9], [9], []])
    plain.insert([1, 2, 0], [[9, 9], [9], []])
    got = engine.decode([0, 1, 2])
    assert got.ids[1:].tolist() == [8, 7]
    assert got.log_probs[1:].tolist() == [0.0, 0.0]
    assert got.ids[0] == plain.decode([0]).ids[0]
    engine.insert([1], [[9]])  # no piece is left
    plain.insert([1], [[8, 9]])
    assert engine.decode([1]).ids[0] == plain.decode([1]).ids[0]
