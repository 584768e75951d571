"""The study of the three families: names, the reader, what is imitated, the table and its rows."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from search_env.benchmarks.studies.families import (
    FAMILIES,
    KEYS,
    SHUFFLED,
    VALUES,
    Names,
    Reader,
    Result,
    Settings,
    play,
    report,
    train,
    write_rows,
)
from search_env.envs.registration import ENVIRONMENTS
from search_env.tokens.tokenizer import load_tokenizer
from search_env.worlds.diagnostics import diagnostic_questions

UNANSWERABLE, POISONED, AS_OF = FAMILIES


def test_the_symbols_are_those_of_the_tokenizer():
    tokenizer = load_tokenizer("toy")
    for symbols, text in ((KEYS, "key"), (VALUES, "value")):
        names = [tokenizer.decode(np.array([symbol])).strip() for symbol in symbols]
        assert names == [f"{text}{number}" for number in range(8)]


def test_names_go_there_and_back():
    names = Names(5, 25, (KEYS, VALUES), seed=0)
    windows = np.tile(np.arange(25), (5, 1))
    masks = (np.arange(24) % 3 == 0).astype(np.int8) * np.ones((5, 1), np.int8)
    shown, allowed = names.of(windows, masks)
    assert (shown.sort(1).values == torch.arange(25)).all()
    for symbol in range(24):
        assert (names.action(shown[:, symbol].numpy()) == symbol).all()
        assert (allowed.gather(1, shown[:, [symbol]]) == masks[0, symbol]).all()
    tags = [*range(7), 23, 24]
    assert (shown[:, tags] == torch.tensor(tags)).all()
    before = names.shown.copy()
    names.draw(np.array([2]))
    assert [(names.shown[row] != before[row]).any() for row in range(5)] == [0, 0, 1, 0, 0]


def test_no_name_changes_where_none_is_renamed():
    names = Names(2, 25, (), seed=0)
    assert (names.shown == np.arange(25)).all()


def test_the_reader_draws_allowed_symbols_only():
    torch.manual_seed(0)
    reader = Reader(6, 25, 24, 16)
    windows = torch.tensor([[24, 24, 23, 7, 8, 1], [15, 15, 15, 15, 15, 15]])
    masks = torch.zeros(2, 24, dtype=torch.int8)
    masks[:, [7, 15]] = 1
    distribution, values = reader(windows, masks)
    assert values.shape == (2,)
    outside = distribution.probs[:, [i for i in range(24) if i not in (7, 15)]]
    assert outside.max() < 1e-6
    assert torch.allclose(distribution.probs.sum(1), torch.ones(2))
    # What every place shows gets the whole share of copying.
    assert distribution.probs[1, 15] > distribution.probs[1, 7]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_imitation_teaches_the_search_and_no_answer(family):
    how = replace(Settings(), imitation=200, steps=0, num_envs=64)
    drawn, imitated, trained = train(family, 0, how)
    for one, other in zip(imitated.parameters(), trained.parameters(), strict=True):
        assert torch.equal(one, other)
    questions = diagnostic_questions(str(ENVIRONMENTS[family.id]["dataset"]), "test")
    rows = play(family, imitated, "test")
    assert [row["question"] for row in rows] == [question.id for question in questions]
    asked = [[question.hops[0].query] for question in questions]
    assert np.mean([row["queries"][:1] == own for row, own in zip(rows, asked, strict=True)]) > 0.9
    assert np.mean([row["return"] for row in rows]) < 0.5
    before = play(family, drawn, "test")
    assert (
        np.mean([row["queries"][:1] == own for row, own in zip(before, asked, strict=True)]) < 0.1
    )


def test_an_update_changes_the_policy_and_repeats_itself():
    how = replace(Settings(), imitation=5, num_envs=16, num_steps=32, steps=512)
    first, second = (list(train(AS_OF, 3, how))[-1] for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    _, imitated, _ = train(AS_OF, 3, how)
    assert not torch.equal(imitated.actor[0].weight, first.actor[0].weight)


def results() -> list[Result]:
    """Results by hand, of two seeds."""

    def rows(total: float) -> list[dict[str, float]]:
        return [{"return": total}] * 64

    means = {"before": 0.0, "imitation": 0.125, "after": 0.75, "train": 1.0, SHUFFLED: 0.25}
    return [
        Result(family.name, seed, {k: rows(v + seed / 8) for k, v in means.items()}, 10.0 + seed)
        for family in FAMILIES
        for seed in (0, 1)
    ]


def test_the_table():
    table = report(results())
    line = next(line for line in table.splitlines() if "Poisoned" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["`SearchQA-Poisoned-v0`", "0.125", "0.75"]
    assert cells[5] == "0.812 (0.750, 0.875)"
    assert cells[-2:] == ["1", "10"]


def test_the_rows_are_written_the_same_each_time(tmp_path):
    first, second = tmp_path / "a.json.gz", tmp_path / "b.json.gz"
    for path in (first, second):
        write_rows(path, results())
    assert first.read_bytes() == second.read_bytes()
    rows = json.loads(gzip.decompress(first.read_bytes()))
    assert len(rows) == 6
    assert rows[0]["rows"]["after"] == [{"return": 0.75}] * 64
