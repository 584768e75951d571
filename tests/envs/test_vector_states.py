"""Rows of a vector environment that continue from states of single ones."""

from __future__ import annotations

import numpy as np
import pytest

from search_env import SearchQAEnv, SearchQAVectorEnv
from search_env.errors import ConfigurationError

TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy", "max_tokens": 20}
BEGUN = "<q>key1 key2 </q>"
REST = "<q>key3 key4 </q><a>value3 </a>"


def begun(text=BEGUN, **arguments):
    env = SearchQAEnv(**{**TOY, **arguments})
    env.reset(options={"index": 5})
    for token in env.tokenizer.encode(text).tolist():
        env.step(token)
    return env


def test_a_row_goes_on_as_the_environment_that_saved_its_state():
    single = begun()
    envs = SearchQAVectorEnv(3, autoreset_mode="Disabled", **TOY)
    envs.reset(seed=0, options={"index": 9})
    mask = np.array([False, True, False])
    options = {"reset_mask": mask, "index": 0, "state": [None, single.get_state(), None]}
    obs, infos = envs.reset(options=options)
    assert infos["question_id"][1] == single.questions[5].id
    assert infos["num_searches"][1] == 1
    text = single.transcript().tokens
    assert obs["tokens"][1, : len(text)].tolist() == text.tolist()
    assert obs["length"].tolist()[1] == len(text)
    for token in single.tokenizer.encode(REST).tolist():
        observation, reward, terminated, truncated, info = single.step(token)
        envs.send([token], [1])
        obs, rewards, terminations, truncations, infos = envs.recv()
        assert obs["tokens"][1].tolist() == observation["tokens"].tolist()
        assert (rewards[1], terminations[1], truncations[1]) == (reward, terminated, truncated)
        assert infos["num_searches"][1] == info["num_searches"]
        if "document_ids" in info:
            assert infos["document_ids"][1] == info["document_ids"]
    assert terminated
    assert envs.transcripts[1].events == single.transcript().events
    assert envs.transcript(0).num_policy_tokens == 0


def test_faults_before_the_state_are_not_reported_again():
    single = begun("</a>")
    assert single.transcript().faults
    envs = SearchQAVectorEnv(1, **TOY)
    envs.reset(seed=0, options={"state": single.get_state()})
    infos = envs.step([single.tokenizer.encode("<q>")[0]])[-1]
    assert "format_faults" not in infos


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            lambda: 3,
            "a state of get_state.. of a single environment or None, for each row, got int",
        ),
        (lambda: begun(top_k=2).get_state(), "with the same top_k"),
        (lambda: begun(split="test").get_state(), "with the same questions"),
        (lambda: begun(f"{BEGUN}<a>value1 </a>").get_state(), "of a running episode"),
        (lambda: SearchQAEnv(**TOY).get_state(), "of a running episode"),
    ],
)
def test_other_states_are_refused(state, message):
    envs = SearchQAVectorEnv(2, **TOY)
    with pytest.raises(ConfigurationError, match=message):
        envs.reset(seed=0, options={"state": state()})
