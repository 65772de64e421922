"""Starts the product's processes in milliseconds: forks of one that has imported everything.

Run as `python -m tests.crash.nursery CONFIG LOG_FOLDER`; a line with a verb on its input starts
`everlearn VERB`, its process id is the answer. A child that is killed leaves nothing to wait for.
"""

import ctypes
import gc
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Serve verbs until the input ends."""
    config, logs = sys.argv[1], Path(sys.argv[2])
    _warm()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        verb = line.strip()
        pid = os.fork()
        if pid == 0:
            _child(verb, config, logs)
        print(pid, flush=True)


def _warm() -> None:
    import warnings

    # kafka-python reads its schemas by importlib's old name.
    warnings.simplefilter("ignore")
    import pandas  # noqa: F401 - duckdb asks for it at the first Arrow table
    import prometheus_client  # noqa: F401

    import collector.kafka_backlog
    import collector.process
    import collector.ship  # noqa: F401
    import gateway.worker  # noqa: F401


def _child(verb: str, config: str, logs: Path) -> None:
    from everlearn.cli import main

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(logs / f"{verb}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.argv = ["everlearn", verb, "--config", config]
    try:
        main()
    finally:
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
