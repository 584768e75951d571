"""``prompt="chat-template"`` through the environments, as ``gym.make`` builds them."""

from __future__ import annotations

import gymnasium as gym
import pytest

import search_env  # noqa: F401 - registers the ids
from search_env.core.prompts import prompt_encoder
from search_env.errors import ConfigurationError

SMALL = {"dataset": "toy", "prompt": "chat-template", "protocol": "search-r1", "max_tokens": 2048}


@pytest.mark.parametrize("kwargs", [None, {"enable_thinking": False}])
def test_a7_environments_begin_with_the_models_own_template(written, kwargs):
    pytest.importorskip("transformers")
    arguments = {**SMALL, "tokenizer": written["qwen"], "chat_template_kwargs": kwargs}
    env = gym.make("SearchQA-v0", **arguments).unwrapped
    envs = gym.make_vec("SearchQA-v0", num_envs=2, **arguments).unwrapped
    observation, _ = env.reset(seed=3)
    several, _ = envs.reset(seed=3)
    encode = prompt_encoder(env.protocol, env.tokenizer, "chat-template", kwargs or {})
    question = env.transcript().question.text
    prompt = encode(question).tolist()
    length = int(observation["length"])
    assert observation["tokens"][:length].tolist() == prompt
    assert several["tokens"][0][:length].tolist() == prompt


def test_a7_a_tokenizer_without_a_template_is_refused_at_construction():
    with pytest.raises(ConfigurationError, match="chat template"):
        gym.make("SearchQA-v0", **SMALL)
