"""Arguments checked before anything expensive is loaded."""

from __future__ import annotations

import gymnasium as gym
import pytest

from search_env.envs import loading
from search_env.envs.checks import check_arguments
from search_env.errors import SearchEnvError


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"topk": 3}, ["the options", "Did you mean 'top_k'"]),
        ({"num_envs": 3}, ["'num_envs'"]),
        ({"top_k": "3"}, ["the options.top_k to be an integer"]),
        ({"top_k": True}, ["the options.top_k to be an integer"]),
        ({"top_k": 0}, ["top_k"]),
        ({"dataset": 3}, ["the options.dataset to be text"]),
        ({"dataset": "wrld"}, ["Did you mean 'world'"]),
        ({"split": "trian"}, ["Did you mean 'train'"]),
        ({"dataset_options": {"articls": 200}}, ["Did you mean 'articles'"]),
        ({"protocol": "serch-r1"}, ["Did you mean 'search-r1'"]),
        ({"reward": "f-1"}, ["Did you mean 'f1'"]),
        ({"retriever": "bm52"}, ["Did you mean 'bm25'"]),
        ({"corpus": "/no/such"}, ["/no/such"]),
        ({"tokenizer": "/no/such"}, ["/no/such"]),
        ({"on_retrieval_error": "truncat"}, ["Did you mean 'truncate'"]),
    ],
)
def test_wrong_arguments_are_named(arguments, parts, monkeypatch):
    monkeypatch.setattr(loading, "_bm25_of_world", None)  # no documents are loaded
    with pytest.raises(SearchEnvError) as caught:
        check_arguments("SearchQA-v0", arguments, "the options")
    assert all(part in str(caught.value) for part in parts), caught.value


def test_right_arguments_give_the_questions(monkeypatch):
    monkeypatch.setattr(loading, "_bm25_of_world", None)
    questions = check_arguments("SearchQA-v0", {"dataset_options": {"questions": 7}})
    assert len(questions) == 7


class _Mine(gym.Env):
    def __init__(self, *, level: int = 1) -> None:
        self.level = level


def test_an_environment_of_somebody_else_has_names_and_types_checked():
    gym.register("TheirsForChecks-v0", entry_point=_Mine)
    try:
        assert check_arguments("json:TheirsForChecks-v0", {"level": 2}) == ()
        with pytest.raises(SearchEnvError, match="level to be an integer"):
            check_arguments("json:TheirsForChecks-v0", {"level": "2"})
        with pytest.raises(SearchEnvError, match="'levle'"):
            check_arguments("json:TheirsForChecks-v0", {"levle": 2})
    finally:
        gym.registry.pop("TheirsForChecks-v0")
