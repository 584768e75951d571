from __future__ import annotations

import itertools
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.agents.reporting.logs import (
    JsonLinesLog,
    Observer,
    Observers,
    Silent,
    TensorBoardLog,
    read_log,
)
from search_env.errors import ConfigurationError, DataFormatError, DataNotFoundError


class Noted(Silent):
    """Keeps what it was told; fails at the end if it is told to."""

    def __init__(self, fails=False):
        self.calls, self.fails = [], fails

    def begin(self, total_steps, description):
        self.calls.append(("begin", total_steps, dict(description)))

    def step(self, step, metrics, samples):
        self.calls.append(("step", step, dict(metrics), list(samples)))

    def evaluated(self, step, metrics):
        self.calls.append(("evaluated", step, dict(metrics)))

    def warn(self, step, text):
        self.calls.append(("warn", step, text))

    def end(self, step, reason):
        self.calls.append(("end", step, reason))
        if self.fails:
            raise OSError("the disk is full")


def a_run(observer: Observer, first=1, last=4):
    observer.begin(10, {"model": "tiny"})
    for step in range(first, last + 1):
        observer.step(step, {"reward/mean": step / 10, "policy/kl": float("nan")}, [])
        if step % 2 == 0:
            observer.evaluated(step, {"eval/f1": step / 100})
    observer.warn(last, "entropy fell to 0.1 – why?")


def test_observers_tell_all_in_order():
    first, second = Noted(), Noted()
    both = Observers([first, Silent(), second])
    a_run(both)
    both.end(4, "done")
    assert first.calls == second.calls
    assert [call[0] for call in first.calls] == [
        *("begin", "step", "step", "evaluated", "step", "step", "evaluated", "warn", "end")
    ]
    assert first.calls[0] == ("begin", 10, {"model": "tiny"})


def test_the_end_reaches_all_though_one_fails():
    failing, other = Noted(fails=True), Noted()
    with pytest.raises(OSError, match="disk is full"):
        Observers([failing, other]).end(3, "interrupted")
    assert other.calls == [("end", 3, "interrupted")]


def test_a_log_reads_back(tmp_path):
    log = JsonLinesLog(tmp_path / "run" / "metrics.jsonl")
    a_run(log)
    running = read_log(log.path)
    assert running.end is None, "it can be read while it is written"
    log.end(4, "all steps done")
    read = read_log(log.path)
    assert (read.total_steps, read.description, read.end) == (
        10,
        {"model": "tiny"},
        "all steps done",
    )
    assert [row.step for row in read.steps] == [1, 2, 3, 4]
    assert [row.metrics for row in read.steps] == [{"reward/mean": s / 10} for s in (1, 2, 3, 4)]
    assert [(row.step, row.metrics) for row in read.evaluations] == [
        *((2, {"eval/f1": 0.02}), (4, {"eval/f1": 0.04}))
    ]
    assert read.warnings == ((4, "entropy fell to 0.1 – why?"),)
    assert 0 <= read.steps[0].elapsed <= read.steps[-1].elapsed < 60


def test_every_line_is_strict_json_and_there_at_once(tmp_path):
    log = JsonLinesLog(tmp_path / "metrics.jsonl")
    log.begin(2, {})
    for step in (1, 2):
        log.step(step, {"a": float("inf"), "b": float("nan"), "c": 1}, [])
        lines = log.path.read_text("utf-8").splitlines()
        assert len(lines) == step + 1
    refuse = lambda word: pytest.fail(f"{word} is no JSON")  # noqa: E731
    last = json.loads(lines[-1], parse_constant=refuse)
    assert last["metrics"] == {"a": None, "b": None, "c": 1.0}


@pytest.mark.parametrize("torn", [b"", b'{"event": "step", "st'])
@pytest.mark.parametrize("ended", [True, False])
def test_a_resumed_log_doubles_nothing(tmp_path, torn, ended):
    log = JsonLinesLog(tmp_path / "metrics.jsonl")
    a_run(log, last=6)
    if ended:
        log.end(6, "interrupted")
    with log.path.open("ab") as file:
        file.write(torn)
    content = log.path.read_bytes()
    again = JsonLinesLog(log.path, resume_step=4)
    assert log.path.read_bytes() == content, "nothing is written before the run begins"
    again.begin(10, {})
    before = read_log(log.path)
    assert [row.step for row in before.steps] == [1, 2, 3, 4]
    assert (before.warnings, before.end) == ((), None)
    a_run(again, first=5, last=8)
    again.end(8, "done")
    read = read_log(log.path)
    assert [row.step for row in read.steps] == list(range(1, 9))
    assert [row.step for row in read.evaluations] == [2, 4, 6, 8]
    assert read.end == "done"
    elapsed = [row.elapsed for row in read.steps]
    assert elapsed == sorted(elapsed), "time goes on where the checkpoint left it"
    assert log.path.read_bytes().count(b'"event": "step"') == 8


@given(st.integers(0, 9), st.integers(0, 9))
def test_what_was_seen_of_a_step_is_said_last(tmp_path_factory, killed, resumed):
    """However often a run is killed and resumed, each step stands in its log once."""
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    resumed = min(killed, resumed)
    a_run(JsonLinesLog(path), last=killed)
    a_run(JsonLinesLog(path, resume_step=resumed), first=resumed + 1, last=10)
    read = read_log(path)
    assert [row.step for row in read.steps] == list(range(1, 11))


def test_a_log_is_not_written_over(tmp_path):
    log = JsonLinesLog(tmp_path / "metrics.jsonl")
    a_run(log)
    text = log.path.read_text("utf-8")
    with pytest.raises(ConfigurationError, match="holds another run"):
        JsonLinesLog(log.path)
    assert log.path.read_text("utf-8") == text


def test_wrong_files_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for read in (read_log, lambda file: JsonLinesLog(file, resume_step=1)):
        with pytest.raises(DataNotFoundError, match=r"metrics\.jsonl"):
            read(path)
    path.write_text('{"event": "end", "step": 0, "elapsed": 0, "reason": "x"}\nnot json\n')
    for read in (read_log, lambda file: JsonLinesLog(file, resume_step=1)):
        with pytest.raises(DataFormatError, match="line 2"):
            read(path)
    fresh = JsonLinesLog(tmp_path / "fresh.jsonl")
    with pytest.raises(ConfigurationError, match=r"begin\(\)"):
        fresh.step(1, {}, [])
    fresh.end(0, "never begun")


def test_tensorboard_has_every_finite_metric(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # Files are read in the order of the seconds in their names.
    seconds = itertools.count(1_700_000_000)
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: next(seconds)))
    log = TensorBoardLog(tmp_path)
    a_run(log)
    log.end(4, "killed")
    resumed = TensorBoardLog(tmp_path, resume_step=2)
    resumed.begin(10, {})
    resumed.step(3, {"reward/mean": 9.0}, [])
    resumed.end(3, "done")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["eval/f1", "reward/mean"]
    found = [(e.step, round(e.value, 6)) for e in events.Scalars("reward/mean")]
    assert found == [(1, 0.1), (2, 0.2), (3, 9.0)]
    assert "warnings/text_summary" in events.Tags()["tensors"]


def test_a_missing_tensorboard_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigurationError, match="pip install"):
        TensorBoardLog(tmp_path)


def test_no_torch_is_imported_for_logs_displays_and_pictures():
    code = (
        "import sys;"
        "from search_env.agents.reporting import dashboard, logs, plots, summary;"
        "assert not {'torch', 'tensorboard', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "odd",
    [
        "[" * 100_000,
        "[]",
        '{"event": "step", "step": 1, "elapsed": 1.0, "metrics": {"a": "b"}}',
        '{"event": "step", "step": 1, "elapsed": 1.0, "metrics": [1]}',
        '{"event": "step", "step": 1, "elapsed": 1.0}',
        '{"event": "step", "step": "1", "elapsed": 1.0, "metrics": {}}',
        '{"event": "step", "step": 1, "elapsed": null, "metrics": {}}',
        '{"event": "begin", "step": 0, "elapsed": 0.0, "description": 3, "total_steps": 1}',
        '{"event": "end", "step": 0, "elapsed": 0.0, "reason": ["x"]}',
        '{"event": 3, "step": true, "elapsed": 0.0}',
    ],
    ids=lambda odd: odd[:40],
)
def test_c7_lines_of_wrong_types_are_numbered(tmp_path, odd):
    path = tmp_path / "metrics.jsonl"
    good = '{"event": "step", "step": 1, "elapsed": 1.0, "metrics": {"a": 1.0, "b": null}}'
    path.write_text(f"{good}\n{odd}\n", "utf-8")
    with pytest.raises(DataFormatError, match=r"metrics.jsonl, line 2: expected a line of a train"):
        read_log(path)
