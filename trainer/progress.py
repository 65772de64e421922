"""How far a training is: a bar with the time left on a terminal, a line every few seconds else."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

LINE_SECONDS = 5.0

Update = Callable[[int, Mapping[str, float]], None]
"""Takes the step and what was logged at it."""


@contextmanager
def shown(method: str, steps: int, report: Callable[[str], None]) -> Iterator[Update]:
    """What to tell each step to; the bar is gone afterwards."""
    if not sys.stderr.isatty():
        yield Lines(method, steps, report)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Left())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(method, total=steps)

        def update(step: int, logs: Mapping[str, float]) -> None:
            said = f"{method}: {measured(logs)}"
            bar.update(task, completed=step, description=said)

        yield update


class Lines:
    """A line every few seconds, and one for the last step."""

    def __init__(
        self,
        method: str,
        steps: int,
        report: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._method, self._steps, self._report, self._now = method, steps, report, now
        self._first: tuple[int, float] | None = None
        self._said = now()

    def __call__(self, step: int, logs: Mapping[str, float]) -> None:
        at = self._now()
        if self._first is None:
            self._first = (step, at)
        if at - self._said < LINE_SECONDS and step < self._steps:
            return
        self._said = at
        begun, since = self._first
        pace = (at - since) / (step - begun) if step > begun else None
        left = "" if pace is None else f", {pace * (self._steps - step):.0f} s left"
        self._report(f"{self._method}: step {step}/{self._steps}, {measured(logs)}{left}")


def measured(logs: Mapping[str, float]) -> str:
    """What people look at."""
    names = [name for name in ("loss", "reward") if name in logs]
    return ", ".join(f"{name} {logs[name]:.3f}" for name in names)
