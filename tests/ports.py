"""Ports for the servers that tests start."""

import os
import random
import socket

SIDE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
"""Which of the processes that run tests side by side this is: none is given another's port."""
FIRST, LAST = 12_000 + SIDE * 4_500, 16_500 + SIDE * 4_500
"""Below the ports that the system gives to connections: none can take one before its server does.
Above those that everlearn's own servers have by default."""
_given: set[int] = set()


def find_free_port() -> int:
    """A port that nobody listens on, named once in this process."""
    for _ in range(1000):
        port = random.SystemRandom().randrange(FIRST, LAST)
        if port not in _given and _bindable(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port between {FIRST} and {LAST}")


def free_ports(count: int) -> list[int]:
    """That many, all different."""
    return [find_free_port() for _ in range(count)]


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
