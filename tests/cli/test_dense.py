"""``search-env embed`` and ``search-env index --dense``, ``--faiss``."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from search_env.cli.main import app

pytest.importorskip("torch")
faiss = pytest.importorskip("faiss")

from search_env.retrieval.dense.embeddings import Embeddings  # noqa: E402
from search_env.retrieval.dense.retriever import DenseRetriever  # noqa: E402
from tests.retrieval.dense.conftest import as_sentence_transformer, documents, save_encoder  # noqa: E402


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return as_sentence_transformer(save_encoder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def corpus(tmp_path):
    rows = [{"id": d.id, "title": d.title, "text": d.text} for d in documents(80)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "corpus.jsonl"


@pytest.fixture
def vectors(corpus, model, tmp_path):
    result = run("embed", corpus, tmp_path / "vectors", "--model", model)
    assert result.exit_code == 0, result.output
    assert "shard 1/1 is complete, 80 passages embedded now" in result.output
    return tmp_path / "vectors"


def test_embed_goes_on_and_says_what_it_does(corpus, vectors, model):
    result = run("embed", corpus, vectors, "--model", model)
    assert result.exit_code == 0
    assert "0 passages embedded now" in result.output
    assert "mean pooling, fp32 on" in result.output
    assert Embeddings(vectors).card.corpus == str(corpus)


@pytest.mark.parametrize("kind", ["flat", "rabitq"])
def test_index_searches_what_was_embedded(vectors, tmp_path, kind):
    out = tmp_path / "index"
    result = run("index", "--dense", vectors, out, "--kind", kind)
    assert result.exit_code == 0, result.output
    assert (
        "Recall@10 against exact search, 80 queries (passages of the index): 1.000" in result.output
    )
    assert f"retriever='faiss:{out}'" in result.output
    assert len(DenseRetriever.load(out).search(["ulm"], 3)[0]) == 3
    again = run("index", "--dense", vectors, out)
    assert again.exit_code == 2
    assert "pass --force to replace an index" in again.output
    assert run("index", "--dense", vectors, out, "--force").exit_code == 0
    checked = run("index", "--check", out)
    assert checked.exit_code == 0, checked.output
    assert "as it was written, 80 passages" in checked.output


def test_questions_measure_the_recall(vectors, tmp_path):
    questions = tmp_path / "questions.jsonl"
    rows = [
        {"id": str(i), "question": f"where is {w} ?", "answers": ["Ulm"]}
        for i, w in enumerate(("ulm", "rome"))
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("index", "--dense", vectors, tmp_path / "i", "--questions", questions)
    assert result.exit_code == 0, result.output
    assert f"2 queries ({questions}): 1.000" in result.output


def test_check_finds_a_flipped_bit(vectors, tmp_path):
    run("index", "--dense", vectors, tmp_path / "i")
    data = bytearray((tmp_path / "i" / "index.faiss").read_bytes())
    data[-1] ^= 1
    (tmp_path / "i" / "index.faiss").write_bytes(data)
    result = run("index", "--check", tmp_path / "i")
    assert result.exit_code == 2
    assert "a index.faiss that was changed after it was written" in result.output


def test_a_file_of_faiss_becomes_an_index(corpus, vectors, model, tmp_path):
    run("index", "--dense", vectors, tmp_path / "own")
    file, out = tmp_path / "own" / "index.faiss", tmp_path / "adopted"
    result = run("index", "--faiss", file, corpus, out, "--model", model)
    assert result.exit_code == 0, result.output
    ask = [DenseRetriever.load(folder).search(["ulm"], 5) for folder in (tmp_path / "own", out)]
    assert ask[0] == ask[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "3/2"], "Expected a shard from 1/N to N/N, got '3/2'"),
        (["--dtype", "fp8"], "Expected dtype among"),
        (["--stored", "int8"], "Expected stored among"),
        (["--card", "nowhere.json"], "Expected a JSON file at nowhere.json"),
        (["--model", "nowhere"], "Expected a model of transformers"),
    ],
)
def test_embed_refuses(corpus, model, tmp_path, arguments, message):
    result = run("embed", corpus, tmp_path / "v", "--model", model, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_index_refuses(corpus, vectors, tmp_path):
    out = tmp_path / "i"
    result = run("index", "--dense", vectors, out, "--kind", "ivf")
    assert (result.exit_code, "Expected --kind among" in result.output) == (2, True)
    result = run("index", "--dense", tmp_path / "nowhere", out)
    assert (result.exit_code, "Make them with `search-env embed" in result.output) == (2, True)
    result = run("index", "--faiss", "f.index", corpus, out)
    assert (result.exit_code, "FILE CORPUS OUT --model FOLDER" in result.output) == (2, True)
    corpus.write_text(corpus.read_text() + json.dumps({"id": "x", "title": "", "text": "more"}))
    result = run("index", "--dense", vectors, out)
    assert (result.exit_code, "the corpus has changed" in result.output) == (2, True)
