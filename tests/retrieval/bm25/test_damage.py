"""Saved indexes under random damage: the cheap checks or the checksums always notice it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import IndexFormatError, StorageError
from search_env.retrieval import BM25Retriever
from search_env.types import Document

CORPUS = [
    Document(str(i), f"Town {i}", f"The town number {i} lies on river {i % 3}.") for i in range(9)
]
QUERIES = ["town", "river 1", "number 7", "lies", "nothing"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("bm25") / "index"
    BM25Retriever.build(CORPUS).save(path)
    return path


def as_an_earlier_version_wrote_it(path):
    file = path / "format.json"
    content = json.loads(file.read_text())
    for name in ("checksum", "checksums"):
        del content[name]
    file.write_text(json.dumps(content, indent=1) + "\n")


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    at, count = rng.randrange(len(data)), rng.randint(1, 16)
    data[at : at + count] = rng.randbytes(len(data[at : at + count]))


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def extend(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.randint(1, 9))


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(1)


@given(
    damage=st.sampled_from([flip, overwrite, truncate, extend, insert]),
    which=st.integers(0, 8),
    rng=st.randoms(use_true_random=False),
)
def test_b14_any_damage_to_any_file_is_noticed(whole, tmp_path_factory, damage, which, rng):
    path = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    file = sorted(path.iterdir())[which]
    before = file.read_bytes()
    data = bytearray(before)
    damage(data, rng)
    file.write_bytes(data)
    if data == before:
        assert len(BM25Retriever.load(path, verify=True)) == len(CORPUS)
        return
    with pytest.raises(IndexFormatError, match=r"Rebuild it with `search-env index`"):
        BM25Retriever.load(path, verify=True)
    with contextlib.suppress(IndexFormatError):  # without: results, or an error of this package
        BM25Retriever.load(path).search(QUERIES, 5)


def test_b14_an_intact_index_verifies_and_answers(whole):
    verified = BM25Retriever.load(whole, verify=True)
    assert verified.search(QUERIES, 5) == BM25Retriever.build(CORPUS).search(QUERIES, 5)


@pytest.mark.parametrize(
    ("name", "position", "value"),
    [
        ("postings.starts", 0, 1),
        ("postings.starts", 1, -1),
        ("postings.starts", -2, 10**6),
        ("postings.starts", -1, 0),
        ("passages.offsets", 0, 1),
        ("passages.offsets", 1, 10**6),
        ("vocabulary.offsets", -2, -5),
        ("vocabulary.offsets", -1, 2**60),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_b14_the_ends_of_pointers_are_checked_on_every_opening(
    whole, tmp_path, name, position, value, old
):
    path = tmp_path / "index"
    shutil.copytree(whole, path)
    if old:
        as_an_earlier_version_wrote_it(path)
    array = np.load(path / f"{name}.npy")
    array[position] = value
    np.save(path / f"{name}.npy", array)
    with pytest.raises(IndexFormatError, match=f"a {name}.npy that does not fit"):
        BM25Retriever.load(path)


def test_b14_the_counts_of_the_manifest_are_checked(whole, tmp_path):
    path = tmp_path / "index"
    shutil.copytree(whole, path)
    as_an_earlier_version_wrote_it(path)
    text = (path / "format.json").read_text()
    (path / "format.json").write_text(text.replace('"passages": 9', '"passages": 8'))
    with pytest.raises(IndexFormatError, match="in its arrays"):
        BM25Retriever.load(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"k1": 0.9', '"k1": 0.8'),
        ('"the"', '"thx"'),
        ('"checksum"', '"checksun"'),
        ('"checksums"', '"checkzums"'),
        ('"version": 1', '"version": 1 '),
    ],
)
def test_b14_the_manifest_is_covered_by_its_own_checksum(whole, tmp_path, old, new):
    path = tmp_path / "index"
    shutil.copytree(whole, path)
    text = (path / "format.json").read_text()
    assert old in text
    (path / "format.json").write_text(text.replace(old, new, 1))
    with pytest.raises(IndexFormatError, match=r"format\.json"):
        BM25Retriever.load(path)


def test_b14_an_index_of_an_earlier_version_loads_and_cannot_be_verified(whole, tmp_path):
    path = tmp_path / "index"
    shutil.copytree(whole, path)
    as_an_earlier_version_wrote_it(path)
    assert BM25Retriever.load(path).search(QUERIES, 5) == BM25Retriever.load(whole).search(
        QUERIES, 5
    )
    with pytest.raises(IndexFormatError, match=r"an earlier version, which has none.*Rebuild it"):
        BM25Retriever.load(path, verify=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("name", ["postings.impacts.npy", "format.json"])
def test_b14_a_full_disk_leaves_the_old_index(whole, tmp_path, monkeypatch, number, name):
    path = tmp_path / "index"
    shutil.copytree(whole, path)
    real = np.save

    def failing_save(file, *arguments, **named):
        if file.name == name:
            file.write_bytes(b"half")
            raise OSError(number, os.strerror(number), str(file))
        real(file, *arguments, **named)

    def failing_text(file, *_, **__):
        raise OSError(number, os.strerror(number), str(file))

    if name == "format.json":
        monkeypatch.setattr("pathlib.Path.write_text", failing_text)
    else:
        monkeypatch.setattr(np, "save", failing_save)
    with pytest.raises(StorageError, match=os.strerror(number)):
        BM25Retriever.build(CORPUS[:3]).save(path)
    assert os.listdir(tmp_path) == ["index"]
    assert len(BM25Retriever.load(path, verify=True)) == len(CORPUS)
