"""The measurements of the search server as scripts, and its faults with few clients."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("urllib3")

from search_env.benchmarks.speed import retrieval, retrieval_faults, retrieval_server
from search_env.benchmarks.speed.served import Served
from search_env.retrieval.bm25.retriever import BM25Retriever
from tests.retrieval.server import running


@contextmanager
def in_a_thread(load, settings, workers=1):
    with running.serving(
        load(), window=settings.window, max_batch=settings.max_batch, cache=settings.cache
    ) as url:
        yield Served(url, os.getpid())


def test_the_speed_of_the_server_as_a_script(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(retrieval, "NUM_WORDS", 10_000)
    monkeypatch.setattr(retrieval_server, "serving", in_a_thread)
    monkeypatch.setattr(retrieval_server, "BATCH", 4)
    small = {"passages": 300, "queries": 40, "encoder-queries": 16, "width": 32, "rounds": 1}
    arguments = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["x", *arguments, "--output", str(tmp_path / "page.md")])
    retrieval_server.main()
    page = (tmp_path / "page.md").read_text("utf-8")
    assert capsys.readouterr().out == page
    assert "| 4 queries a POST, 1 client |" in page
    assert "Batching on to off: " in page


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are found in /proc")
def test_faults_lose_no_answer_and_make_none_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "NUM_WORDS", 10_000)
    words = retrieval.Words()
    BM25Retriever.build(retrieval.corpus(words, 300)).save(tmp_path / "index")
    plan = retrieval_faults.Plan(
        clients=4,
        slow=1,
        answers=150,
        kill_every=60,
        cut_bytes=60_000,
        pause=0.001,
        retries=1000,
        longest_pause=0.05,
    )
    texts = list(dict.fromkeys(retrieval.queries(words)))[:60]
    outcome = retrieval_faults.run_faults(tmp_path / "index", plan, texts)
    assert outcome.wrong == []
    assert outcome.lost == []
    assert outcome.answers >= 150
    assert outcome.kills >= 1
    assert outcome.cuts >= 1
    assert outcome.slow_answers >= 1


def test_a_wrong_answer_would_be_found(tmp_path):
    run = retrieval_faults._Run(retrieval_faults.Plan(), {"a": []}, "")
    run.compare(["a"], [[retrieval_faults.Document("1", "", "")]])
    assert len(run.outcome.wrong) == 1
