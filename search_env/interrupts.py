"""Ctrl-C and SIGTERM during long work: finish what must be whole, then stop.

SIGTERM raises :class:`Terminated`, a KeyboardInterrupt, so that both end a program the same way and
only the exit code differs. Work that consists of steps asks :func:`watch_signals` to let a step end
first; it says so at once, and a second signal stops without waiting, except where
:meth:`Interrupts.blocked` guards weights and files.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal, TypeAlias

_Reaction: TypeAlias = Literal["raise", "finish", "block"]


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the exit code after an interrupt: 128 and the number of the signal."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated` in a block, unless it has another handler already.

    Does nothing outside the main thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Interrupts:
    """The signals that arrived, and how the present part of the work reacts to them.

    Outside of the two blocks a signal raises KeyboardInterrupt (or :class:`Terminated`) at once.
    """

    def __init__(self) -> None:
        self.received: KeyboardInterrupt | None = None  # the first one
        self.reaction: _Reaction = "raise"
        self.waits = False  # whether one was received that did not raise
        self._process = os.getpid()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Let a first signal be received and nothing more; a second one raises."""
        with self._reacting("finish"):
            yield

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Let any signals be received and nothing more."""
        with self._reacting("block"):
            yield

    def check(self) -> None:
        """Raise the interrupt that was received, if any."""
        if self.received is not None:
            raise self.received

    @contextmanager
    def _reacting(self, reaction: _Reaction) -> Iterator[None]:
        before, self.reaction = self.reaction, reaction
        try:
            yield
        finally:
            self.reaction = before

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Receive a signal, or raise it."""
        is_first = self.received is None
        if is_first:
            self.received = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        forked = os.getpid() != self._process  # a child with our handlers
        if forked or self.reaction == "raise" or (self.reaction == "finish" and not is_first):
            _raise(number, frame)
        self.waits = True


@contextmanager
def watch_signals(message: str) -> Iterator[Interrupts]:
    """Watch SIGINT and SIGTERM during a block; ``message`` says that the present part ends first.

    The message is printed by a thread that the system wakes, so at once even where the main thread
    computes outside of Python. Signals that the program handles itself or ignores are left alone,
    and outside the main thread nothing is watched.
    """
    interrupts = Interrupts()
    usual = {
        signal.SIGINT: (signal.default_int_handler,),
        signal.SIGTERM: (signal.SIG_DFL, _raise),
    }
    before = {number: signal.getsignal(number) for number in usual}
    watched = [number for number, handlers in usual.items() if before[number] in handlers]
    if threading.current_thread() is not threading.main_thread() or not watched:
        yield interrupts
        return
    with _announcing(interrupts, message):
        for number in watched:
            signal.signal(number, interrupts.on_signal)
        try:
            yield interrupts
        finally:
            for number in watched:
                signal.signal(number, before[number])


@contextmanager
def _announcing(interrupts: Interrupts, message: str) -> Iterator[None]:
    """Print a message when the first signal arrives that does not raise at once."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def announce() -> None:
        told = False
        while number := os.read(reader, 1)[0]:  # 0 at the end of the block
            if number in (signal.SIGINT, signal.SIGTERM) and not told:
                told = interrupts.waits or interrupts.reaction != "raise"
                if told:
                    print(message, file=sys.stderr, flush=True)

    thread = threading.Thread(target=announce, name="search-env signals", daemon=True)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)
