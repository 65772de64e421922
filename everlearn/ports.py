"""Who listens on a port of this machine: what people need to know when theirs is taken."""

import socket
from urllib.parse import urlsplit

import psutil

from everlearn.errors import ConfigError

NOBODY_SAYS = "another program"


def taken(url: str) -> bool:
    """Whether something accepts connections at the host and port of `url`."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=1.0).close()
    except OSError:
        return False
    return True


def must_be_free(host: str, port: int, setting: str) -> None:
    """ConfigError with who listens there, before anything slow is done; 0 is any free port."""
    url = f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
    if port and taken(url):
        raise ConfigError(f"{setting} = {port}: taken by {owner(url)}: set another, or stop it")


def listeners(port: int) -> set[int]:
    """Process ids that listen on `port`, as far as this user may see them."""
    try:
        found = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return set()
    return {
        each.pid
        for each in found
        if each.pid is not None
        and each.status == psutil.CONN_LISTEN
        and each.laddr
        and each.laddr.port == port
    }


def owner(url: str) -> str:
    """Who listens at `url`, in words."""
    pids = sorted(listeners(urlsplit(url).port or 80))
    if not pids:
        return NOBODY_SAYS
    try:
        process = psutil.Process(pids[0])
        return f"process {pids[0]} ({' '.join(process.cmdline())[:80] or process.name()})"
    except psutil.Error:
        return f"process {pids[0]}"


def is_ours(url: str, pid: int) -> bool:
    """Whether `pid` or a child of it listens at `url`; True where the system does not tell."""
    found = listeners(urlsplit(url).port or 80)
    if not found:
        return True
    try:
        family = {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    except psutil.Error:
        return False
    return bool(found & family)
