"""The arguments of the environments: stated once, shown by both constructors, checked by all."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
from pathlib import Path

import gymnasium as gym
import pytest

from search_env import SearchQAEnv, SearchQAVectorEnv
from search_env.envs.config import EnvComponents, EnvConfig
from search_env.errors import ConfigurationError
from search_env.recording.record import common_fields
from search_env.retrieval.base import FakeRetriever
from search_env.rewards.answer import EXACT_MATCH

TOY = "SearchQA-Toy-v0"
OWN = {
    SearchQAEnv: {"render_mode"},
    SearchQAVectorEnv: {
        "num_envs",
        "autoreset_mode",
        "group_size",
        "group_reward",
        "copy",
        "retrieval_threads",
        "max_episode_steps",
        "render_mode",
        "render_row",
    },
}


def shown(function):
    """Name, type and default of each parameter; none of them takes the rest."""
    parameters = inspect.signature(function).parameters.values()
    assert not [p for p in parameters if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return {p.name: (p.annotation, p.default) for p in parameters}


@pytest.mark.parametrize("kind", OWN)
def test_constructors_show_the_arguments_of_the_configuration(kind):
    theirs = shown(kind)
    own = {name: theirs.pop(name) for name in list(theirs) if name in OWN[kind]}
    assert own.keys() == OWN[kind]
    assert theirs == shown(EnvConfig)
    assert len(theirs) == 21


@pytest.mark.parametrize("kind", OWN)
def test_each_argument_arrives(kind):
    arguments = {
        "dataset": "world",
        "split": "test",
        "dataset_options": {"articles": 100, "questions": 5},
        "corpus": None,
        "retriever": FakeRetriever(),
        "protocol": "search-r1",
        "prompt": "base",
        "chat_template_kwargs": {},
        "tokenizer": "byte",
        "bos_token": "<|endoftext|>",
        "eos_token": ["<|endoftext|>"],
        "vocab_size": 300,
        "top_k": 2,
        "max_tokens": 3000,
        "max_policy_tokens": 70,
        "max_searches": 3,
        "reward": EXACT_MATCH,
        "action_mask": True,
        "on_retrieval_error": "truncate",
        "box_length": True,
        "stable_infos": True,
    }
    assert arguments.keys() == shown(EnvConfig).keys()
    components = kind(**arguments).components
    assert vars(components.config) == arguments
    protocol = components.protocol
    assert (protocol.name, protocol.top_k, protocol.max_tokens) == ("search-r1", 2, 3000)
    assert (protocol.max_policy_tokens, protocol.max_searches) == (70, 3)
    assert (len(components.questions), components.questions[0].split) == (5, "test")
    assert (components.size, components.prompt, components.reward) == (300, "base", EXACT_MATCH)
    assert components.tokenizer.bos_ids == (256,)
    assert components.retriever is arguments["retriever"]
    assert components.truncate_on_error
    assert components.action_mask
    assert components.box_length
    assert components.stable_infos


def test_a_configuration_is_plain_and_checked():
    config = EnvConfig(dataset="toy")
    assert config == EnvConfig(dataset="toy") != EnvConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dataset = "world"
    for wrong in ({"on_retrieval_error": "ignore"}, {"action_mask": "yes"}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            EnvConfig(**wrong)


@pytest.mark.parametrize("make", [SearchQAEnv, SearchQAVectorEnv, EnvConfig])
def test_a_misspelt_argument_is_refused_in_the_words_of_python(make):
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'max_token'"):
        make(max_token=5)


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_gymnasium_passes_these_words_on(make):
    """TorchRL's GymEnv tries ``from_pixels`` and goes on where it reads them."""
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'from_pixels'"):
        make(TOY, from_pixels=False)


def test_type_checkers_see_a_misspelt_argument(tmp_path):
    """With the project's own settings (strict), so that its cache of types saves most of it."""
    api = pytest.importorskip("mypy.api")

    path = tmp_path / "downstream.py"
    path.write_text(
        "from search_env import SearchQAEnv, SearchQAVectorEnv\n"
        "SearchQAEnv(max_tokens=8, render_mode='ansi')\n"
        "SearchQAEnv(max_token=8)\n"
        "SearchQAVectorEnv(2, protcol='toy')\n"
        "SearchQAVectorEnv(2, top_k='3')\n"
    )
    root = Path(__file__).parents[2]
    config, cache = (
        f"--config-file={root / 'pyproject.toml'}",
        f"--cache-dir={root / '.mypy_cache'}",
    )
    output, errors, code = api.run([config, cache, str(path)])
    assert (errors, code) == ("", 1)
    reported = [line for line in output.splitlines() if ": error: " in line]
    assert len(reported) == 3, output
    for line, number, part in zip(
        reported, (3, 4, 5), ("'max_token'", "'protcol'", "'top_k'"), strict=True
    ):
        assert f"downstream.py:{number}: " in line
        assert part.replace("'", '"') in line


def test_world_options_that_change_after_gym_make():
    options = {"articles": 100, "questions": 5}
    env = gym.make("SearchQA-v0", dataset_options=options, retriever="bm25")
    bare = env.unwrapped
    before = bare.questions
    options["questions"] = 7
    others = [pickle.loads(pickle.dumps(bare)), copy.deepcopy(bare), bare.clone()]
    for other in others:
        assert other.questions == before
        assert other.components.config.dataset_options == {"articles": 100, "questions": 5}
    recorded = common_fields(bare)["spec"]["kwargs"]["dataset_options"]
    assert recorded == {"articles": 100, "questions": 5}
    again = gym.make("SearchQA-v0", dataset_options=options, retriever="bm25").unwrapped
    assert len(again.questions) == 7
    envs = gym.make_vec("SearchQA-v0", dataset_options=options, retriever="bm25")
    options["questions"] = 9
    assert envs.unwrapped.components.config.dataset_options["questions"] == 7


def test_a_pickled_setting_is_its_configuration():
    components = EnvComponents(EnvConfig(dataset="toy", protocol="toy", tokenizer="toy"))
    data = pickle.dumps(components)
    assert len(data) < 2000
    other = pickle.loads(data)
    assert other.config == components.config
    assert other.questions == components.questions


class Counting(SearchQAEnv):
    """A class of somebody's own, with an argument and an attribute more."""

    def __init__(self, *, step_size: int, max_tokens: int = 16) -> None:
        super().__init__(dataset="toy", protocol="toy", tokenizer="toy", max_tokens=max_tokens)
        self.step_size, self.count = step_size, 0

    def step(self, action):
        self.count += self.step_size
        return super().step(action)

    def __getstate__(self):
        return self.step_size, self.count, super().__getstate__()

    def __setstate__(self, state):
        self.step_size, self.count, inner = state
        super().__setstate__(inner)


@pytest.mark.parametrize("how", [SearchQAEnv.clone, copy.copy, copy.deepcopy, "pickle"])
def test_a_subclass_is_copied_as_what_it_is(how):
    env = Counting(step_size=2)
    env.reset(seed=0)
    env.step(1)
    other = pickle.loads(pickle.dumps(env)) if how == "pickle" else how(env)
    assert type(other) is Counting
    other.step(2)
    assert (env.count, other.count) == (2, 4)
    assert (env.transcript().tokens[-1], other.transcript().tokens[-1]) == (1, 2)


def test_clones_share_what_never_changes_and_nothing_else():
    env = gym.make(TOY, action_mask=True).unwrapped
    env.reset(seed=0)
    env.action_masks()
    twin = env.clone()
    assert twin.components is env.components
    assert twin.spec is env.spec
    assert twin.action_space is not env.action_space
    assert twin.np_random is not env.np_random
    replaced = FakeRetriever()
    env.retriever = replaced
    assert env.clone().retriever is replaced
    assert json.loads(env.clone().spec.to_json())["id"] == TOY


def test_an_episode_with_an_argument_of_another_version_is_named(tmp_path):
    from search_env.recording.files import EpisodeWriter, read_episodes
    from search_env.recording.replay import replay_episode

    path = tmp_path / "episodes.jsonl"
    env = gym.make(TOY).unwrapped
    env.reset(seed=0)
    env.step(0)
    EpisodeWriter(path, env).write(env.transcript(), seed=0)
    (episode,) = read_episodes(path)
    for env_id in (TOY, None):
        newer = dataclasses.replace(
            episode, env_id=env_id, arguments={**episode.arguments, "colour": "red"}
        )
        with pytest.raises(ConfigurationError, match=r"line 1.*keyword argument 'colour'"):
            replay_episode(newer)
