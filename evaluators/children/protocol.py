"""One JSON object per line, in on stdin, out on stdout; limits are taken before any of it runs."""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

Reply = Mapping[str, Any]
Handler = Callable[[dict[str, Any]], Reply]


def serve(prepare: Callable[[dict[str, Any]], Handler], address_space_mb: int) -> None:
    """Answer requests until stdin ends. A prepare that raises is told to the parent.

    The default action of SIGPROF and SIGVTALRM ends the process: `cpu_limit` is kept by the
    kernel, whatever runs.
    """
    settings = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # what the graded code prints is no reply
    _limit(address_space_mb)
    try:
        handler = prepare(settings)
    except Exception as error:
        _write(replies, {"failed": f"{type(error).__name__}: {error}"})
        return
    _write(replies, {"ready": True})
    for line in sys.stdin:
        _write(replies, handler(json.loads(line)))


def cpu_limit(seconds: float, kind: int = signal.ITIMER_PROF) -> None:
    """End this process after so many seconds of CPU time from now; 0 lifts it.

    ITIMER_PROF ends it with SIGPROF, ITIMER_VIRTUAL with SIGVTALRM: the parent sees which.
    """
    signal.setitimer(kind, seconds)


def _limit(address_space_mb: int) -> None:
    size = address_space_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _write(replies: Any, reply: Reply) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()
