"""What a worker does again and again, beside its requests."""

import asyncio
from collections.abc import Callable


class Every:
    """Calls `what` every so many seconds, from now until it is stopped; an error in it is logged by
    the event loop and does not end the calls."""

    def __init__(self, seconds: float, what: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds, self._what = seconds, what
        self._next = self._loop.call_later(seconds, self._run)

    def stop(self) -> None:
        """Call no more."""
        self._next.cancel()

    def _run(self) -> None:
        self._next = self._loop.call_later(self._seconds, self._run)
        self._what()
