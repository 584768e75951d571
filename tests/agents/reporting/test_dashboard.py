from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from search_env.agents.reporting.dashboard import Dashboard, Progress, draw, sparkline

METRICS = {
    "reward/mean": 0.55,
    "reward/f1": 0.5,
    "reward/format": 0.05,
    "reward/retrieval": 0.0,
    "reward/group_std": 0.2,
    "groups/zero_variance": 0.25,
    "policy/entropy": 0.3,
    "policy/kl": 0.0031,
    "policy/grad_norm": 1.2,
    "policy/drift_max": 2.1e-6,
    "policy/clip_fraction": 0.01,
    "policy/learning_rate": 1e-4,
    "search/rate": 0.973,
    "search/mean": 1.9,
    "format/well_formed": 0.99,
    "format/faults": 0.02,
    "stop/truncated": 0.01,
    "answer/exact_match": 0.5,
    "answer/f1": 0.55,
    "tokens/policy": 900.0,
    "tokens/total": 3000.0,
    "time/step": 2.0,
    "time/decode": 1.0,
    "time/learn": 0.5,
    "phase": 1.0,
}
EVALUATION = {"eval/exact_match": 0.412, "eval/f1": 0.44, "eval/search_rate": 0.99, "eval/x": 1.0}


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def play(dashboard: Dashboard, clock: Clock, steps=6, seconds=2.0, total=10):
    dashboard.begin(total, {"model": "tiny", "seed": "0"})
    dashboard.evaluated(0, EVALUATION)
    for step in range(1, steps + 1):
        clock.now += seconds
        dashboard.step(step, {**METRICS, "phase": 1.0 + (step > 3)}, [])
    dashboard.warn(steps, "the entropy fell to a tenth; raise entropy_coefficient")


def progress(**fields) -> Progress:
    found = Progress(**fields)
    for step in range(1, 7):
        found.add(step, METRICS, 2.0 * step)
    return found


def lines_of(found: Progress, width: int, now=12.0) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(draw(found, now, console.options))
    return console.file.getvalue().splitlines()


def test_seconds_left_are_those_of_steps_or_of_the_limit():
    found = progress(total_steps=10)
    assert found.seconds_left(12.0) == pytest.approx(4 * 2.0)
    assert found.seconds_left(13.5) == pytest.approx(4 * 2.0 - 1.5)
    assert found.seconds_left(99.0) == 0.0
    assert found.fraction(12.0) == pytest.approx(0.6)
    limited = progress(total_steps=100, minutes=0.3)
    assert limited.seconds_left(12.0) == pytest.approx(18.0 - 12.0)
    assert limited.fraction(12.0) == pytest.approx(12 / 18)
    resumed = progress(total_steps=100, minutes=0.3, spent=5.0)
    assert resumed.seconds_left(12.0) == pytest.approx(18.0 - 12.0 - 5.0)
    assert Progress(total_steps=10).seconds_left(0.0) is None
    assert Progress(total_steps=10, minutes=1.0).seconds_left(3.0) == 57.0


def test_the_pace_is_that_of_the_last_steps():
    found = Progress(total_steps=50)
    for step in range(1, 31):
        found.add(step, {}, 10.0 * min(step, 10) + max(0, step - 10))
    assert found.seconds_left(120.0) == pytest.approx(20 * 1.0)


def test_tokens_per_second_come_from_the_step():
    assert progress(total_steps=10).latest["tokens/s"] == 1500.0


def test_all_that_matters_is_shown_at_80_columns_and_24_lines():
    found = progress(total_steps=10)
    found.evaluation = (5, EVALUATION)
    lines = lines_of(found, 80)
    assert len(lines) < 20, "so that warnings have room above"
    text = re.sub(" +", " ", "\n".join(lines))
    for shown in (
        *("step 6/10", "phase 1", "0:12 spent, 0:08 left", "reward", "f1", "retrieval"),
        *("search rate 97.3 %", "format faults 0.0200", "entropy 0.300", "KL 0.0031"),
        *("log-prob drift 2.1e-06", "tokens/s 1,500", "time %: decode 50 learn 25 other 25"),
        *("held out, step 5: EM 41.2 % F1 44.0 % search rate 99.0 %",),
    ):
        assert shown in text
    assert "eval/x" not in text


@pytest.mark.parametrize("width", [40, 60, 71, 72, 80, 110, 200])
def test_no_line_is_wider_than_the_terminal(width):
    found = progress(total_steps=10, description={"model": "a-model-of-a-long-name" * 9})
    found.latest["reward/" + "part" * 9] = 1.0
    found.add(7, {**METRICS, "reward/" + "part" * 9: -123456.7}, 14.0)
    lines = lines_of(found, width)
    assert max(map(len, lines)) <= min(width, max(width, 40))
    assert len(lines) == len([line for line in lines if len(line) <= width])


def test_supervised_runs_show_what_they_have():
    found = Progress(total_steps=9)
    found.add(1, {"loss": 2.5, "tokens/total": 4000.0, "time/step": 0.5}, 1.0)
    found.evaluation = (1, {"eval/loss": 2.4, "eval/accuracy": 0.5, "eval/exact": 0.1})
    text = "\n".join(lines_of(found, 80))
    assert "reward" not in text
    assert "time %" not in text
    assert re.search(r"loss +2\.50", text)
    assert "loss 2.40  accuracy 50.0 %  whole 10.0 %" in text
    assert "8,000" in text


def test_what_was_not_measured_is_left_out():
    found = Progress(total_steps=9)
    found.add(1, {"reward/mean": 0.5, "policy/kl": float("nan")}, 1.0)
    assert "KL" not in "\n".join(lines_of(found, 80))
    found.add(2, {"reward/mean": float("nan")}, 2.0)
    (row,) = [line for line in lines_of(found, 80) if line.startswith("reward")]
    assert row.split()[1] == "-"


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.integers(0, 30), st.booleans())
def test_sparklines_are_as_long_as_they_may_be(values, width, share):
    assert len(sparkline(values, width, share=share)) == min(len(values), width)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40), st.integers(1, 20))
def test_sparklines_of_growing_values_never_fall(values, width):
    curve = sparkline(sorted(values), width)
    assert list(curve) == sorted(curve)
    if len(curve) > 1 and max(values) - min(values) > 1:
        assert curve[0] == "▁"
        assert curve[-1] == "█"


def test_without_a_terminal_there_are_plain_lines():
    clock = Clock()
    stream = io.StringIO()
    dashboard = Dashboard(Console(file=stream, width=80), interval=5.0, clock=clock)
    play(dashboard, clock, steps=10)
    dashboard.end(10, "all steps are made")
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert lines[0] == "model tiny, seed 0"
    assert lines[1] == "held out, step 0: EM 41.2 %  F1 44.0 %  search rate 99.0 %"
    assert lines[2:3] == [
        "step 1/10  reward 0.550  search 97.3 %  EM 50.0 %  entropy 0.300  KL 0.0031  0:18 left",
    ]
    shown = [int(found[1]) for line in lines if (found := re.match(r"step (\d+)/10", line))]
    assert shown == [1, 4, 7, 10], "one line in 5 seconds, and the last"
    assert "step 4: phase 2 begins" in lines
    assert lines[-2:] == [
        "Warning, step 10: the entropy fell to a tenth; raise entropy_coefficient",
        "Ended after step 10 in 0:20: all steps are made",
    ]


def test_on_a_terminal_it_is_redrawn_in_place_and_leaves_the_cursor():
    clock = Clock()
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=30, force_terminal=True)
    dashboard = Dashboard(console, clock=clock)
    play(dashboard, clock)
    dashboard.end(6, "interrupted")
    written = stream.getvalue()
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    assert "\x1b[1A\x1b[2K" in written, "the former state is wiped"
    after = written[written.index("\x1b[?25h") :]
    assert "Ended after step 6 in 0:12: interrupted" in after
    assert written.count("phase 2 begins") == written.count("Warning, step 6: the entropy") == 1
    assert "step 1/10" not in written, "what the display shows is not printed beside it"
    dashboard.end(6, "twice does no harm")


def test_results_keep_standard_output_to_themselves(capsys):
    clock = Clock()
    play(dashboard := Dashboard(clock=clock), clock)
    dashboard.end(6, "done")
    out, err = capsys.readouterr()
    assert out == ""
    assert "Ended after step 6" in err


PROGRAM = """
import sys, time
from search_env.agents.reporting.dashboard import Dashboard
dashboard = Dashboard()
dashboard.begin(10, {"model": "tiny"})
step = 0
try:
    while True:
        step += 1
        dashboard.step(step, {"reward/mean": 0.1 * step}, [])
        time.sleep(0.05)
finally:
    if sys.argv[1] == "tidy":
        dashboard.end(step, "interrupted")
"""


@pytest.mark.parametrize("manner", ["tidy", "untidy"])
def test_ctrl_c_leaves_the_terminal_clean(manner):
    """On a real pseudo-terminal, whether or not the loop says that the run has ended."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, manner],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
        # A shell in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(theirs)
    written = b""
    try:
        while process.poll() is None and not re.search(rb"step [1-9]", written):
            written += _read(ours)
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            written += _read(ours)
        written += _read(ours)
    finally:
        process.kill()
        out, _ = process.communicate()
        os.close(ours)
    assert process.returncode in (-signal.SIGINT, 1)
    assert written.count(b"\x1b[?25l") == written.count(b"\x1b[?25h") == 1
    assert out == b""
    assert (b"interrupted" in written) == (manner == "tidy")


def _read(terminal: int) -> bytes:
    if not select.select([terminal], [], [], 0.1)[0]:
        return b""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other side is closed
        return b""
