"""``dataset_options`` of files: kinds, overlap with other questions, the share of yes and no."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.agents.training.settings import configure
from search_env.cli.options import named_values
from search_env.envs.loading import load_questions
from search_env.envs.question_filters import QuestionFilter, closed_answer
from search_env.errors import ConfigurationError
from search_env.paths import data_dir
from search_env.types import Question

ANSWERS = st.lists(st.sampled_from(["yes", "No.", "Ulm", "1879"]), max_size=60)


def _questions(answers):
    return [Question(str(i), f"Is it {i}?", (answer,)) for i, answer in enumerate(answers)]


def _file(path, rows):
    path.write_text("".join(json.dumps({"answers": ["x"], **row}) + "\n" for row in rows))
    return str(path)


@given(ANSWERS, st.sampled_from([0.0, 0.05, 0.1, 1 / 3, 0.5, 0.9, 1.0]))
def test_the_share_of_yes_and_no_is_the_largest_that_is_allowed(answers, share):
    questions = _questions(answers)
    kept = QuestionFilter(most_yes_no=share).select(questions, ())
    assert [q for q in questions if q in kept] == list(kept)
    closed = [q for q in questions if closed_answer(q)]
    assert [q for q in kept if not closed_answer(q)] == [q for q in questions if q not in closed]
    counts = Counter(closed_answer(q) for q in kept)
    count, num_open = counts["yes"] + counts["no"], counts[None]
    assert count <= share * (count + num_open) + 1e-6
    if count < len(closed):
        assert count + 1 > share * (count + 1 + num_open) - 1e-6
    least = min(Counter(map(closed_answer, closed)).get(word, 0) for word in ("yes", "no"))
    assert min(counts["yes"], counts["no"]) == min(count // 2, least)


def test_what_is_left_out_is_spread_evenly():
    questions = _questions(["yes", "no"] * 6 + ["Ulm"] * 6)
    kept = QuestionFilter(most_yes_no=0.4).select(questions, ())  # 4 of 10
    assert [q.id for q in kept[:4]] == ["0", "1", "6", "7"]
    assert len(kept) == 10


def test_so_many_questions_are_spread_evenly_over_what_is_left():
    questions = _questions(["no", "Ulm"] * 10)
    kept = QuestionFilter(most_yes_no=0, most_questions=3).select(questions, ())
    assert [q.id for q in kept] == ["1", "7", "13"]
    assert len(QuestionFilter(most_questions=50).select(questions, ())) == 20


def test_a_shared_passage_or_text_counts_and_a_shared_distractor_does_not():
    own = [Question(str(i), f"What is {i}?", ("a",), supporting=(f"p{i}", "q")) for i in range(4)]
    others = [
        Question("x", "Another?", ("a",), supporting=("p1", "p9")),
        Question("y", "  what IS 2? ", ("a",)),
    ]
    assert [q.id for q in QuestionFilter().select(own, others)] == ["0", "3"]
    shared = [replace(others[0], supporting=("q",))]
    assert not QuestionFilter().select(own, shared)


def test_an_environment_of_a_filtered_mixture(tmp_path):
    first = _file(
        tmp_path / "a.jsonl",
        [
            {"id": "1", "question": "A?", "kind": "bridge", "split": "train", "supporting": ["p1"]},
            {"id": "2", "question": "B?", "kind": "comparison", "split": "train"},
            {"id": "3", "question": "C?", "kind": "bridge", "split": "train"},
            {"id": "4", "question": "D?", "kind": "bridge", "split": "dev", "supporting": ["p1"]},
        ],
    )
    second = _file(
        tmp_path / "b.jsonl",
        [
            {"id": "1", "question": "E?", "kind": "2hop", "answers": ["no"]},
            {"id": "2", "question": "F?", "kind": "2hop"},
        ],
    )
    (tmp_path / "corpus.jsonl").write_text('{"id": "p1", "title": "T", "text": "Text."}\n')
    options = {"kinds": ["bridge", "2hop"], "apart_from": f"{first}:dev", "most_yes_no": 0}
    env = gym.make(
        "SearchQA-v0",
        dataset=f"{first}:train+{second}",
        dataset_options=options,
        corpus=str(tmp_path / "corpus.jsonl"),
        tokenizer="byte",
    )
    assert [q.id for q in env.unwrapped.questions] == ["a/3", "b/2"]
    again = gym.make(env.spec).unwrapped.questions  # by its JSON
    assert [q.id for q in again] == ["a/3", "b/2"]
    assert [q.id for q in load_questions(first, "train", {"kinds": ["comparison"]})] == ["2"]
    with pytest.raises(ConfigurationError, match=r"got none of .*b\.jsonl"):
        load_questions(f"{first}:train+{second}", None, {"kinds": ["bridge"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": ["bridge"]}, "Did you mean 'kinds'"),
        ({"kinds": "bridge"}, "a list of names"),
        ({"kinds": ["brigde"]}, "Did you mean 'bridge'"),
        ({"most_yes_no": 1.5}, "from 0 to 1"),
        ({"most_yes_no": True}, "from 0 to 1"),
        ({"most_questions": 0}, "at least 1"),
        ({"apart_from": 3}, "a string"),
        ({"apart_from": "hotpotq"}, "Did you mean 'hotpotqa'"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    file = _file(tmp_path / "a.jsonl", [{"id": "1", "question": "A?", "kind": "bridge"}])
    with pytest.raises(ConfigurationError, match=message):
        load_questions(file, None, options)


def test_a_filter_is_for_training_only_unless_evaluation_has_one(tmp_path):
    rows = [{"id": s, "question": s, "split": s, "kind": "bridge"} for s in ("train", "dev")]
    file = _file(tmp_path / "a.jsonl", rows)
    options = {"apart_from": f"{file}:dev"}
    values = {"env_options.dataset": file, "env_options.dataset_options": options}
    config = configure(values=values)
    assert config.options_for("train")["dataset_options"] == options
    assert config.options_for("evaluation")["dataset_options"] is None
    assert config.options_for("test")["dataset_options"] is None
    own = {"eval_options.dataset_options": {"kinds": ["bridge"]}}
    config = configure(values={**values, **own})
    assert config.options_for("evaluation")["dataset_options"] == {"kinds": ["bridge"]}
    world = configure(values={"env_options.dataset_options": {"articles": 200}})
    assert world.options_for("evaluation")["dataset_options"] == {"articles": 200}


def test_options_of_the_command_line_are_json_or_text():
    texts = ["most_yes_no=0.1", 'kinds=["bridge"]', "apart_from=nq:dev"]
    assert named_values(texts) == {
        "most_yes_no": 0.1,
        "kinds": ["bridge"],
        "apart_from": "nq:dev",
    }
    assert named_values([]) is None
    for wrong in (["kinds"], ["=3"], ["a=1", "a=2"]):
        with pytest.raises(ConfigurationError, match="NAME=VALUE"):
            named_values(wrong)


@pytest.mark.skipif(data_dir() is None, reason="needs $SEARCH_ENV_DATA")
def test_the_counts_that_the_documentation_states():
    sets = ("hotpotqa", "2wikimultihopqa", "musique")
    dev = "+".join(f"{name}:dev" for name in sets)
    before = {name: load_questions(name, "train", None) for name in sets}
    assert [sum(map(bool, map(closed_answer, before[name]))) for name in sets] == [48, 166, 0]
    train = {p for name in sets for q in before[name] for p in q.supporting}
    assert len(train & {p for q in load_questions(dev, None, None) for p in q.supporting}) == 81
    apart = {name: load_questions(name, "train", {"apart_from": dev}) for name in sets}
    assert [len(before[name]) - len(apart[name]) for name in sets] == [31, 45, 2]
    clean = load_questions(
        "+".join(f"{name}:train" for name in sets),
        None,
        {"apart_from": dev, "most_yes_no": 0.1},
    )
    counts = Counter(q.id.partition("/")[0] for q in clean)
    assert [counts[name] for name in sets] == [569, 327, 109]
