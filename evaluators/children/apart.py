"""Runs a function in a process of its own: forked, filtered, limited, ended.

- What it does to itself - names replaced, threads left, replies written - ends with it. It holds
  no way to the parent's pipes, only one of its own, which is read to a limit.
- It may start no process and is ended when its wall time is over.
"""

import json
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from evaluators.children.protocol import Forbid, Reply, cpu_limit

MAX_REPLY_BYTES = 1 << 16
CPU_SIGNALS = (signal.SIGPROF, signal.SIGXCPU)


class Ended(Exception):
    """The process gave no reply; the text says how it ended."""


def run(
    work: Callable[[], Reply], forbid: Forbid, *, cpu_seconds: float, wall_seconds: float
) -> Any:
    """What `work` returns, as JSON; Ended when it does not come to that."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _work(work, forbid, theirs, cpu_seconds)
    os.close(theirs)
    try:
        reply = _read(ours, wall_seconds)
    finally:
        os.close(ours)
        os.kill(child, signal.SIGKILL)  # until it is waited for, the number is its own
        _, status = os.waitpid(child, 0)
    if reply is None:
        raise Ended(f"gave no answer in {wall_seconds:g} s")
    try:
        return json.loads(reply)
    except (ValueError, RecursionError):
        raise Ended(_how(status, len(reply), cpu_seconds)) from None


def _work(work: Callable[[], Reply], forbid: Forbid, pipe: int, cpu_seconds: float) -> None:
    """Never returns: whatever happens, the caller's code does not go on in the child."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        os.dup2(pipe, 3)
        os.closerange(4, 64)
        limit = math.ceil(cpu_seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        forbid()
        cpu_limit(cpu_seconds)
        answer = json.dumps(work()).encode()
        while answer:
            answer = answer[os.write(3, answer) :]
        os._exit(0)
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 1)
    finally:
        os._exit(1)


def _read(pipe: int, wall_seconds: float) -> bytes | None:
    """All that is written, at most one byte too many; None when the time is over."""
    deadline, reply = time.monotonic() + wall_seconds, b""
    while len(reply) <= MAX_REPLY_BYTES:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(pipe, MAX_REPLY_BYTES)
        if not part:
            break
        reply += part
    return reply if len(reply) <= MAX_REPLY_BYTES else b""


def _how(status: int, size: int, cpu_seconds: float) -> str:
    number = os.waitstatus_to_exitcode(status)
    if -number in CPU_SIGNALS:
        return f"took more than {cpu_seconds:g} s of CPU time"
    if size:
        return "gave a reply that is not JSON"
    return f"ended with status {number} and no answer of at most {MAX_REPLY_BYTES} bytes"
