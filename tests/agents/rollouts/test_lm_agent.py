from __future__ import annotations

import zlib

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

import search_env  # noqa: F401
from search_env.agents.errors import ContextLengthError, ModelMismatchError
from search_env.agents.inference.sampling import GREEDY, Sampling
from search_env.agents.rollouts.lm_agent import LanguageModelAgent, play_questions, spread
from search_env.envs.search_qa import bare_env
from search_env.errors import ConfigurationError, EpisodeOverError
from search_env.evaluation.evaluate import evaluate, measure_episode
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Question, Source

TOY = "SearchQA-Toy-v0"
IDS = load_tokenizer("toy").size


def tiny(ids: int = IDS, positions: int = 64) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ids,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.3,  # far enough from uniform that no two ids tie
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny()


def transcripts(agent, count, start=0):
    env = gym.make(TOY, split="test")
    found = []
    keep = lambda _: found.append(bare_env(env).transcript())  # noqa: E731
    evaluate(env, agent, range(start, count), progress=keep)
    return found


def expected_token(model, sampling, seed, transcript, at):
    """By one plain forward pass over all that stands before."""
    prompt = transcript.tokens[transcript.sources == Source.PROMPT]
    seeds = np.random.SeedSequence((seed, zlib.crc32(prompt.tobytes())))
    random = np.random.default_rng(int(seeds.generate_state(1)[0]))
    uniform = random.random(16, np.float32)[at]
    with torch.no_grad():
        logits = model(torch.tensor(transcript.tokens[None, :at].astype(np.int64))).logits[:, -1]
    return int(sampling.draw(sampling.log_probs(logits), torch.tensor([uniform]))[0])


@pytest.mark.parametrize("sampling", [GREEDY, Sampling()])
def test_every_token_is_that_of_a_full_forward_pass(model, sampling):
    found = transcripts(LanguageModelAgent(model, sampling=sampling, seed=3), 64)
    searched = [transcript for transcript in found if transcript.searches]
    assert searched or sampling is GREEDY, "the test has to see documents come in"
    for transcript in (*found[:4], *searched[:4]):
        for at in np.flatnonzero(transcript.sources == Source.POLICY).tolist():
            wanted = expected_token(model, sampling, 3, transcript, at)
            assert transcript.tokens[at] == wanted


def test_an_episode_does_not_depend_on_those_before(model):
    agent = LanguageModelAgent(model, sampling=Sampling(), seed=1)
    later = transcripts(agent, 8)[5:]
    alone = transcripts(LanguageModelAgent(model, sampling=Sampling(), seed=1), 8, start=5)
    other = transcripts(LanguageModelAgent(model, sampling=Sampling(), seed=2), 8, start=5)
    same = [np.array_equal(a.tokens, b.tokens) for a, b in zip(later, alone, strict=True)]
    assert all(same)
    assert not all(np.array_equal(a.tokens, b.tokens) for a, b in zip(alone, other, strict=True))


def vector(rows=4, **options):
    return gym.make_vec(TOY, num_envs=rows, autoreset_mode="Disabled", copy=False, **options)


def test_many_side_by_side_are_what_one_plays_alone(model):
    alone = transcripts(LanguageModelAgent(model), 9)
    together = play_questions(model, vector(split="test"), range(9))
    assert [t.question_id for t in together] == [t.question.id for t in alone]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert measure_episode(one, 0.0).f1 == other.scores["f1"]
    assert len(play_questions(model, vector(64, split="test"))) == 64


def test_a_model_of_another_vocabulary_is_refused():
    env = gym.make(TOY)
    for ids, mend in ((IDS + 8, f"vocab_size={IDS + 8}"), (IDS - 1, "Use the tokenizer")):
        with pytest.raises(ModelMismatchError, match=mend):
            evaluate(env, LanguageModelAgent(tiny(ids)), [0])
    padded = gym.make(TOY, vocab_size=IDS + 8)
    assert len(evaluate(padded, LanguageModelAgent(tiny(IDS + 8)), [0])) == 1
    with pytest.raises(ModelMismatchError):
        play_questions(tiny(IDS + 8), vector(), [0])


def test_contexts_that_do_not_fit_are_named(model):
    with pytest.raises(ContextLengthError, match="max_position_embeddings"):
        evaluate(gym.make(TOY), LanguageModelAgent(tiny(positions=8)), [0])
    with pytest.raises(ContextLengthError, match="max_tokens"):
        evaluate(gym.make(TOY), LanguageModelAgent(model, max_tokens=5), [0])


def test_one_agent_plays_in_environments_of_several_sizes(model):
    agent = LanguageModelAgent(model)
    for size in (16, 12, 20):
        (record,) = evaluate(gym.make(TOY, max_tokens=size), agent, [0])
        assert record.policy_tokens <= size


def test_wrong_use_is_named(model):
    with pytest.raises(EpisodeOverError, match="begin"):
        LanguageModelAgent(model).act({})
    with pytest.raises(ConfigurationError, match="question"):
        play_questions(model, vector(), [])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(1, 60))
def test_questions_are_spread_over_each_set(sizes, count):
    """A single set as before; of a mixture, whose sets alternate, none is passed over."""
    keys = sorted(((i + 0.5) / n, str(s)) for s, n in enumerate(sizes) for i in range(n))
    questions = [Question(str(i), "?", ("a",), dataset=s) for i, (_, s) in enumerate(keys)]
    chosen = spread(questions, count)
    total, count = len(questions), min(count, len(questions))
    assert len(set(chosen)) == len(chosen) == count
    assert chosen == sorted(chosen)
    if len(sizes) == 1:
        assert chosen == np.linspace(0, total - 1, count).round().astype(int).tolist()
    for number, size in enumerate(sizes):
        found = sum(questions[i].dataset == str(number) for i in chosen)
        assert abs(found - count * size / total) < 1
