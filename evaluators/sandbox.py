"""Persistent child processes that run untrusted code, shared by every grader of this process.

- A child that dies or does not answer is replaced; its death is reported, not hidden.
- Children end with this process: their stdin ends. At most `MAX_IDLE` wait for work.
- Callable from any thread and any event loop; never shared with a forked process.
"""

import asyncio
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from everlearn.errors import GraderError

MAX_IDLE = 8
WORKERS = max(2, min(8, os.cpu_count() or 2))
START_SECONDS = 60.0
LIMIT_SIGNALS = (signal.SIGPROF, signal.SIGVTALRM)
"""What ends a child that used more CPU time than it was given."""
_ROOT = Path(__file__).resolve().parent.parent
_START = (
    "import sys; sys.path.insert(0, {root!r}); "
    "from evaluators.children.{program} import main; main()"
)


class ChildDied(GraderError):
    """The child ended without an answer; `signal_number` tells which limit it met, if any."""

    def __init__(self, program: str, returncode: int | None) -> None:
        super().__init__(f"the {program} process ended with status {returncode}")
        # bubblewrap reports the signal of its child as 128 + number
        code = returncode or 0
        self.signal_number = -code if code < 0 else max(0, code - 128)


class ChildSilent(GraderError):
    """No answer within the wall time; the child was ended."""


class Child:
    """One child process, asked one thing at a time."""

    def __init__(self, program: str, settings: bytes) -> None:
        """Start it and wait until it is ready; GraderError with its reason when it is not."""
        self._program = program
        self._process = subprocess.Popen(
            [*_confinement(program), sys.executable, "-I", "-c",
             _START.format(root=str(_ROOT), program=program), settings.decode()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd="/", env={"LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}, start_new_session=True,
        )  # fmt: skip
        try:
            hello = self._read(START_SECONDS)
        except BaseException:
            self.kill()
            raise
        if "failed" in hello:
            self.kill()
            raise GraderError(f"the {program} process could not start: {hello['failed']}")

    def ask(self, request: bytes, wall_seconds: float) -> dict[str, Any]:
        """The reply; ChildDied or ChildSilent, after which the child is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._death() from error
        return self._read(wall_seconds)

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # an unflushed request to the dead
                continue

    def _read(self, wall_seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        deadline, reply = time.monotonic() + wall_seconds, b""
        while not reply.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise ChildSilent(
                    f"the {self._program} process gave no answer in {wall_seconds:g} s"
                )
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise self._death()
            reply += part
        decoded: dict[str, Any] = msgspec.json.decode(reply)
        return decoded

    def _death(self) -> ChildDied:
        try:
            return ChildDied(self._program, self._process.wait(timeout=5))
        except subprocess.TimeoutExpired:
            return ChildDied(self._program, None)


class Sandbox:
    """Lends idle children out by (program, settings)."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="grader-child")
        self._idle: list[tuple[tuple[str, bytes], Child]] = []
        self._lock = threading.Lock()

    async def ask(
        self, program: str, settings: dict[str, Any], request: dict[str, Any], wall_seconds: float
    ) -> dict[str, Any]:
        """The reply of a child of that program, started with these settings."""
        key = (program, msgspec.json.encode(settings, order="sorted"))
        body = json.dumps(request, default=str).encode()  # ASCII: half a surrogate pair passes too
        work = functools.partial(self._ask, key, body, wall_seconds)
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _ask(self, key: tuple[str, bytes], request: bytes, wall_seconds: float) -> dict[str, Any]:
        child = self._take(key)
        if child is not None:
            try:
                return self._asked(key, child, request, wall_seconds)
            except ChildDied as error:
                if error.signal_number in LIMIT_SIGNALS:
                    raise
                # it may have died while idle: a fresh one is asked once
        return self._asked(key, Child(*key), request, wall_seconds)

    def _asked(
        self, key: tuple[str, bytes], child: Child, request: bytes, wall_seconds: float
    ) -> dict[str, Any]:
        try:
            reply = child.ask(request, wall_seconds)
        except BaseException:
            child.kill()
            raise
        self._give(key, child)
        return reply

    def _take(self, key: tuple[str, bytes]) -> Child | None:
        with self._lock:
            for index in range(len(self._idle) - 1, -1, -1):
                if self._idle[index][0] == key:
                    return self._idle.pop(index)[1]
        return None

    def _give(self, key: tuple[str, bytes], child: Child) -> None:
        with self._lock:
            self._idle.append((key, child))
            surplus = self._idle.pop(0)[1] if len(self._idle) > MAX_IDLE else None
        if surplus is not None:
            surplus.kill()

    def close(self) -> None:
        """End every idle child."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, child in idle:
            child.kill()


@functools.cache
def _sandbox(process_id: int) -> Sandbox:
    return Sandbox()


def sandbox() -> Sandbox:
    """This process's children."""
    return _sandbox(os.getpid())


@functools.cache
def bubblewrap() -> str | None:
    """Path of bwrap, None where it is not installed."""
    return shutil.which("bwrap")


def _confinement(program: str) -> list[str]:
    """A python grader sees a read-only disk, no network and no other process."""
    if program != "python" or bubblewrap() is None:
        return []
    return [str(bubblewrap()), "--unshare-all", "--die-with-parent", "--new-session",
            "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]  # fmt: skip
