"""Calls of an asynchronous client from threads: a time limit for each whole reply, and retries.

The time limits of HTTP clients are for one read: a server that sends a byte now and then holds
them for ever. Here a try is cancelled as a whole: headers, redirects and body together.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_LONGEST_PAUSE = 8.0


class Patience:
    """Runs tries on an event loop of its own, each for at most ``timeout`` seconds.

    After a failure that may pass it tries again, up to ``retries`` times: pauses double from half a
    second, or are what the server asks for. Tries and pauses together take at most
    ``timeout * (retries + 1)`` seconds.
    """

    def __init__(
        self,
        timeout: float,
        retries: int,
        pause_after: Callable[[BaseException], float | None],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        """``pause_after`` returns seconds after an error that may pass (0: as usual), else None."""
        self._timeout, self._retries, self._pause_after = timeout, retries, pause_after
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run, args=(self._loop,), name="Patience", daemon=True)
        thread.start()
        weakref.finalize(self, _end, self._loop, thread, close)

    def call(self, send: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a call, or raise the error of its last try.

        Raises:
            asyncio.TimeoutError: The last try took longer than the limit.
        """
        return asyncio.run_coroutine_threadsafe(self._tries(send), self._loop).result()

    async def _tries(self, send: Callable[[], Awaitable[T]]) -> T:
        deadline = self._loop.time() + self._timeout * (self._retries + 1)
        for number in range(self._retries):
            try:
                return await self._one(send, deadline)
            except Exception as error:
                asked = self._pause_after(error)
                if asked is None:
                    raise
                pause = asked or min(0.5 * 2**number, _LONGEST_PAUSE)
                if self._loop.time() + pause >= deadline:
                    raise
            await asyncio.sleep(pause)
        return await self._one(send, deadline)

    async def _one(self, send: Callable[[], Awaitable[T]], deadline: float) -> T:
        left = deadline - self._loop.time()
        return await asyncio.wait_for(send(), min(self._timeout, left))


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


def _end(
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    close: Callable[[], Awaitable[None]],
) -> None:
    async def finish() -> None:
        try:
            await close()
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(finish(), loop)
    if threading.current_thread() is not thread:
        thread.join(timeout=1.0)
