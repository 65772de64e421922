"""Time as a parameter, so that tests never sleep: `Clock.now` is Unix seconds (UTC), float."""

import time
from typing import Protocol


class Clock(Protocol):
    """What a decision may know of time."""

    def now(self) -> float:
        """Unix time in seconds."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
