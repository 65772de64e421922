"""A real Postgres server for tests, from Debian's binaries; started once per session."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kafka.broker import free_ports


def binaries() -> Path:
    """The folder of initdb and postgres, the newest version installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    if path is None:
        raise RuntimeError("initdb is missing: apt-get install postgresql (tests)")
    return Path(path).resolve().parent


class Postgres:
    """A running server."""

    def __init__(self, port: int, user: str | None) -> None:
        self.port, self._user = port, user
        self._databases = 0

    def database(self) -> str:
        """A new database's name."""
        self._databases += 1
        name = f"test{self._databases}"
        command = [str(binaries() / "createdb"), "-h", "127.0.0.1", "-p", str(self.port)]
        subprocess.run([*command, "-U", "everlearn", name], check=True, timeout=30)
        return name

    def catalog(self, database: str) -> str:
        """As `lake.catalog` names it."""
        return f"postgres:host=127.0.0.1 port={self.port} user=everlearn dbname={database}"

    def url(self, database: str) -> str:
        """As `state.url` names it."""
        return f"postgresql+psycopg://everlearn@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server on a free port with its data under /tmp; nothing is left of it."""
    user = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="everlearn-postgres-"))
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    initdb = [str(binaries() / "initdb"), "-D", str(data), "-U", "everlearn", "-A", "trust", "-N"]
    subprocess.run(initdb, check=True, capture_output=True, user=user, cwd="/", timeout=60)
    (port,) = free_ports(1)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    control = [str(binaries() / "pg_ctl"), "-D", str(data), "-w"]
    start = [*control, "-l", str(folder / "log"), "-o", options, "start"]
    subprocess.run(start, check=True, capture_output=True, user=user, cwd="/", timeout=60)
    try:
        yield Postgres(port, user)
    finally:
        stop = [*control, "-m", "immediate", "stop"]
        subprocess.run(stop, check=True, capture_output=True, user=user, cwd="/", timeout=60)
        shutil.rmtree(folder)


def _unprivileged() -> str | None:
    """Postgres refuses to run as root: who runs it then."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
