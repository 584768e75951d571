"""Parquet: questions and passages as the hub and verl publish them; skipped without pyarrow."""

from __future__ import annotations

import builtins
import json

import pytest

from search_env.datasets import read_documents, read_questions, tables
from search_env.errors import ConfigurationError, DataFormatError
from search_env.types import Document, Question
from tests.work import peak_bytes


@pytest.fixture
def save(tmp_path):
    """Return ``save(name, rows, **options)``, which writes rows as Parquet."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def writer(name, rows, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
        return path

    return writer


def test_c4_questions_of_search_r1(save):
    rows = [
        {
            "id": "train_0",
            "question": "Q?",
            "golden_answers": ["a", "b"],
            "data_source": source,
            "prompt": [{"role": "user", "content": "..."}],
            "reward_model": {"ground_truth": {"target": ["a", "b"]}, "style": "rule"},
            "extra_info": {"index": 0, "split": "train"},
            "metadata": None,
        }
        for source in ("nq", "hotpotqa")
    ]
    expected = [Question("train_0", "Q?", ("a", "b"), s, "train") for s in ("nq", "hotpotqa")]
    assert list(read_questions(save("train.parquet", rows))) == expected
    for row in rows:
        row["extra_info"]["question"] = row.pop("question")
        del row["golden_answers"], row["id"]
    assert list(read_questions(save("verl.parquet", rows))) == expected


def test_c4_passages_stream_row_group_by_row_group(save, monkeypatch):
    rows = [{"id": i, "title": "T", "text": f"{i} " + "x" * 1000} for i in range(20_000)]
    path = save("wiki.parquet", rows, row_group_size=20_000)
    monkeypatch.setattr(tables, "_BATCH_BYTES", 1 << 16)
    assert sum(1 for _ in read_documents(path)) == 20_000
    assert peak_bytes(lambda: sum(1 for _ in read_documents(path))) < 3_000_000


def test_c4_columns_of_vectors_are_left_out(save):
    path = save("dpr.parquet", [{"id": "1", "title": "T", "text": "x", "embeddings": [0.5] * 8}])
    (row,) = tables.iter_parquet(path)
    assert row.data == {"id": "1", "title": "T", "text": "x"}
    assert list(read_documents(path)) == [Document("1", "T", "x")]


def test_c4_shards_of_the_hub(save, tmp_path):
    for shard in range(2):
        row = {"id": f"{shard}", "question": "Q?", "answers": {"text": ["a"], "answer_start": [0]}}
        save(f"d/train-{shard:05}-of-00002.parquet", [row])
    assert [(q.id, q.split) for q in read_questions(tmp_path / "d")] == [
        ("0", "train"),
        ("1", "train"),
    ]


def test_c4_damaged_parquet(save):
    path = save("q.parquet", [{"id": "1", "question": "Q?", "answers": ["a"]}])
    data = path.read_bytes()
    for damaged in (data[:-20], data[:8], data[:4] + bytes(len(data) - 8) + data[-4:]):
        path.write_bytes(damaged)
        with pytest.raises(DataFormatError, match="an intact Parquet file"):
            list(read_questions(path))
    with pytest.raises(DataFormatError, match="record 1, field 'answers'"):
        list(read_questions(save("n.parquet", [{"id": "1", "question": "Q?", "answers": [True]}])))


def test_c4_row_groups_of_many_gigabytes_are_refused(save, monkeypatch):
    monkeypatch.setattr(tables, "_ROW_GROUP_BYTES", 10)
    path = save("q.parquet", [{"id": "1", "question": "Q?", "answers": ["a"]}])
    with pytest.raises(DataFormatError, match="smaller row groups"):
        list(read_questions(path))


def test_c4_without_pyarrow_the_message_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    path = tmp_path / "q.parquet"
    path.write_bytes(b"PAR1" + json.dumps({}).encode())
    with pytest.raises(ConfigurationError, match=r'pip install "search-env\[parquet\]"'):
        list(read_questions(path))
