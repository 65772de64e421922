"""A real Apache Kafka broker (KRaft, one node) without Docker: its jars come from Maven once."""

import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everlearn import broker as kafka
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
LIBS = ROOT / ".cache" / "kafka" / "libs"
START_SECONDS = 60.0


class Broker:
    """One broker on a port of its own; it can be killed and started again on the same data."""

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        kafka.install(LIBS)
        self._folder = folder
        self._port, controller = free_ports(2)
        self.address = f"127.0.0.1:{self._port}"
        self._properties = folder / "server.properties"
        folder.mkdir(parents=True, exist_ok=True)
        base = [*kafka.settings(folder, self._port, controller), "log.cleaner.enable=false"]
        lines = [line.replace("{port}", str(self._port)) for line in settings]
        self._properties.write_text("\n".join([*base, *lines]) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self._java("kafka.tools.StorageTool", "format", "-t", kafka.CLUSTER_ID, "-c")

    def bus(self, partitions: int) -> dict[str, Any]:
        """The `bus` section for a topic and a group of their own."""
        name = uuid.uuid4().hex[:8]
        return {
            "kind": "kafka",
            "bootstrap_servers": [self.address],
            "topic": f"events-{name}",
            "group": f"group-{name}",
            "partitions": partitions,
        }

    def start(self) -> None:
        """Start, and return once it answers."""
        with (self._folder / "broker.log").open("ab") as log:
            command = self._command("kafka.Kafka", str(self._properties))
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not answers(self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self._folder / "broker.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"Kafka did not start:\n{tail}")
            time.sleep(0.1)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def _java(self, name: str, *arguments: str) -> None:
        command = [*self._command(name, *arguments), str(self._properties)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def _command(self, name: str, *arguments: str) -> tuple[str, ...]:
        return kafka.java(LIBS, name, *arguments)


def answers(port: int) -> bool:
    """Whether somebody listens on a port here."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def temporary_broker() -> Broker:
    """A started broker on a folder under /tmp; the caller kills it and removes the folder."""
    broker = Broker(Path(tempfile.mkdtemp(prefix="everlearn-kafka-")))
    broker.start()
    return broker
