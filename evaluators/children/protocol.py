"""One JSON object per line, in on stdin, out on stdout; limits are taken before any of it runs.

The first line holds the settings. Every later one holds a `key`, which its reply repeats: a reply
without it answers nothing.
"""

import functools
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

Reply = Mapping[str, Any]
Note = Callable[[str], None]
"""Tells the parent what is being done, so that it knows whom an end without an answer blames."""
Handler = Callable[[dict[str, Any], Note], Reply]
Forbid = Callable[[], None]
"""Puts the calling process under the filter of system calls; does nothing without isolation."""


def serve(prepare: Callable[[dict[str, Any], Forbid], Handler]) -> None:
    """Answer requests until stdin ends. A prepare that raises is told to the parent.

    The default action of SIGPROF and SIGVTALRM ends the process: `cpu_limit` is kept by the
    kernel, whatever runs.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # what the graded code prints is no reply
    try:
        settings = json.loads(requests.readline())
        starts = settings.get("starts_programs", False)
        if not starts:  # else each program is limited when it is started
            _limit(settings["address_space_mb"])
        handler = prepare(settings, _filter(settings["isolated"], starts))
    except Exception as error:
        _write(replies, {"failed": f"{type(error).__name__}: {error}"})
        return
    _write(replies, {"ready": True})
    for line in requests:
        request = json.loads(line)
        key = request.pop("key")
        reply = handler(request, functools.partial(_note, replies, key))
        _write(replies, {**reply, "key": key})


def _note(replies: Any, key: str, phase: str) -> None:
    _write(replies, {"phase": phase, "key": key})


def cpu_limit(seconds: float, kind: int = signal.ITIMER_PROF) -> None:
    """End this process after so many seconds of CPU time from now; 0 lifts it.

    ITIMER_PROF ends it with SIGPROF, ITIMER_VIRTUAL with SIGVTALRM: the parent sees which.
    """
    signal.setitimer(kind, seconds)


def _filter(isolated: bool, starts_programs: bool) -> Forbid:
    if not isolated:
        return lambda: None
    from evaluators.children import seccomp

    return seccomp.prepare(starts_programs=starts_programs)


def _limit(address_space_mb: int) -> None:
    size = address_space_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _write(replies: Any, reply: Reply) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()
