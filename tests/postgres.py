"""A real Postgres server for tests, from Debian's binaries; started once per session."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.ports import free_ports


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

    def __init__(self, folder: Path, user: str | None) -> None:
        (self.port,) = free_ports(1)
        self._folder, self._user = folder, user
        self._databases = 0

    def start(self) -> None:
        """Start, and return once it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off"
        options += " -c unix_socket_directories="
        self._control("-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop at once, as a crash would; what was committed is there at the next start."""
        self._control("-m", "immediate", "stop")

    def _control(self, *arguments: str) -> None:
        command = [str(binaries() / "pg_ctl"), "-D", str(self._folder / "data"), "-w", *arguments]
        subprocess.run(
            command, check=True, capture_output=True, user=self._user, cwd="/", timeout=60
        )

    def demand(self, password: str) -> None:
        """Let nobody in without that password from now on."""
        with psycopg.connect(
            f"host=127.0.0.1 port={self.port} user=everlearn dbname=postgres"
        ) as c:
            c.execute(psycopg.sql.SQL("ALTER ROLE everlearn PASSWORD {}").format(password))
        access = self._folder / "data" / "pg_hba.conf"
        access.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        self.stop()
        self.start()

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
    server = Postgres(folder, user)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def _unprivileged() -> str | None:
    """Postgres refuses to run as root: who runs it then."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
