"""Ctrl-C and SIGTERM: what raises at once, what ends first, and what is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from search_env.interrupts import Terminated, exit_code, sigterm_interrupts, watch_signals


def send(number) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def usual_handlers(monkeypatch):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_exit_codes_are_those_of_shells():
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(Terminated()) == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_b6_a_first_signal_waits_and_a_second_one_does_not(number, capfd):
    error = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    with watch_signals("Stopping soon ...") as interrupts:
        with pytest.raises(error):
            send(number)  # outside of a step
        interrupts.received = None
        with interrupts.finishing():
            send(number)
            done = "the step ends"
            with interrupts.blocked():
                send(number)
                send(number)
                done = "weights change as a whole"
            with pytest.raises(error):
                send(number)
        assert done == "weights change as a whole"
        with pytest.raises(error):
            interrupts.check()
    assert capfd.readouterr().err.count("Stopping soon ...") == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_b6_it_says_so_at_once(capfd):
    """Not when the main thread is back from a long computation, for which it waits here."""
    said = threading.Event()

    class Stream:
        def write(self, text):
            if "Stopping" in text:
                said.set()

        def flush(self):
            pass

    stderr, sys.stderr = sys.stderr, Stream()
    try:
        with watch_signals("Stopping ...") as interrupts, interrupts.blocked():
            send(signal.SIGINT)
            assert said.wait(60)
    finally:
        sys.stderr = stderr


def test_handlers_of_the_program_are_left_alone():
    heard = []
    signal.signal(signal.SIGINT, lambda *_: heard.append("int"))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with sigterm_interrupts(), watch_signals("") as interrupts:
        send(signal.SIGINT)
        send(signal.SIGTERM)
    assert heard == ["int"]
    assert interrupts.received is None


def test_other_threads_watch_nothing():
    seen = []

    def work():
        with sigterm_interrupts(), watch_signals("") as interrupts:
            seen.append(interrupts.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_b6_sigterm_ends_a_command_like_ctrl_c(tmp_path):
    code = (
        "import os, signal\n"
        "from search_env.agents.baselines.scripted import RandomAgent\n"
        "from search_env.cli.main import main\n"
        "RandomAgent.begin = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "main()\n"
    )
    out = tmp_path / "results.json"
    command = ["eval", "SearchQA-Toy-v0", "--agent", "random", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    assert "Interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
