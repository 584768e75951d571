"""The judge: asked once, counted, never guessed."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import pytest

from tests.benchmarks.players.endpoint_server import chat_reply, serving

pytest.importorskip("openai")

from search_env.agents.baselines.scripted import make_baseline
from search_env.benchmarks.harness.errors import EndpointError, EndpointReplyError
from search_env.benchmarks.harness.results_file import (
    EpisodeResult,
    ResultsWriter,
    read_results,
    with_verdicts,
)
from search_env.benchmarks.players.judge import Judge, prompt_digest
from search_env.benchmarks.players.openai_endpoint import Endpoint
from search_env.evaluation.evaluate import evaluate, summarise


@pytest.fixture(scope="module")
def records():
    env = gym.make("SearchQA-Toy-v0", split="test")
    right = evaluate(env, make_baseline("oracle"), range(3))
    silent = replace(right[0], answer=None, exact_match=0.0)
    wrong = replace(right[1], answer="no idea")
    return [*right, wrong, silent]


def fair(path, request):
    """Says True where the answer stands among the golds."""
    text = request["messages"][0]["content"]
    golds, answer = (
        line.partition(": ")[2]
        for line in text.splitlines()
        if line.startswith(("Reference", "Answer"))
    )
    return chat_reply("True." if answer in golds.split("; ") else "**false**") | {
        "usage": {"prompt_tokens": 90, "completion_tokens": 1, "total_tokens": 91}
    }


def judge(url, path, **options):
    return Judge(Endpoint(url, "j", api="chat", retries=0), "j", path=path, **options)


def test_verdicts_are_asked_once_and_counted(tmp_path, records):
    path = tmp_path / "verdicts.jsonl"
    told = []
    with serving(fair) as (url, requests):
        found, tally = judge(url, path).judge([*records, records[0]], lambda: told.append(1))
        assert [record.judged for record in found] == [1.0, 1.0, 1.0, 0.0, 0.0, 1.0]
        assert (tally.requested, tally.remembered, len(told), len(requests)) == (4, 0, 4, 4)
        assert tally.cost == {"prompt": 360, "completion": 4}
        again, tally = judge(url, path).judge(records)
        assert (again, tally.requested, tally.remembered) == (found[:5], 0, 4)
        assert len(requests) == 4
        assert "stop" not in requests[0]
        other = Judge(Endpoint(url, "k", api="chat", retries=0), "k", path=path)
        assert other.judge(records)[1].requested == 4  # another judge's verdicts are its own
    assert summarise(found).judged.mean == pytest.approx(4 / 6)


def test_a_judge_that_does_not_judge(tmp_path, records):
    path = tmp_path / "verdicts.jsonl"
    with (
        serving(lambda *_: chat_reply("It depends.")) as (url, _),
        pytest.raises(EndpointReplyError, match=r"True or False from the judge j, got 'It dep"),
    ):
        judge(url, path).judge(records)


def test_verdicts_before_a_failure_are_kept(tmp_path, records):
    path = tmp_path / "verdicts.jsonl"
    left = iter([True, True])

    def dies(route, request):
        return fair(route, request) if next(left, False) else (500, {})

    with serving(dies) as (url, _), pytest.raises(EndpointError, match="status 500"):
        judge(url, path, concurrency=1).judge(records)
    path.write_text(path.read_text("utf-8") + '{"key": "cut', "utf-8")
    with serving(fair) as (url, requests):
        _, tally = judge(url, path).judge(records)
        assert (tally.remembered, tally.requested, len(requests)) == (2, 2, 2)
        assert judge(url, path).judge(records)[1].remembered == 4


def test_verdicts_go_into_the_file(tmp_path, records):
    header = {"protocol": "p", "digests": {}, "agent": {"name": "a"}, "decoding": {}}
    header |= {"ablation": None, "seed": 0}
    with ResultsWriter(tmp_path / "r.jsonl", header) as writer:
        for index, record in enumerate(records):
            writer.write(EpisodeResult(index, 0, record))
    before = read_results(tmp_path / "r.jsonl")
    with serving(fair) as (url, _):
        found, _ = judge(url, tmp_path / "v.jsonl").judge(before.records)
    after = with_verdicts(before, found, {"model": "j", "prompt": prompt_digest()})
    assert after.records == found
    assert after.header == {**before.header, "judge": {"model": "j", "prompt": prompt_digest()}}
    assert read_results(tmp_path / "r.jsonl").records == found
