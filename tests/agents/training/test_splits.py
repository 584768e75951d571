"""The splits of datasets, and what asks for them."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest

from search_env.agents.rollouts.collect import make_envs
from search_env.agents.training.config import TrainConfig
from search_env.agents.training.default_run import TINY
from search_env.cli.options import make_env
from search_env.datasets.locate import DATASETS
from search_env.envs.loading import load_questions
from search_env.envs.registration import arguments_of
from search_env.envs.splits import GENERATED, splits_of
from search_env.errors import ConfigurationError


@pytest.fixture
def write(tmp_path):
    def make(*splits: str) -> str:
        file = tmp_path / f"{'-'.join(splits)}.jsonl"
        rows = (
            {"id": f"q{i}", "dataset": "mine", "question": f"Who is {i}?", "answers": [str(i)]}
            | ({"split": split} if split else {})
            for i, split in enumerate(splits)
        )
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)

    return make


@pytest.fixture
def register(monkeypatch):
    def make(**arguments) -> str:
        gym.register(
            "Mine-v0",
            entry_point="search_env.envs.search_qa:SearchQAEnv",
            vector_entry_point="search_env.envs.search_qa_vector:SearchQAVectorEnv",
            kwargs=arguments,
        )
        return "json:Mine-v0"  # any module will do

    yield make
    gym.registry.pop("Mine-v0", None)


def _purposes(env_id: str, **options) -> list[str | None]:
    config = TrainConfig(model="tiny-base", algorithm=TINY, env_id=env_id, **options)
    return [config.options_for(p)["split"] for p in ("train", "evaluation", "test")]


@pytest.mark.parametrize("dataset", [*GENERATED, *DATASETS])
def test_what_is_chosen_is_among_the_splits(dataset):
    splits = splits_of(dataset)
    assert {splits.default, splits.evaluation, splits.test} <= set(splits.names)
    if "train" in splits.names:
        assert splits.train == "train" not in (splits.evaluation, splits.test)


def test_aliases_have_the_splits_of_their_dataset():
    assert splits_of("tqa").names == splits_of("triviaqa").names == ("test", "dev", "train")
    assert (splits_of("nq").evaluation, splits_of("nq").test) == ("dev", "test")


def test_a_set_that_is_only_for_testing_is_not_trained_on():
    with pytest.raises(ConfigurationError, match=r"'bamboogle' with test\. Train on another"):
        assert splits_of("bamboogle").train


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (["train", "validation", "test"], ("train", "validation", "test")),
        (["test", "train"], ("train", "test", "test")),
        (["train", "dev"], ("train", "dev", "dev")),
        (["train", "mine"], ("train", "mine", "mine")),
        (["dev"], ("dev", "dev", "dev")),
        (["train"], ("train", "train", "train")),
        ([""], (None, None, None)),
    ],
)
def test_a_file_has_the_splits_that_its_rows_name(write, named, expected):
    file = write(*named)
    splits = splits_of(file)
    assert (splits.train, splits.evaluation, splits.test) == expected
    assert splits.names == tuple(name for name in named if name)
    assert len(load_questions(file, splits.default, None)) == len(named)
    for split in expected:
        assert load_questions(file, split, None)


def test_which_of_several_splits_is_for_training_is_not_guessed(write, register):
    file = write("dev", "test")
    with pytest.raises(ConfigurationError, match=r"with dev, test\. .* name the split"):
        assert splits_of(file).train
    env_id = register(dataset=file, split="test")
    assert _purposes(env_id) == ["test", "dev", "test"]
    assert _purposes(env_id, env_options={"split": "dev"}) == ["dev", "dev", "test"]
    assert _purposes(env_id, eval_options={"split": "test"}) == ["test", "test", "test"]


def test_a_file_that_has_changed_is_read_again(write):
    file = write("train")
    assert splits_of(file).names == ("train",)
    with open(file, "a") as out:
        out.write('{"id": "x", "question": "Who?", "answers": ["I"], "split": "dev"}\n')
    assert splits_of(file).evaluation == "dev"


@pytest.mark.parametrize("tokenizer", ["world-1k", "byte"])
@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("world", ["train", "validation", "test"]),
        ("toy", ["train", "validation", "test"]),
        ("hotpotqa", ["train", "dev", "dev"]),
        ("2wiki", ["train", "dev", "dev"]),
        ("train-dev", ["train", "dev", "dev"]),
        ("dev", ["dev", "dev", "dev"]),
        ("", [None, None, None]),
    ],
)
def test_a_users_id_is_trained_on_splits_that_there_are(
    data_dir, write, register, dataset, expected, tokenizer, monkeypatch
):
    monkeypatch.setenv("SEARCH_ENV_DATA", str(data_dir))
    if dataset in ("train-dev", "dev", ""):
        dataset = write(*dataset.split("-"))
    env_id = register(dataset=dataset, tokenizer=tokenizer)
    assert _purposes(env_id, max_tokens=1024) == expected
    assert splits_of(dataset).test == expected[2]
    for split in expected:
        assert {q.split for q in load_questions(dataset, split, None)} == {split or ""}


def test_the_environments_of_a_run_hold_the_splits(register):
    config = TrainConfig(model="tiny-base", algorithm=TINY, env_id=register(dataset="toy"))
    for purpose, split in (("train", "train"), ("evaluation", "validation"), ("test", "test")):
        envs = make_envs(
            config.env_id, num_envs=2, vocabulary=1024, options=config.options_for(purpose)
        )
        assert {q.split for q in envs.questions} == {split}


def test_an_id_plays_the_split_to_test_on(register):
    env = make_env(register(dataset="must-search", protocol="toy", tokenizer="toy"))
    assert {q.split for q in env.unwrapped.questions} == {"test"}
    env = make_env("SearchQA-Toy-v0", split="train")
    assert {q.split for q in env.unwrapped.questions} == {"train"}


def test_ids_that_there_are_not():
    assert arguments_of("SearchQA-Musique-v0")["dataset"] == "musique"
    with pytest.raises(ConfigurationError, match="Did you mean 'SearchQA-Toy-v0'"):
        arguments_of("SearchQA-Tyo-v0")
    with pytest.raises(ConfigurationError, match="No module named 'nowhere_to_be_found'"):
        arguments_of("nowhere_to_be_found:Mine-v0")
