"""Vectors in files: resumed, sharded, and refused where they do not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from search_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from search_env.retrieval.dense.card import EncoderCard
from search_env.retrieval.dense.embeddings import Embeddings, Shard, embed, in_blocks
from search_env.retrieval.dense.encoder import Encoder
from search_env.types import Document


def vectors_of(folder, corpus):
    embeddings = Embeddings(folder)
    blocks = in_blocks(corpus, embeddings.card.block)
    return np.concatenate([embeddings.vectors(i, rows) for i, rows in enumerate(blocks)])


def test_vectors_are_the_encoders(embeddings, encoder, corpus):
    found = vectors_of(embeddings.folder, corpus)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, encoder.encode_passages(corpus), atol=1e-6)
    assert embeddings.blocks == [0, 1, 2, 3, 4]


def test_float16_is_the_default_and_near(encoder, corpus, tmp_path):
    assert embed(corpus[:50], tmp_path, encoder) == 50
    found = vectors_of(tmp_path, corpus[:50])
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, encoder.encode_passages(corpus[:50]), atol=1e-3)


def test_shards_write_what_one_process_writes(encoder, corpus, embeddings, tmp_path):
    counts = [
        embed(corpus, tmp_path, encoder, shard=Shard(i, 3), stored="float32", block=64)
        for i in (3, 1, 2)
    ]
    assert counts == [64, 128, 108]
    names = [sorted(p.name for p in folder.iterdir()) for folder in (tmp_path, embeddings.folder)]
    assert names[0] == names[1]
    for name in names[0][1:]:
        assert (tmp_path / name).read_bytes() == (embeddings.folder / name).read_bytes()


def test_what_is_there_is_not_embedded_again(encoder, corpus, tmp_path):
    embed(corpus, tmp_path, encoder, block=64)
    missing = sorted(tmp_path.glob("vectors-00000002-*"))[0]
    whole = missing.read_bytes()
    missing.unlink()
    reports = []
    assert embed(corpus, tmp_path, encoder, block=64, progress=reports.append) == 64
    assert missing.read_bytes() == whole
    assert reports == [64, 128, 192, 256, 300]
    assert embed(corpus, tmp_path, encoder, block=64) == 0


def test_a_corpus_that_has_changed_is_noticed(encoder, corpus, tmp_path):
    embed(corpus, tmp_path, encoder, block=64)
    changed = [*corpus[:70], Document("new", "", "a town"), *corpus[71:]]
    with pytest.raises(
        DataFormatError, match="got those of other passages: the corpus has changed"
    ):
        embed(changed, tmp_path, encoder, block=64)


def test_other_settings_are_refused(model, encoder, corpus, tmp_path):
    embed(corpus[:20], tmp_path, encoder, block=64)
    with pytest.raises(ConfigurationError, match="Expected stored 'float16', with which"):
        embed(corpus[:20], tmp_path, encoder, stored="float32", block=64)
    with pytest.raises(ConfigurationError, match="Expected block 64"):
        embed(corpus[:20], tmp_path, encoder)
    other = Encoder(model, EncoderCard("cls"))
    with pytest.raises(ConfigurationError, match="Expected encoder"):
        embed(corpus[:20], tmp_path, other, block=64)
    with pytest.raises(ConfigurationError, match="Expected stored among"):
        embed(corpus[:20], tmp_path / "new", encoder, stored="int8")


def test_vectors_that_do_not_fit_are_refused(encoder, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(Encoder, "encode_passages", lambda self, d: np.full((len(d), 32), 1e6, "f"))
    with (
        np.errstate(over="ignore"),
        pytest.raises(ConfigurationError, match="fit into float16, got larger"),
    ):
        embed(corpus[:5], tmp_path, encoder)


def test_a_missing_block_is_named(encoder, corpus, tmp_path):
    embed(corpus, tmp_path, encoder, shard=Shard(1, 2), block=64)
    embeddings = Embeddings(tmp_path)
    assert embeddings.blocks == [0, 2, 4]
    with pytest.raises(DataNotFoundError, match=r"vectors of block 1 .* for every shard"):
        embeddings.vectors(1, corpus[64:128])


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(b""),
        lambda file: np.save(file, np.zeros((64, 31), np.float16)),
        lambda file: np.save(file, np.zeros((64, 32), np.float64)),
    ],
)
def test_a_damaged_block_is_named(encoder, corpus, tmp_path, damage):
    embed(corpus[:64], tmp_path, encoder, block=64)
    (file,) = tmp_path.glob("vectors-*")
    damage(file)
    with pytest.raises(DataFormatError, match=r"vectors-00000000-.*Remove this file and run"):
        Embeddings(tmp_path).vectors(0, corpus[:64])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"format \('search-env embeddings', 2\)"),
        ({"format": "x"}, "format"),
        ({"extra": 1}, "extra"),
        ({"encoder": {"pooling": "sum"}}, "Expected pooling among"),
        (None, "Remove this file"),
    ],
)
def test_a_damaged_card_is_named(encoder, corpus, tmp_path, change, message):
    embed(corpus[:5], tmp_path, encoder)
    file = tmp_path / "embeddings.json"
    file.write_text("{" if change is None else json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataFormatError, match=message):
        Embeddings(tmp_path)


def test_a_folder_without_embeddings(tmp_path):
    with pytest.raises(DataNotFoundError, match="Make them with `search-env embed"):
        Embeddings(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["0/1", "3/2", "1", "1/0", "a/b", "-1/2"])
def test_bad_shards(text):
    with pytest.raises(ConfigurationError, match="Expected a shard from 1/N to N/N"):
        Shard.parse(text)


KILLED = """
import sys
from search_env.retrieval.dense import embeddings as module
from search_env.retrieval.dense.encoder import Encoder
from tests.retrieval.dense.conftest import documents

original = module._write
def slow(folder, block, *rest):
    original(folder, block, *rest)
    print(block, flush=True)
    if block == 1:
        sys.stdin.read()  # until it is killed
module._write = slow
module.embed(documents(), sys.argv[2], Encoder(sys.argv[1]), stored="float32", block=64)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_process_is_resumed(model, encoder, corpus, embeddings, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(model), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert [process.stdout.readline().strip() for _ in range(2)] == ["0", "1"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    leftover = tmp_path / ".vectors-00000002-0.npy.x.tmp"  # a block that was half written
    leftover.write_bytes(b"half")
    assert Embeddings(tmp_path).blocks == [0, 1]
    assert embed(corpus, tmp_path, encoder, stored="float32", block=64) == 300 - 128
    np.testing.assert_array_equal(
        vectors_of(tmp_path, corpus), vectors_of(embeddings.folder, corpus)
    )
