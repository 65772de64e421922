"""One training per task: a lock with a heartbeat in the state store, and what a dead run left.

- Who holds it beats every few seconds; a holder that is silent for `STALE_SECONDS`, or whose
  process on this machine is gone, has lost it to the next one.
- Who has lost it finds out at its next beat, and ends.
- The document names the run under way, so that the next holder takes it up or closes it.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from everlearn.clock import Clock, SystemClock
from everlearn.config import Service
from everlearn.errors import InputError, StateError, TrainingBusy
from everlearn.ids import new_id
from everlearn.state import State, StateConflict, open_state
from registry.training import KIND, STALE_SECONDS, Ended

BEAT_SECONDS = 5.0

Document = dict[str, Any]


class Held:
    """The lock while it is held."""

    def __init__(self, state: State, task: str, document: Document, revision: int) -> None:
        self._state, self._task = state, task
        self._document, self._revision = document, revision
        self._writing, self._over = threading.Lock(), threading.Event()
        self._lost = False
        self._since = time.time()
        self._thread = threading.Thread(target=self._beat, name="training-lock", daemon=True)
        self._thread.start()

    @property
    def run(self) -> Document | None:
        """The run under way: this holder's, or the one that a dead holder left."""
        found: Document | None = self._document["run"]
        return found

    def keep(self, run: Document | None) -> None:
        """Write down the run under way; None: there is none any more."""
        self.check()
        self._write({**self._document, "run": run})
        self.check()

    def ended(self, run_id: str, outcome: str) -> None:
        """Write down what the run came to, for `registry.training`."""
        now = time.time()
        last = Ended(run_id, outcome, now, round(now - self._since, 3))
        self._write({**self._document, "last": last._asdict()})

    def check(self) -> None:
        """TrainingBusy when somebody else holds the lock by now."""
        if self._lost:
            raise TrainingBusy(
                f"task {self._task}: another training took the lock over, for this one was silent "
                f"for {STALE_SECONDS:g} s; nothing is kept"
            )

    def release(self) -> None:
        """Let the next one in; the run under way stays written down, if there is one."""
        self._over.set()
        self._thread.join()
        if not self._lost:
            self._write({**self._document, "holder": None})

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._write({**self._document, "beat": time.time()})
            except StateError:
                continue  # the store is away for a moment: the next beat may reach it

    def _write(self, document: Document) -> None:
        with self._writing:
            if self._lost:
                return
            try:
                self._revision = self._state.put(KIND, self._task, document, self._revision)
            except StateConflict:
                self._lost = True
                return
            self._document = document


@contextmanager
def holding(
    service: Service, task: str, *, wait_seconds: float = 0.0, clock: Clock | None = None
) -> Iterator[Held]:
    """The task's lock; TrainingBusy when another one has it after `wait_seconds`."""
    clock = clock or SystemClock()
    state = open_state(service)
    try:
        held = _acquired(state, task, wait_seconds, clock)
        try:
            yield held
        finally:
            held.release()
    finally:
        state.close()


def _acquired(state: State, task: str, wait_seconds: float, clock: Clock) -> Held:
    until = clock.now() + wait_seconds
    while True:
        found = state.get(KIND, task)
        document, revision = found or ({"holder": None, "beat": 0.0, "run": None}, 0)
        holder = document["holder"]
        if holder is None or not alive(holder, document["beat"], clock.now()):
            mine = {**document, "holder": myself(), "beat": clock.now()}
            try:
                return Held(state, task, mine, state.put(KIND, task, mine, revision))
            except StateConflict:
                continue  # somebody else was faster
        if clock.now() >= until:
            raise TrainingBusy(
                f"task {task}: a training is under way: process {holder['pid']} on "
                f"{holder['host'].partition('/')[0]}, last heard of "
                f"{max(0.0, clock.now() - document['beat']):.0f} s ago; wait for it with "
                f"--wait SECONDS"
            )
        clock.sleep(1.0)


def under_way(service: Service, task: str) -> Document:
    """The run of a training that lives, wherever; InputError where there is none."""
    state = open_state(service)
    try:
        found = state.get(KIND, task)
    finally:
        state.close()
    document = {} if found is None else found[0]
    holder, run = document.get("holder"), document.get("run")
    if holder is None or run is None or not alive(holder, document["beat"], time.time()):
        raise InputError(f"task {task}: no training is under way")
    return dict(run)


def myself() -> Document:
    """This process, such that no later one is taken for it."""
    pid = os.getpid()
    return {"id": new_id("hold"), "host": _host(), "pid": pid, "started": _started(pid)}


def alive(holder: Document, beat: float, now: float) -> bool:
    """Whether the holder lives: of this machine by its process, of another by its heartbeat."""
    if holder["host"] == _host():
        return bool(_started(holder["pid"]) == holder["started"])
    return now - beat < STALE_SECONDS


def _host() -> str:
    """This machine since it booted, and its processes' numbering: containers have their own."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass  # not Linux: the name has to do
    return "/".join(parts)


def _started(pid: int) -> str | None:
    """When the process began, as the kernel counts; None: it is no more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self").exists() else _elsewhere(pid)
    return None if fields[0] in ("Z", "X") else fields[19]


def _elsewhere(pid: int) -> str | None:
    """The same where there is no /proc: whether it is there."""
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "unknown"
