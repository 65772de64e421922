"""Persistent child processes that run untrusted code, shared by every grader of this process.

- Isolated by bubblewrap and a filter of system calls (`isolation`), or refused with what to
  install; without either only where the config says `sandbox: {isolation: none}`.
- Wall time, size of request and reply and calls per child are kept here, memory, CPU time, files
  and processes by the kernel. A child belongs to one program and one set of settings.
- A reply answers the request whose key it repeats; any other ends the child.
- A child that dies or does not answer is replaced; its death is reported, not hidden.
- Children end with this process: their stdin ends. At most `MAX_IDLE` wait for work.
- Callable from any thread and any event loop; never shared with a forked process.
"""

import asyncio
import functools
import json
import os
import secrets
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec

from evaluators.isolation import isolated, plain, problem
from everlearn.config import Sandbox as Rules
from everlearn.errors import ConfigError, GraderError

MAX_IDLE = 8
WORKERS = max(2, min(8, os.cpu_count() or 2))
START_SECONDS = 60.0
CALLS_PER_CHILD = 1000
MAX_REQUEST_BYTES = 16 * 2**20
MAX_REPLY_BYTES = 1 << 18
SQL_PACKAGES = ("duckdb", "_duckdb", "pytz")
LIMIT_SIGNALS = (signal.SIGPROF, signal.SIGVTALRM)
"""What ends a child that used more CPU time than it was given."""
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
"""What ends a child by its own doing."""


class ChildDied(GraderError):
    """The child ended without an answer; `signal_number` tells which limit it met, if any."""

    def __init__(self, program: str, returncode: int | None, phase: str | None) -> None:
        super().__init__(f"the {program} process ended with status {returncode}")
        # bubblewrap reports the signal of its child as 128 + number
        code = returncode or 0
        self.signal_number = -code if code < 0 else max(0, code - 128)
        self.phase = phase
        """What it was at, if it said so."""


class ChildSilent(GraderError):
    """No answer within the wall time; the child was ended."""

    def __init__(self, program: str, wall_seconds: float, phase: str | None) -> None:
        super().__init__(f"the {program} process gave no answer in {wall_seconds:g} s")
        self.phase = phase


@dataclass(frozen=True)
class Spec:
    """What a child is started as; equal specs share children."""

    program: str
    settings: Mapping[str, Any]
    """What the program is told at its start, `address_space_mb` among it."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Read-only files it sees: paths of this machine by the path inside."""
    rules: Rules = field(default_factory=Rules)
    scratch_mb: int = 0
    """It may start the programs of /usr and write so much into /tmp, which ends with it."""
    calls: int = CALLS_PER_CHILD
    """After so many it is replaced."""

    @functools.cached_property
    def key(self) -> bytes:
        rules = self.rules.model_dump(mode="json")
        content = [self.program, self.settings, self.files, rules, self.scratch_mb]
        return msgspec.json.encode(content, order="sorted")

    @property
    def is_isolated(self) -> bool:
        return self.rules.isolation != "none"

    def command(self) -> list[str]:
        """The command line; GraderError where nothing can be isolated."""
        if not self.is_isolated:
            return plain(self.program)
        reason = problem()
        if reason is not None:
            raise GraderError(reason)
        if self.scratch_mb:
            return isolated(self.program, (), self.files, scratch_mb=self.scratch_mb)
        packages = SQL_PACKAGES if self.program == "sql" else self.rules.packages
        return isolated(self.program, packages, self.files)


def require(rules: Rules) -> None:
    """ConfigError with what to install where the isolation asked for is not to be had."""
    reason = problem() if rules.isolation != "none" else None
    if reason is not None:
        raise ConfigError(reason)


class Child:
    """One child process, asked one thing at a time."""

    def __init__(self, spec: Spec) -> None:
        """Start it and wait until it is ready; GraderError with its reason when it is not."""
        self._program = spec.program
        self._rest = b""
        self.calls = 0
        self._process = subprocess.Popen(
            spec.command(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd="/", env={}, start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + START_SECONDS
            settings = {**spec.settings, "isolated": spec.is_isolated}
            self._send(json.dumps(settings).encode() + b"\n", deadline)
            hello = self._line(deadline)
        except BaseException:
            self.kill()
            raise
        if hello is None or "failed" in hello:
            self.kill()
            reason = "no word from it" if hello is None else hello["failed"]
            raise GraderError(f"the {self._program} process could not start: {reason}")

    def ask(self, request: Mapping[str, Any], wall_seconds: float) -> dict[str, Any]:
        """The reply; ChildDied or ChildSilent, after which the child is gone."""
        self.calls += 1
        key, phase = secrets.token_hex(16), None
        # ASCII: half a surrogate pair passes too
        body = json.dumps({**request, "key": key}, default=str).encode() + b"\n"
        if len(body) > MAX_REQUEST_BYTES:
            raise GraderError(f"{len(body)} bytes to grade; {MAX_REQUEST_BYTES} are taken")
        deadline = time.monotonic() + wall_seconds
        try:
            self._send(body, deadline)
            while True:
                reply = self._line(deadline)
                if reply is None:
                    raise ChildSilent(self._program, wall_seconds, phase)
                if reply.pop("key", None) != key:
                    raise GraderError(f"the {self._program} process answered out of turn")
                if "phase" not in reply:
                    return reply
                phase = str(reply["phase"])
        except ChildDied as error:
            error.phase = phase
            raise

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

    def _send(self, body: bytes, deadline: float) -> None:
        """Write without waiting longer than the deadline for a child that does not read."""
        assert self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        os.set_blocking(descriptor, False)
        while body:
            if not _ready(descriptor, select.POLLOUT, deadline):
                return  # the answer will not come in time either
            try:
                body = body[os.write(descriptor, body[: 1 << 20]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._death() from error

    def _line(self, deadline: float) -> dict[str, Any] | None:
        """The next line; None when the time is over."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            if not _ready(descriptor, select.POLLIN, deadline):
                return None
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise self._death()
            self._rest += part
            if len(self._rest) > MAX_REPLY_BYTES:
                raise GraderError(f"the {self._program} process answered without end")
        line, self._rest = self._rest.split(b"\n", 1)
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise GraderError(f"the {self._program} process answered no JSON") from error

    def _death(self) -> ChildDied:
        try:
            return ChildDied(self._program, self._process.wait(timeout=5), None)
        except subprocess.TimeoutExpired:
            return ChildDied(self._program, None, None)


def _ready(descriptor: int, what: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, what)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


class Sandbox:
    """Lends idle children out by spec."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="grader-child")
        self._idle: list[tuple[bytes, Child]] = []
        self._lock = threading.Lock()

    async def ask(
        self, spec: Spec, request: Mapping[str, Any], wall_seconds: float
    ) -> dict[str, Any]:
        """The reply of a child of that spec."""
        work = functools.partial(self._ask, spec, request, wall_seconds)
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _ask(self, spec: Spec, request: Mapping[str, Any], wall_seconds: float) -> dict[str, Any]:
        child = self._take(spec.key)
        if child is not None:
            try:
                return self._asked(spec, child, request, wall_seconds)
            except ChildDied as error:
                if error.signal_number in (*LIMIT_SIGNALS, *CRASHES):
                    raise
                # it may have died while idle: a fresh one is asked once
        return self._asked(spec, Child(spec), request, wall_seconds)

    def _asked(
        self, spec: Spec, child: Child, request: Mapping[str, Any], wall_seconds: float
    ) -> dict[str, Any]:
        try:
            reply = child.ask(request, wall_seconds)
        except BaseException:
            child.kill()
            raise
        if child.calls < spec.calls:
            self._give(spec.key, child)
        else:
            child.kill()
        return reply

    def _take(self, key: bytes) -> Child | None:
        with self._lock:
            for index in range(len(self._idle) - 1, -1, -1):
                if self._idle[index][0] == key:
                    return self._idle.pop(index)[1]
        return None

    def _give(self, key: bytes, child: Child) -> None:
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
