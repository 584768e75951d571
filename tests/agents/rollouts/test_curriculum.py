from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.agents.rollouts.curriculum import (
    Curriculum,
    Difficulty,
    HopStage,
    label_difficulty,
    level_of,
    make_curriculum,
    read_difficulties,
)
from search_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from search_env.protocols.tagged_text import answer_text
from search_env.types import Hop, Question
from tests.agents.scripted_engine import ScriptedEngine


def _questions(*hops: int) -> list[Question]:
    step = Hop("q", "a")
    return [Question(f"q{i}", "?", ("a",), hops=(step,) * n) for i, n in enumerate(hops)]


@given(
    size=st.integers(1, 9),
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_every_question_comes_once_before_any_comes_twice(size, counts, seed):
    curriculum = Curriculum([HopStage(0, np.arange(size))], seed)
    drawn = np.concatenate([curriculum.draw(0, count) for count in counts])
    assert len(drawn) == sum(counts)
    for start in range(0, len(drawn), size):
        epoch = drawn[start : start + size]
        assert len(set(epoch.tolist())) == len(epoch)
    whole = Curriculum([HopStage(0, np.arange(size))], seed).draw(0, sum(counts))
    np.testing.assert_array_equal(whole, drawn)


def test_draws_go_on_from_a_saved_state():
    stages = [HopStage(0, np.arange(5)), HopStage(3, np.arange(11))]
    one = Curriculum(stages, seed=4)
    one.draw(0, 7)
    one.draw(3, 2)
    other = Curriculum(stages, seed=4)
    other.state = json.loads(json.dumps(one.state))
    np.testing.assert_array_equal(one.draw(4, 20), other.draw(4, 20))
    assert one.state == [7, 22]
    assert not np.array_equal(Curriculum(stages, 4).draw(0, 5), Curriculum(stages, 5).draw(0, 5))
    with pytest.raises(ConfigurationError, match="2 stages, got 1"):
        one.state = [3]


def test_hops_from_easy_to_hard():
    curriculum = make_curriculum(_questions(1, 3, 2, 1, 4), hops=[(0, 1), (5, 2), (9, 4)])
    assert set(curriculum.draw(4, 6).tolist()) == {0, 3}
    assert set(curriculum.draw(5, 6).tolist()) == {0, 2, 3}
    assert set(curriculum.draw(100, 10).tolist()) == {0, 1, 2, 3, 4}
    with pytest.raises(ConfigurationError, match="known hops"):
        make_curriculum(_questions(0, 1), hops=[(0, 1)])
    with pytest.raises(ConfigurationError, match="none for the one from step 0"):
        make_curriculum(_questions(2, 2), hops=[(0, 1)])
    with pytest.raises(ConfigurationError, match="ascending"):
        make_curriculum(_questions(1, 1), hops=[(1, 1)])


def test_difficulty_leaves_easy_and_unlabelled_questions_out():
    levels = {"q0": 3, "q1": 12, "q2": None}
    labels = {name: Difficulty(name, n, level_of(n)) for name, n in levels.items()}
    questions = _questions(1, 1, 1, 1)
    both = make_curriculum(questions, difficulties=labels)
    assert both.stages[0].pool.tolist() == [1, 2]
    medium = make_curriculum(questions, difficulties=labels, levels=["medium"])
    assert medium.stages[0].pool.tolist() == [1]
    with pytest.raises(ConfigurationError, match="'medium'"):
        make_curriculum(questions, difficulties=labels, levels=["mediun"])
    with pytest.raises(ConfigurationError, match="difficulty file"):
        make_curriculum(questions, difficulties={})


def test_an_empty_question_set_is_named():
    with pytest.raises(ConfigurationError, match="got none"):
        make_curriculum([])


def _label(path, **options):
    rows = options.pop("rows", 6)
    envs = gym.make_vec("SearchQA-Toy-v0", num_envs=rows, autoreset_mode="Disabled").unwrapped
    engine = _AnswersEngine(rows, envs)
    return label_difficulty(envs, engine, path, rollouts=21, **options), envs


class _AnswersEngine(ScriptedEngine):
    """Writes an answer of one random symbol, so that one in several rollouts is right."""

    def __init__(self, rows, envs):
        super().__init__(rows, envs.components.size)
        protocol, encode = envs.protocol, envs.tokenizer.encode
        answers = sorted({question.answers[0] for question in envs.questions})
        self.scripts = [encode(answer_text(protocol, answer)).tolist() for answer in answers]
        self.starts = {}

    def begin(self, rows, prompts, seeds):
        super().begin(rows, prompts, seeds)
        self.starts.update((row, len(prompt)) for row, prompt in zip(rows, prompts, strict=True))

    def decode(self, rows):
        decoded = super().decode(rows)
        for i, row in enumerate(rows):
            at = int(self.lengths[row]) - 1 - self.starts[row]
            choice = int(decoded.ids[i]) % len(self.scripts)
            decoded.ids[i] = self.scripts[choice][at % 3]
        return decoded


def test_labels_can_be_gone_on_with(tmp_path):
    whole, envs = _label(tmp_path / "whole.jsonl", indices=range(14), at_once=5)
    assert [label.question_id for label in whole.values()] == [q.id for q in envs.questions[:14]]
    needed = [label.rollouts_needed for label in whole.values()]
    assert len({n for n in needed if n is not None}) > 3
    assert read_difficulties(tmp_path / "whole.jsonl") == whole

    part = tmp_path / "part.jsonl"
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:4]) + lines[4][:9])
    told = []
    again, _ = _label(
        part, indices=range(14), at_once=5, rows=3, progress=lambda *seen: told.append(seen)
    )
    assert again == whole
    assert part.read_text().splitlines() == [line.rstrip("\n") for line in lines]
    assert told[-1] == (14, 14)


def test_bad_files(tmp_path):
    with pytest.raises(DataNotFoundError, match="search-env label"):
        read_difficulties(tmp_path / "none.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question_id": "a", "rollouts_needed": 3, "level": "hard"}\n')
    with pytest.raises(DataFormatError, match="line 1"):
        read_difficulties(bad)
    with pytest.raises(ConfigurationError, match="right"):
        _label(tmp_path / "x.jsonl", right="f1")
