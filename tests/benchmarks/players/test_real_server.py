r"""A real inference server, evaluated end to end, killed in the middle, gone on with.

Serve the bundled model as scripts/save_for_serving.py says, then::

    SEARCH_ENV_ENDPOINT=http://localhost:8000/v1 SEARCH_ENV_ENDPOINT_MODEL=tiny-trained \
        SEARCH_ENV_ENDPOINT_APIS=completions,tokens,chat \
        python -m pytest tests/benchmarks/players/test_real_server.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("openai")

from search_env.benchmarks.harness.results_file import read_results
from search_env.benchmarks.players.factory import make_agent
from search_env.benchmarks.players.openai_endpoint import endpoint_agent
from search_env.benchmarks.question_sets.registry import get_benchmark
from search_env.benchmarks.run import run
from search_env.protocols.r1_searcher import R1_SEARCHER

URL = os.environ.get("SEARCH_ENV_ENDPOINT", "")
MODEL = os.environ.get("SEARCH_ENV_ENDPOINT_MODEL", "tiny-trained")
APIS = os.environ.get("SEARCH_ENV_ENDPOINT_APIS", "completions").split(",")
ID = "world-2hop/r1-searcher/bm25-world1k/v1"
WORLD = get_benchmark(ID)
LIMIT = 60
LEAST = {"tokens": 0.9, "completions": 0.8, "chat": 0.0}
"""Share of equal answers. Ids are exact but where two are equally likely; text is encoded anew by
the server, which may cut what the model wrote into other tokens; a chat begins otherwise."""

pytestmark = [
    pytest.mark.skipif(not URL, reason="SEARCH_ENV_ENDPOINT names no server"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The same model through our own engine."""
    player = make_agent("model:tiny-trained", WORLD, seed=0, num_envs=16)
    return run(WORLD, player, tmp_path_factory.mktemp("here") / "r.jsonl", limit=LIMIT).records


@pytest.mark.parametrize("api", APIS)
def test_the_server_answers_as_the_engine_does(tmp_path, here, api):
    player = endpoint_agent(URL, MODEL, api=api, protocol=R1_SEARCHER, max_tokens=4096)
    found = run(WORLD, player, tmp_path / "r.jsonl", limit=LIMIT).records
    same = sum(a.answer == b.answer for a, b in zip(found, here, strict=True))
    print(f"{api}: {same} of {LIMIT} answers as in the engine")
    assert same >= LEAST[api] * LIMIT


def test_a_run_that_is_killed_goes_on_and_scores_every_question_once(tmp_path, here):
    path = tmp_path / "r.jsonl"
    command = [sys.executable, "-c", "from search_env.cli.main import main; main()", "bench", ID]
    command += ["--agent", URL, "--model", MODEL, "--limit", str(LIMIT), "--out", str(path)]
    command += ["--api", APIS[0], "--concurrency", "4", "--max-tokens", "4096"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not path.exists() or path.read_bytes().count(b"\n") < LIMIT // 3:
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = path.read_bytes().count(b"\n") - 1
    assert LIMIT // 3 - 1 <= before < LIMIT
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = read_results(path)
    assert [played.index for played in found.episodes] == list(range(LIMIT))
    assert len(path.read_bytes().splitlines()) == LIMIT + 1
    right = sum(record.exact_match for record in found.records)
    assert abs(right - sum(record.exact_match for record in here)) <= 0.1 * LIMIT
