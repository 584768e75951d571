"""A process that runs for days: files change under it, and so does its working directory."""

from __future__ import annotations

import json
import os

import gymnasium as gym
import pytest

from search_env.datasets.locate import COMBINED_NAME
from search_env.envs.splits import splits_of
from search_env.paths import file_key
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.retrieval.cassette import Cassette
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Document

TOWNS = ("Ulm", "Aix")  # of one length: the files differ in nothing but their content


def questions_file(path, answer, **more):
    row = {"id": "1", "question": "Which town?", "answers": [answer], **more}
    path.write_text(json.dumps(row) + "\n")


def corpus_file(path, town):
    path.write_text(json.dumps({"id": "1", "title": town, "text": "a town on a river"}) + "\n")


def tokenizer_file(path, word, added="</s>"):
    vocabulary = {chr(33 + i): i for i in range(94)} | {word: 94}
    added = [{"id": 95, "content": added, "special": True, "single_word": False}]
    added = [{**a, "lstrip": False, "rstrip": False, "normalized": False} for a in added]
    decoder = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    spec = {"added_tokens": added, "model": model, "decoder": decoder, "pre_tokenizer": decoder}
    path.write_text(json.dumps(spec))


def make(**arguments):
    return gym.make("SearchQA-Toy-v0", **arguments).unwrapped


def gold(path):
    (question,) = make(dataset=str(path), retriever=FakeRetriever()).questions
    return question.answers


def titles(**arguments):
    (documents,) = make(**arguments).retriever.search(["town river"], k=1)
    return [document.title for document in documents]


def test_a1_questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    for town in TOWNS * 3:
        questions_file(path, town)
        assert gold(path) == (town,)


def test_a1_questions_of_a_known_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCH_ENV_DATA", str(tmp_path))
    published = {"dataset": "bamboogle", "split": "test"}
    for town in TOWNS * 3:
        questions_file(tmp_path / COMBINED_NAME, town, **published)
        assert gold("bamboogle") == (town,)
    other = tmp_path / "other"
    other.mkdir()
    questions_file(other / COMBINED_NAME, "Bonn", **published)
    monkeypatch.setenv("SEARCH_ENV_DATA", str(other))
    assert gold("bamboogle") == ("Bonn",)


def test_a1_corpus(tmp_path):
    path = tmp_path / "passages.jsonl"
    for town in TOWNS * 3:
        corpus_file(path, town)
        assert titles(retriever="bm25", corpus=str(path)) == [town]


def test_a1_index_folder(tmp_path):
    path = tmp_path / "index"
    for town in TOWNS * 3:
        BM25Retriever.build([Document("1", town, "a town on a river")]).save(path)
        assert titles(retriever="bm25", corpus=str(path)) == [town]


def test_a1_cassette(tmp_path):
    path = tmp_path / "cassette.jsonl"
    for town in TOWNS * 3:
        row = {"backend": "b", "query": "town river", "k": 1}
        document = {"id": "1", "title": town, "text": "", "score": 1.0}
        path.write_text(json.dumps({**row, "documents": [document]}) + "\n")
        assert titles(retriever=f"cassette:{path}") == [town]


def test_a1_cassette_goes_on_in_the_file_that_it_opened(tmp_path, monkeypatch):
    class OneTown:
        def search(self, queries, k):
            return [[Document("1", "Ulm", "")] for _ in queries]

    monkeypatch.chdir(tmp_path)
    cassette = Cassette("cassette.jsonl", OneTown())
    (tmp_path / "elsewhere").mkdir()
    os.chdir("elsewhere")
    cassette.search(["town"], k=1)
    assert (tmp_path / "cassette.jsonl").exists()
    assert not (tmp_path / "elsewhere" / "cassette.jsonl").exists()


@pytest.mark.parametrize("as_folder", [False, True])
def test_a1_tokenizer(tmp_path, as_folder):
    path = tmp_path / "tokenizer.json"
    name = str(tmp_path if as_folder else path)
    for town in TOWNS * 3:
        tokenizer_file(path, town)
        assert (
            make(tokenizer=name, protocol="r1-searcher").tokenizer.bytes_of([94]) == town.encode()
        )
        assert load_tokenizer(name, 200).bytes_of([94]) == town.encode()
        assert load_tokenizer(name) is load_tokenizer(name)


def test_a1_files_beside_a_tokenizer(tmp_path):
    tokenizer_file(tmp_path / "tokenizer.json", "Ulm", added="<x>")
    with pytest.warns(UserWarning, match="eos_token"):
        assert not load_tokenizer(str(tmp_path)).eos_ids
    for end, ids in (("<x>", {95}), ("Ulm", {94}), ("<x>", {95})):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}))
        assert load_tokenizer(str(tmp_path)).eos_ids == ids


def test_a1_a_relative_path_is_of_the_folder_that_the_process_is_in(tmp_path, monkeypatch):
    for town in TOWNS:
        folder = tmp_path / town
        folder.mkdir()
        questions_file(folder / "q.jsonl", town)
        corpus_file(folder / "c.jsonl", town)
        tokenizer_file(folder / "tokenizer.json", town)
        BM25Retriever.build([Document("1", town, "a town on a river")]).save(folder / "index")
    for town in TOWNS * 2:
        monkeypatch.chdir(tmp_path / town)
        assert gold("q.jsonl") == (town,)
        assert titles(retriever="bm25", corpus="c.jsonl") == [town]
        assert titles(retriever="bm25", corpus="index") == [town]
        assert load_tokenizer("tokenizer.json").bytes_of([94]) == town.encode()
        assert load_tokenizer(".").bytes_of([94]) == town.encode()


def test_a1_a_file_that_stays_is_read_once(tmp_path, monkeypatch):
    path, link = tmp_path / "passages.jsonl", tmp_path / "link.jsonl"
    corpus_file(path, "Ulm")
    link.symlink_to(path)
    first = make(retriever="bm25", corpus=str(path)).retriever
    assert make(retriever="bm25", corpus=str(path)).retriever is first
    monkeypatch.chdir(tmp_path)
    assert make(retriever="bm25", corpus="passages.jsonl").retriever is first
    assert file_key(link) == file_key(path)


def test_a1_a_large_file_is_known_by_its_size_and_times(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(2 << 20))
    before = path.stat()
    first = file_key(path)
    assert file_key(path) == first
    path.write_bytes(b"1" * (2 << 20))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert file_key(path) != first


def test_a1_a_missing_file_has_a_key_of_its_own(tmp_path):
    path = tmp_path / "file"
    missing = file_key(path)
    path.write_text("")
    assert file_key(path) != missing
    path.unlink()
    assert file_key(path) == missing


def keep_times(path, write):
    """Write to a file as tools do that keep its time of modification."""
    before = path.stat() if path.exists() else None
    write()
    if before is not None:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a1_splits_of_a_file(tmp_path, monkeypatch):
    path = tmp_path / "q.jsonl"
    for split in ("dev", "val") * 3:
        keep_times(path, lambda split=split: questions_file(path, "Ulm", split=split))
        assert splits_of(str(path)).names == (split,)
    for split in ("dev", "val"):
        folder = tmp_path / split
        folder.mkdir()
        questions_file(folder / "q.jsonl", "Ulm", split=split)
        os.utime(folder / "q.jsonl", ns=(0, 0))
    for split in ("dev", "val") * 2:
        monkeypatch.chdir(tmp_path / split)
        assert splits_of("q.jsonl").names == (split,)


def test_a1_times_that_are_kept_and_links_that_move(tmp_path):
    questions, corpus, link = (tmp_path / name for name in ("q.jsonl", "c.jsonl", "link"))
    for town in TOWNS * 2:
        keep_times(questions, lambda town=town: questions_file(questions, town))
        keep_times(corpus, lambda town=town: corpus_file(corpus, town))
        assert gold(questions) == (town,)
        assert titles(retriever="bm25", corpus=str(corpus)) == [town]
        folder = tmp_path / town
        folder.mkdir(exist_ok=True)
        questions_file(folder / "q.jsonl", town)
        corpus_file(folder / "c.jsonl", town)
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
        assert gold(link / "q.jsonl") == (town,)
        assert titles(retriever="bm25", corpus=str(link / "c.jsonl")) == [town]


def test_a1_folders_of_shards_and_home(tmp_path, monkeypatch):
    for town in TOWNS * 2:
        home = tmp_path / town
        (home / "d").mkdir(parents=True, exist_ok=True)
        (home / "c").mkdir(exist_ok=True)
        monkeypatch.setenv("HOME", str(home))
        for other in (town, *TOWNS):
            questions_file(home / "d" / "train.jsonl", other)
            corpus_file(home / "c" / "part-0.jsonl", other)
            assert gold("~/d") == (other,)
            assert titles(retriever="bm25", corpus="~/c") == [other]


def test_a1_options_of_the_world():
    for articles in (200, 300) * 2:
        env = make(dataset="world", dataset_options={"articles": articles, "questions": 3})
        assert len(env.retriever) == articles
