"""Hostile and broken files: bombs, links, pipes, depth, size, files that change: named errors."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import random

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.datasets import json_stream, read_documents, read_questions, streaming
from search_env.datasets.streaming import open_binary
from search_env.errors import DataError, DataFormatError, DataNotFoundError, IndexFormatError
from search_env.retrieval import BM25Retriever
from search_env.types import Document
from tests.work import peak_bytes

QUESTION = {"id": "1", "question": "Q?", "answers": ["Oslo"]}
PASSAGE = {"id": "1", "title": "T", "text": "x"}
READERS = [read_questions, read_documents]


def packed_spaces(compress, size):
    """An archive of ``size`` spaces, written without holding them."""
    piece = b" " * (1 << 20)
    return compress(piece) * (size >> 20)  # all three formats may be concatenated


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("name", ["bomb.jsonl", "bomb.json", "bomb.csv", "bomb.tsv"])
def test_c4_an_archive_that_grows_by_a_thousand_is_refused(write, monkeypatch, compress, name):
    monkeypatch.setattr(streaming, "_EXPANDED_FREELY", 1 << 22)
    path = write(name, packed_spaces(compress, 1 << 26))

    def read():
        with pytest.raises(DataFormatError, match=r"grows by less than 250 times.*Unpack it"):
            list(read_documents(path))

    assert peak_bytes(read) < 30_000_000  # of xz, 25 MB is the dictionary of its own reader


def test_c4_an_index_folder_refuses_a_bomb_in_place_of_its_manifest(tmp_path):
    BM25Retriever.build([Document("1", "T", "x y")]).save(tmp_path / "index")
    os.truncate(tmp_path / "index" / "format.json", 1 << 40)  # sparse: no space is taken
    with pytest.raises(IndexFormatError, match=r"a format.json of 1,099,511,627,776 bytes"):
        BM25Retriever.load(tmp_path / "index")


@pytest.mark.parametrize("name", ["long.jsonl", "long.json", "long.csv"])
def test_c4_a_row_longer_than_memory_allows_is_refused(write, monkeypatch, name):
    monkeypatch.setattr(json_stream, "LONGEST_ROW", 1 << 20)
    text = "x" * (8 << 20)
    if name.endswith("csv"):
        content = f"id,text\n1,{text}\n"
    else:
        content = json.dumps([PASSAGE | {"text": text}] if name == "long.json" else text)
        content = content if name == "long.json" else json.dumps(PASSAGE | {"text": text})
    path = write(name, content)

    def read():
        with pytest.raises(DataFormatError, match="expected a row of at most 1 MiB"):
            list(read_documents(path))

    assert peak_bytes(read) < 8 << 20


@pytest.mark.parametrize("name", ["big.jsonl", "big.json"])
def test_c4_documents_and_questions_of_ten_megabytes_are_read(write, name):
    text = "x " * (5 << 20)
    path = write(name, [PASSAGE | {"text": text}])
    assert [len(d.text) for d in read_documents(path)] == [10 << 20]
    assert peak_bytes(lambda: list(read_documents(path))) < 100 << 20
    path = write(name, [QUESTION | {"question": text}])
    assert [len(q.text) for q in read_questions(path)] == [10 << 20]


@pytest.mark.parametrize(
    "content",
    [
        '{"id": "1", "question": "Q?", "answer": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '[{"id": "1", "question": "Q?", "answer": ' + "[" * 100_000 + "]" * 100_000 + "}]",
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "[" * 100_000,
        '{"id": ' + "[" * 800 + "]" * 800 + ', "question": "Q?", "answer": "x"}',
        '{"id": "1", "question": "Q?", "answers": ' + "[" * 800 + "]" * 800 + "}",
        '{"id": ' + "9" * 5000 + ', "question": "Q?", "answer": "x"}',
        '{"id": 1e999, "question": "Q?", "answer": "x"}',
        '{"id": -Infinity, "question": "Q?", "answer": "x"}',
        '{"id": 1, "id": 2, "question": "Q?", "answer": "x"}',
        '[{"id": 1, "question": "Q?", "question": "R?", "answer": "x"}]',
    ],
)
@pytest.mark.parametrize("name", ["q.jsonl", "q.json"])
def test_c4_depth_numbers_and_repeated_names_are_named_errors(write, name, content):
    with pytest.raises(DataFormatError) as caught:
        list(read_questions(write(name, content)))
    assert len(str(caught.value)) < 600


def test_c4_deep_strings_inside_tables(write):
    deep = json.dumps("[" * 100_000)
    row = f'{{"_id": "1", "question": "Q?", "answer": "x", "context": {deep}, "evidences": []}}'
    with pytest.raises(DataFormatError, match="a list as a string of JSON"):
        list(read_questions(write("q.jsonl", row)))
    gold = f'{{"id": "1", "question": "Q?", "answer": {json.dumps(deep * 2)}}}'
    assert len(list(read_questions(write("q.jsonl", gold)))) == 1


def test_c4_links_that_lead_out_of_a_folder_are_refused(write, tmp_path):
    secret = write("secret.jsonl", [PASSAGE])
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "a.jsonl").symlink_to(secret)
    with pytest.raises(DataFormatError, match=r"a file inside .*got a link to .*secret.jsonl"):
        read_documents(folder)
    (folder / "a.jsonl").unlink()
    write("shards/b.jsonl", [PASSAGE])
    (folder / "a.jsonl").symlink_to(folder / "b.jsonl")
    assert len(list(read_documents(folder))) == 2
    linked = tmp_path / "link"
    linked.symlink_to(folder)
    assert len(list(read_documents(linked))) == 2
    index = tmp_path / "index"
    BM25Retriever.build([Document("1", "T", "x y")]).save(index)
    moved = tmp_path / "moved.npy"
    (index / "passages.blob.npy").rename(moved)
    (index / "passages.blob.npy").symlink_to(moved)
    with pytest.raises(IndexFormatError, match=r"a file outside it .*moved.npy"):
        BM25Retriever.load(index)


def test_c4_the_cache_of_the_hub_links_to_its_blobs(write, tmp_path):
    write("hub/blobs/0123", json.dumps(PASSAGE))
    snapshot = tmp_path / "hub" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "corpus.jsonl").symlink_to("../../blobs/0123")
    assert len(list(read_documents(snapshot))) == 1


@pytest.mark.parametrize("read", READERS)
def test_c4_pipes_devices_and_odd_paths(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", "/dev/zero", "/dev/null"):
        with pytest.raises(DataNotFoundError, match="a pipe, socket or device"):
            read(path)
    for path in ("a\0b", tmp_path / ("x" * 5000), ""):
        with pytest.raises(DataError):
            read(path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataNotFoundError, match="Check the path"):
        read(tmp_path / "loop")


@pytest.mark.parametrize("name", ["c.jsonl", "c.json", "c.csv"])
def test_c4_a_file_that_changes_while_it_is_read(write, name):
    rows = [PASSAGE | {"id": str(i), "text": "x" * 99} for i in range(5000)]
    table = "id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in rows)
    path = write(name, table if name == "c.csv" else rows)
    stream = read_documents(path)
    next(stream)
    with open(path, "ab") as file:
        file.write(b" \n")
    with pytest.raises(DataFormatError, match="stays as it is while it is read"):
        list(stream)


def test_c4_a_corpus_that_is_replaced_while_it_is_indexed_is_not_cached(
    write, tmp_path, monkeypatch
):
    monkeypatch.setenv("SEARCH_ENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("search_env.envs.loading._CACHE_INDEX_FROM", 1)
    path = write("c.jsonl", [PASSAGE, PASSAGE | {"id": "2"}])
    other = write("other.jsonl", [PASSAGE, PASSAGE | {"id": "2", "text": "y"}])

    def replacing(file, *_):
        os.replace(other, path)
        return iter([Document("1", "T", "x"), Document("2", "T", "y")])

    with monkeypatch.context() as patch:
        patch.setattr("search_env.datasets.detect.read_documents", replacing)
        with pytest.raises(DataFormatError, match="a corpus that stays as it is"):
            gym.make("SearchQA-Toy-v0", corpus=str(path), retriever="bm25")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").rglob("*.npy"))
    env = gym.make("SearchQA-Toy-v0", corpus=str(path), retriever="bm25").unwrapped
    assert [d.text for d in env.retriever.documents()] == ["x", "y"]


def test_c4_a_cache_that_cannot_be_written_costs_a_warning_only(write, tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCH_ENV_CACHE", str(write("file", "no folder")))
    monkeypatch.setattr("search_env.envs.loading._CACHE_INDEX_FROM", 1)
    path = write("c.jsonl", [PASSAGE])
    with pytest.warns(UserWarning, match=r"not cached.*SEARCH_ENV_CACHE to a folder with space"):
        env = gym.make("SearchQA-Toy-v0", corpus=str(path), retriever="bm25").unwrapped
    assert [d.id for d in env.retriever.documents()] == ["1"]


WHOLE = {
    "q.jsonl": (json.dumps(QUESTION) + "\n" + json.dumps(QUESTION | {"id": "2"}) + "\n").encode(),
    "q.json": json.dumps([QUESTION, QUESTION | {"id": "2"}], indent=1).encode(),
    "q.csv": b'id,question,answers\n1,Q?,Oslo\n2,"R, or ""S""?",Ulm\n',
    "q.jsonl.gz": gzip.compress(json.dumps(QUESTION).encode()),
    "q.jsonl.xz": lzma.compress(json.dumps(QUESTION).encode()),
    "q.jsonl.bz2": bz2.compress(json.dumps(QUESTION).encode()),
}


@given(st.sampled_from(sorted(WHOLE)), st.randoms(use_true_random=False))
def test_c4_random_damage_is_read_or_a_named_error(tmp_path_factory, name, rng: random.Random):
    data = bytearray(WHOLE[name])
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        data[at : at + rng.choice((0, 1, 1, 5))] = rng.randbytes(rng.choice((0, 1, 1, 3)))
        data = data or bytearray(b" ")
    folder = tmp_path_factory.getbasetemp()
    path = folder / name
    path.write_bytes(data)
    for read in READERS:
        with contextlib.suppress(DataError, UserWarning):  # a warning says that rows were left out
            list(read(path))


def test_open_binary_says_nothing_of_a_file_that_stays(write):
    with open_binary(write("x.jsonl", [PASSAGE])) as file:
        assert file.read()
