"""A search server that training uses: it goes away and comes back, and two runs share it.

Episodes whose search failed are truncated and kept out of the loss; training goes on meanwhile with
the others, and with all of them when the server is back.
"""

from __future__ import annotations

import math
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("urllib3")
pytest.importorskip("torch")

import torch
from safetensors.torch import load_file

from search_env.agents.reporting.logs import Silent
from search_env.agents.training import run
from search_env.agents.training.train import train
from search_env.types import StopReason
from search_env.worlds.toy import ToyOptions, toy_retriever
from tests.agents.toy_runs import SMALL, tiny_model, toy_config
from tests.retrieval.server.running import serving

ROOT = Path(__file__).parents[3]
GONE, BACK, STEPS = 2, 4, 6  # it is gone in steps 3 and 4


class _Server(Silent):
    """Serves; stops after one step and begins again, at the same address, after another."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.samples: list[list] = []
        self.stack = ExitStack()
        self.url = self._begin(0)

    def _begin(self, port: int) -> str:
        return self.stack.enter_context(serving(toy_retriever("train", ToyOptions()), port))

    def step(self, step, metrics, samples):
        self.metrics.append(dict(metrics))
        self.samples.append(list(samples))
        if step == GONE:
            self.stack.close()
        if step == BACK:
            self._begin(int(self.url.rpartition(":")[2]))


def test_training_goes_on_without_the_server_and_with_it_again(tmp_path, monkeypatch):
    learnt = []
    update = run.update

    def watched(learner, trajectories, *arguments, **options):
        learnt.append(list(trajectories))
        return update(learner, trajectories, *arguments, **options)

    monkeypatch.setattr(run, "update", watched)
    server = _Server()
    config = toy_config(
        tmp_path,
        algorithm=replace(SMALL, prompts=12, group_size=6),
        env_options={"retriever": f"{server.url}?dialect=search-r1&retries=0"},
        steps=STEPS,
    )
    with server.stack:
        train(config, model=tiny_model(), observer=server)
        server.stack.close()
    invalid = [step["episodes/invalid"] for step in server.metrics]
    assert [count > 0 for count in invalid] == [GONE < step <= BACK for step in range(1, STEPS + 1)]
    for played, used in zip(server.samples, learnt, strict=True):
        bad = [t for t in played if not t.valid]
        assert {t.stop_reason for t in bad} <= {StopReason.RETRIEVAL_ERROR}
        assert all(t.valid and t.stop_reason is not StopReason.RETRIEVAL_ERROR for t in used)
        assert used
    searched = [step["search/rate"] > 0 for step in server.metrics]
    assert searched[:GONE] == [True] * GONE
    assert searched[BACK:] == [True] * (STEPS - BACK)
    for number, step in enumerate(server.metrics, 1):
        if number <= GONE or number > BACK:
            assert step["policy/updates"] > 0
        # Where the server is gone, the valid episodes may all have the same reward.
        assert math.isfinite(step["policy/loss"]) == (step["policy/updates"] > 0)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


RUN = """
import sys
from tests.agents.toy_runs import tiny_model, toy_config, train
out, url = sys.argv[1:]
config = toy_config(out, env_options={"retriever": url}, steps=2)
train(config, model=tiny_model())
"""


@pytest.mark.slow
def test_two_runs_share_a_server_and_end_as_one_without_it(tmp_path):
    with serving(toy_retriever("train", ToyOptions()), cache=0) as url:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", RUN, str(tmp_path / dialect), f"{url}?dialect={dialect}"],
                cwd=ROOT,
            )
            for dialect in ("search-r1", "gem")
        ]
        train(toy_config(tmp_path / "alone", steps=2), model=tiny_model())
        assert [process.wait() for process in processes] == [0, 0]
        with urllib.request.urlopen(f"{url}/metrics", timeout=60) as reply:
            metrics = reply.read().decode()
    alone = load_file(tmp_path / "alone" / "model" / "model.safetensors")
    for dialect in ("search-r1", "gem"):
        assert f'search_env_requests_total{{dialect="{dialect}",status="200"}}' in metrics
        weights = load_file(tmp_path / dialect / "model" / "model.safetensors")
        assert weights.keys() == alone.keys()
        assert all(torch.equal(weights[name], alone[name]) for name in alone)
