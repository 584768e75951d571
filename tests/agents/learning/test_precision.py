"""The type to compute in follows the processor; a resumed run keeps its own."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from search_env.agents.errors import CheckpointError
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.master_weights import arrange
from search_env.agents.learning.precision import dtype_in_words, resolve_dtype
from search_env.agents.reporting.logs import Silent, read_log
from search_env.agents.training import checkpoints
from search_env.agents.training.collapse_monitors import DRIFT_LIMITS, Limits, Monitors
from search_env.agents.training.config import TrainConfig
from search_env.agents.training.default_run import tiny_run
from search_env.agents.training.train import train
from search_env.cli.main import app
from search_env.errors import ConfigurationError
from tests.agents.toy_runs import tiny_model, toy_config

HAS, HAS_NOT = (f"(this processor has {no}bfloat16 products)" for no in ("", "no "))
KINDS = {"bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture
def processor(monkeypatch):
    """Return a function that sets whether this machine has bfloat16 products."""

    def set_to(fast: bool) -> None:
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return set_to


@pytest.mark.parametrize(("fast", "dtype"), [(True, "bf16"), (False, "fp32")])
def test_auto_follows_the_processor(processor, monkeypatch, fast, dtype):
    processor(fast)
    assert resolve_dtype("auto") == resolve_dtype("auto", "cpu") == dtype
    assert (resolve_dtype("bf16"), resolve_dtype("fp32")) == ("bf16", "fp32")
    assert resolve_dtype("auto", "mps") == "fp32"
    model = tiny_model()
    arrange(model, "auto")
    assert model.dtype == KINDS[dtype]
    assert Learner(tiny_model(), dtype="auto").model.dtype == KINDS[dtype]
    processor(not fast)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: fast)
    assert resolve_dtype("auto", torch.device("cuda", 0)) == dtype
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_dtype("auto") == dtype


def test_without_onednn_it_is_float32(processor, monkeypatch):
    processor(True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert resolve_dtype("auto") == "fp32"


def test_other_types_are_refused():
    with pytest.raises(ConfigurationError, match="Did you mean 'bf16'"):
        resolve_dtype("bf61")


def test_auto_is_the_default():
    assert tiny_run().dtype == "auto"
    assert TrainConfig(model="tiny", algorithm=tiny_run().algorithm).dtype == "auto"


class DtypeObserver(Silent):
    def begin(self, total_steps, description):
        self.dtype = description["dtype"]


def test_a_resumed_run_keeps_its_type_and_says_so(processor, tmp_path):
    observer = DtypeObserver()

    def resume(steps, **changes):
        config = toy_config(tmp_path, **{"dtype": "auto", "steps": steps, **changes})
        train(config, model=tiny_model(), observer=observer, resume=steps > 1)
        newest = checkpoints.latest(tmp_path / "checkpoints")
        return observer.dtype, checkpoints.settings(newest)["dtype"]

    processor(True)
    assert resume(1) == (f"bf16 {HAS}", "bf16")
    processor(False)
    description = "bf16, as the run began (a new run on this processor uses fp32)"
    assert resume(2) == (description, "bf16")
    processor(True)
    assert resume(3) == (f"bf16 {HAS}", "bf16")
    with pytest.raises(CheckpointError, match="dtype was 'bf16' and is 'fp32'"):
        resume(4, dtype="fp32")


def test_the_command_records_the_dtype_used(processor, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    out = tmp_path / "run"

    def command(*more):
        words = ["train", *more, "--out", str(out), "--test-questions", "4"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        return read_log(out / "metrics.jsonl").description["dtype"]

    processor(False)
    toy = ("SearchQA-Toy-v0", "--tokenizer", "toy", "--max-tokens", "16", "--num-envs", "8")
    small = ("--preset", "grpo", "--steps", "1", "--threads", "1", "--set", "prompts=4")
    small += ("--set", "group_size=4", "--set", "minibatch=null", "--set", "eval_every=0")
    assert command(*toy, *small, "--model", str(tmp_path / "base")) == f"fp32 {HAS_NOT}"
    assert json.loads((out / "config.json").read_text())["dtype"] == "fp32"
    processor(True)
    description = "fp32, as the run began (a new run on this processor uses bf16)"
    assert command("--resume", "--steps", "2") == description


def test_a_type_that_is_set_is_said_to_be(processor):
    processor(False)
    assert dtype_in_words("bf16") == "bf16, as set (the default on this processor is fp32)"


def test_a_file_of_results_keeps_its_type(processor, tmp_path):
    processor(True)
    path = tmp_path / "results.jsonl"

    def bench(*more, file=path):
        words = ["bench", "world-2hop/r1-searcher/bm25-world1k/v1", "--agent", "model:tiny-base"]
        done = CliRunner().invoke(app, [*words, "--limit", "2", "--out", str(file), *more])
        header = json.loads(file.read_bytes().splitlines()[0])
        return done.exit_code, done.output, header["agent"]["dtype"]

    assert bench("--dtype", "fp32")[::2] == (0, "fp32")
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    code, output, dtype = bench()
    assert (code, dtype) == (0, "fp32"), output
    assert "fp32, as the run began (a new run on this processor uses bf16)" in output
    assert len(path.read_bytes().splitlines()) == len(whole.splitlines())
    assert bench("--dtype", "bf16")[::2] == (2, "fp32")
    assert bench(file=tmp_path / "new.jsonl")[::2] == (0, "bf16")


def test_label_computes_in_the_type_that_is_named(processor, tmp_path, monkeypatch):
    computed = []
    monkeypatch.setattr(
        "search_env.agents.inference.engine.Engine.decode",
        lambda engine, rows: computed.append(engine._forward_pass.model.dtype) or 1 / 0,
    )
    words = ["label", "--out", str(tmp_path / "labels.jsonl"), "--limit", "1"]
    processor(True)
    for more in ([], ["--dtype", "fp32"]):
        CliRunner().invoke(app, [*words, *more])
    assert computed == [torch.bfloat16, torch.float32]


def test_the_drift_that_avx2_shows_is_no_alarm():
    monitors = Monitors(Limits(drift=DRIFT_LIMITS["fp32"]))
    assert not monitors.update({"policy/drift_max": 2.43e-5})
    assert monitors.update({"policy/drift_max": 2e-4})
